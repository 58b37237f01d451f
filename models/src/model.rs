//! A model file opened: specification, weights in the map, tokeniser.
