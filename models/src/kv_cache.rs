//! The key/value cache of a session: reference-counted blocks of 64 positions.
