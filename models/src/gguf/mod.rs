//! GGUF files: bounded reader, writer and the memory map.
