//! `coordinator`: the program that users run.

use std::process::ExitCode;

fn main() -> ExitCode {
    coordinator::cli::main()
}
