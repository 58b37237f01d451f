//! A model and the team of threads that computes it; shared by sessions.
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapwing_kernels::isa::Isa;
use lapwing_kernels::team::{Team, TeamError};
use lapwing_models::gguf::OpenOptions;
use lapwing_models::model::Model;
use lapwing_models::{Class, Error, Result, os};

/// How to load and compute a model.
#[derive(Clone, Debug, Default)]
pub struct EngineOptions {
    /// Threads; `None` is what this process may really use.
    pub threads: Option<usize>,
    /// Instruction set; `None` is the best one of this machine.
    pub isa: Option<Isa>,
    /// Read the weights into memory instead of using them in the mapped file.
    pub no_mmap: bool,
}

/// A model ready to compute. Sessions share it; each of their answers has the team for itself, by turns.
pub struct Engine {
    model: Model,
    team: Team,
    load: Duration,
}

impl Engine {
    /// Opens the model at `path` and starts the threads.
    ///
    /// # Errors
    /// What [`Model::open`] finds wrong with the file; a usage error when the machine lacks the instruction set.
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Arc<Self>> {
        let start = Instant::now();
        let model = Model::open(path, &OpenOptions { mmap: !options.no_mmap, ..OpenOptions::default() })?;
        let mut engine = Self::new(model, options)?;
        engine.load = start.elapsed();
        Ok(Arc::new(engine))
    }

    /// Starts the threads for a model already open.
    ///
    /// # Errors
    /// A usage error when the machine lacks the instruction set.
    pub fn new(model: Model, options: &EngineOptions) -> Result<Self> {
        let threads = options.threads.unwrap_or_else(os::default_threads);
        let isa = options.isa.unwrap_or_else(Isa::best);
        let team = team(threads, isa)?;
        Ok(Self { model, team, load: Duration::ZERO })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The threads.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Time that [`Engine::open`] took.
    pub fn load_time(&self) -> Duration {
        self.load
    }
}

/// A team of `threads` threads that compute with `isa`.
///
/// # Errors
/// A usage error when the machine lacks the instruction set; another when the threads cannot be started.
pub fn team(threads: usize, isa: Isa) -> Result<Team> {
    Team::new(threads, isa).map_err(|error| match error {
        TeamError::Unavailable(_) => {
            let have: Vec<_> = Isa::available().map(|isa| isa.to_string()).collect();
            Error::new(Class::Usage, error.to_string())
                .advice(format!("this machine has {}", have.join(", ")))
        }
        other => Error::new(Class::Other, other.to_string()),
    })
}

/// Reads the name of an instruction set.
///
/// # Errors
/// A usage error on an unknown name.
pub fn parse_isa(name: &str) -> Result<Isa> {
    name.parse().map_err(|_| {
        let known: Vec<_> = Isa::ALL.iter().map(ToString::to_string).collect();
        Error::new(Class::Usage, "unknown instruction set").expected_got(known.join(", "), name)
    })
}
