//! Root-mean-square norms.
