//! The one forward pass, which reads a decoder specification.
