//! The `kpf` program; what it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kpf::commands::main(std::env::args_os())
}
