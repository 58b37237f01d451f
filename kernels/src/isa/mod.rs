//! Instruction sets: one token type each; holding a token proves that the machine supports it.
