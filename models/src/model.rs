//! A model file opened: specification, weights in the map, tokeniser.
use std::path::Path;

use lapwing_kernels::matrix::Matrix;
use lapwing_kernels::rope::{RopeParams, Yarn};

pub use crate::gguf::OpenOptions;

use crate::arch::{self, DecoderSpec, Keys, RopeDivisors, RopeScaling, RopeSpec};
use crate::gguf::Gguf;
use crate::linear::Linear;
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Weights};
use crate::{Error, Result};

/// A model ready to compute with. Weights stay where they lie in the file.
pub struct Model {
    gguf: Gguf,
    spec: DecoderSpec,
    weights: Weights,
    tokenizer: Tokenizer,
    ropes: Vec<Rope>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.gguf.path())
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

/// One rotary embedding with its divisors read: for contexts as trained, and for longer ones.
#[derive(Debug)]
pub(crate) struct Rope {
    pub(crate) short: RopeParams,
    /// Parameters for sessions whose context is larger than this many tokens, where they differ.
    pub(crate) long: Option<(usize, RopeParams)>,
}

impl Model {
    /// Opens a model file, or all parts of a split one, and checks everything that can be checked without reading
    /// the weights.
    ///
    /// # Errors
    /// What [`Gguf::open`], the architecture, the tokeniser or the search for weights finds wrong, naming the file
    /// and the key or tensor.
    pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        Self::from_gguf(Gguf::open(path, options)?)
    }

    /// Makes a model of an open file; see [`open`](Self::open).
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn from_gguf(gguf: Gguf) -> Result<Self> {
        let in_file = |e: Error| e.in_file(gguf.path());
        let mut spec = arch::describe(&gguf).map_err(in_file)?;
        spec.dense().map_err(in_file)?;
        spec.vocab = weights::vocab(&gguf)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        if tokenizer.n_vocab() != spec.vocab {
            return Err(gguf.tensor_error(
                "token_embd.weight",
                "the embedding and the vocabulary differ in size",
                format!("{} rows, one per token", tokenizer.n_vocab()),
                spec.vocab,
            ));
        }
        let weights = Weights::find(&gguf, &spec)?;
        let ropes = spec.ropes.iter().map(|rope| Rope::new(&gguf, rope)).collect::<Result<_>>()?;
        Ok(Self { gguf, spec, weights, tokenizer, ropes })
    }

    /// What the decoder computes.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Text to tokens and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The weights, by their part in the computation.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The chat template that the file carries, in Jinja, if any.
    ///
    /// # Errors
    /// The key is not a string.
    pub fn chat_template_source(&self) -> Result<Option<&str>> {
        self.gguf.opt_str("tokenizer.chat_template")
    }

    /// The weights of a matrix of this model.
    pub fn matrix<'a>(&'a self, linear: &'a Linear) -> Matrix<'a> {
        linear.matrix(&self.gguf)
    }

    pub(crate) fn ropes(&self) -> &[Rope] {
        &self.ropes
    }
}

impl Rope {
    fn new(gguf: &Gguf, spec: &RopeSpec) -> Result<Self> {
        let divisors = |name| weights::rope_divisors(gguf, name, spec.dim / 2);
        let (short, long) = match spec.divisors {
            RopeDivisors::None => (None, None),
            RopeDivisors::Optional => (divisors("rope_freqs.weight")?, None),
            RopeDivisors::ByContext { original_context } => {
                let long = divisors("rope_factors_long.weight")?;
                (divisors("rope_factors_short.weight")?, long.map(|long| (original_context, long)))
            }
        };
        let params = |divisors| rope_params(spec, divisors);
        Ok(Self { short: params(short), long: long.map(|(context, long)| (context, params(Some(long)))) })
    }
}

impl Rope {
    /// The parameters for a session with room for `context` tokens, and whether they are those for longer ones.
    pub(crate) fn params(&self, context: usize) -> (bool, &RopeParams) {
        match &self.long {
            Some((original, params)) if context > *original => (true, params),
            _ => (false, &self.short),
        }
    }
}

/// A rotary embedding as the kernels take it.
fn rope_params(spec: &RopeSpec, divisors: Option<Vec<f32>>) -> RopeParams {
    let mut params = RopeParams::new(spec.dim, spec.base);
    params.attn_factor = spec.amplitude;
    params.factors = divisors;
    match spec.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => params.freq_scale = 1.0 / factor,
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, log_multiplier } => {
            params.freq_scale = 1.0 / factor;
            params.yarn = Some(Yarn {
                ext_factor: 1.0,
                beta_fast,
                beta_slow,
                orig_ctx: original_context,
                log_mul: log_multiplier,
            });
        }
    }
    params
}

impl Keys for Gguf {
    fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        self.opt_u64(key)
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.opt_f32(key)?.map(f64::from))
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        self.opt_str(key)
    }

    fn unsigned_list(&self, key: &str) -> Result<Option<Vec<u64>>> {
        if let Ok(list) = self.opt_bools(key) {
            return Ok(list.map(|list| list.iter().map(|&b| u64::from(b)).collect()));
        }
        let Some(list) = self.opt_ints(key)? else { return Ok(None) };
        let unsigned: Option<Vec<u64>> = list.into_iter().map(|v| u64::try_from(v).ok()).collect();
        match unsigned {
            Some(list) => Ok(Some(list)),
            None => Err(self.key_error(
                key,
                "a key has an impossible value",
                "numbers not below 0",
                "a negative one",
            )),
        }
    }
}
