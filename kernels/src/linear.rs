//! Matrix products of quantised or float weights with activations.
