//! The worker team: a leader and spinning followers that share one kernel at a time.
