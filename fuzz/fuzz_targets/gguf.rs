//! Any bytes as a GGUF file. Seeds: small real files, such as vocabularies.
#![no_main]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    common::open(data);
});
