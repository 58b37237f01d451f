//! Block formats of GGUF tensors, one file per format.
mod tensor_type;

pub use tensor_type::TensorType;
