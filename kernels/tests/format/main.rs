//! Every block format against the table of its layout, and its encoder against the errors of llama.cpp's.
mod decode;
mod encode;
mod rng;
