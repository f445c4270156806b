//! The `kpf` binary.
fn main() {}
