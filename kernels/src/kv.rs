//! Blocks of the key/value cache.
