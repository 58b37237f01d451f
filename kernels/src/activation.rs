//! Gated activations and soft caps.
