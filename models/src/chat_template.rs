//! Chat templates through minijinja, rendered to segments of known origin.
