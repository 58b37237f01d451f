//! Recipes of bad and of odd but valid GGUF files: code, not blobs. Each bad file says what its error must name.
mod build;
mod recipes;

#[allow(unused_imports)] // Each test binary uses its own part.
pub use build::{File, Key, Tensor, V, truncations};
pub use recipes::{accepts, rejects};

/// A file that must be refused.
pub struct Reject {
    /// Names the recipe.
    pub name: String,
    pub bytes: Vec<u8>,
    /// Words that the error must contain: the place, what was expected or got.
    pub says: Vec<String>,
}
