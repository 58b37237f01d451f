//! The one error type of the library rooms: what, which file, where, expected, got.
use std::path::{Path, PathBuf};

/// What kind of failure an error is; decides the exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// A request that cannot be met as asked (unknown option value, prompt longer than the context): exit 2.
    Usage,
    /// A file is not what it should be: exit 3.
    BadFile,
    /// Not enough memory or disk: exit 4.
    Memory,
    /// A file changed while in use: exit 5.
    Changed,
    /// Stopped by its user: exit 130.
    Interrupted,
    /// Any other failure: exit 1.
    Other,
}

impl Class {
    /// Exit code of a process that ends with this class of error.
    pub fn exit_code(self) -> u8 {
        match self {
            Class::Other => 1,
            Class::Usage => 2,
            Class::BadFile => 3,
            Class::Memory => 4,
            Class::Changed => 5,
            Class::Interrupted => 130,
        }
    }

    /// Stable lower-case name, as printed by `-o json`.
    pub fn name(self) -> &'static str {
        match self {
            Class::Other => "other",
            Class::Usage => "usage",
            Class::BadFile => "bad-file",
            Class::Memory => "memory",
            Class::Changed => "changed",
            Class::Interrupted => "interrupted",
        }
    }
}

/// An error that tells a person what is wrong, in which file and place, what was expected, what was
/// found and what to do next. Empty fields are left out when printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Kind of failure.
    pub class: Class,
    /// One short sentence without a final stop.
    pub message: String,
    /// The file concerned.
    pub file: Option<PathBuf>,
    /// Place in the file: a key, a tensor, a byte offset.
    pub at: String,
    /// What would have been right.
    pub expected: String,
    /// What was found.
    pub got: String,
    /// What to do next.
    pub advice: String,
}

/// Result of the library rooms.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `class` saying `message`.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            file: None,
            at: String::new(),
            expected: String::new(),
            got: String::new(),
            advice: String::new(),
        }
    }

    /// A file that is not what it should be.
    pub fn bad_file(message: impl Into<String>) -> Self {
        Self::new(Class::BadFile, message)
    }

    /// Names the file, unless one is named already.
    #[must_use]
    pub fn in_file(mut self, file: &Path) -> Self {
        self.file.get_or_insert_with(|| file.to_path_buf());
        self
    }

    /// Names the place in the file.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.at = place.into();
        self
    }

    /// States what was expected and what was found.
    #[must_use]
    pub fn expected_got(mut self, expected: impl ToString, got: impl ToString) -> Self {
        self.expected = expected.to_string();
        self.got = got.to_string();
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// Wraps an operating-system error met while doing `what` to `file`.
    pub fn io(what: &str, file: &Path, error: &std::io::Error) -> Self {
        let told = error.to_string();
        // The number of the system's message says nothing more.
        let told = told.split(" (os error ").next().unwrap_or_default();
        Self::new(Class::Other, format!("cannot {what}: {told}")).in_file(file)
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        f.write_str(&self.message)?;
        if !self.at.is_empty() {
            write!(f, " (at {})", self.at)?;
        }
        if !self.expected.is_empty() {
            write!(f, ": expected {}", self.expected)?;
        }
        if !self.got.is_empty() {
            write!(f, "{} got {}", if self.expected.is_empty() { ":" } else { "," }, self.got)?;
        }
        if !self.advice.is_empty() {
            write!(f, "; {}", self.advice)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
