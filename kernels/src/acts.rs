//! Activations, quantised to 8 bits in blocks of 32.
