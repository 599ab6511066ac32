//! `coordinator`: the one program that a user types.

use std::process::ExitCode;

fn main() -> ExitCode {
    coordinator::cli::main()
}
