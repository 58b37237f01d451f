//! Scaled dot-product attention over cache blocks.
