//! Architectures as data: metadata to a decoder specification.
