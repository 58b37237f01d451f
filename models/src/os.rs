//! What differs between operating systems: mapping, signals, memory sizes.
