//! The `coordinator` program, the only one that users run by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    coordinator::cli::main()
}
