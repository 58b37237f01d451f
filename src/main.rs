//! The `lapwing` program: parses the command line, runs one command, turns its outcome into an exit code.
#![forbid(unsafe_code)]

mod commands;

fn main() -> std::process::ExitCode {
    commands::main()
}
