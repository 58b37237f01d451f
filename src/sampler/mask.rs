//! Which tokens of the vocabulary may come next at all.

/// Allowed tokens, one bit each.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a>(&'a [u32]);

impl<'a> Mask<'a> {
    /// Token `id` is allowed when bit `id % 32` of word `id / 32` is set; ids beyond the words are not.
    pub fn new(words: &'a [u32]) -> Self {
        Self(words)
    }

    /// Whether a token is allowed.
    pub fn allows(&self, id: u32) -> bool {
        self.0.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }
}
