//! Block formats of GGUF tensors, one file per format.
