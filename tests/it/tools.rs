//! Programs that a test needs and a machine may lack.

use std::path::PathBuf;

use crate::playground::sshd;

/// Says that a test did not run. With `KPF_TEST_NO_SKIP=1`, as in CI, that is a failure.
///
/// The line begins with `SKIPPED:`, so that a runner can count it.
#[expect(clippy::print_stderr, reason = "the test runner reads it")]
pub(crate) fn skip(why: &str) {
    let forbidden = std::env::var_os("KPF_TEST_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!forbidden, "SKIPPED: {why}, and KPF_TEST_NO_SKIP is set");
    eprintln!("SKIPPED: {why}");
}

/// A program on PATH, or a skip:
///
/// ```ignore
/// let Some(ssh) = tools::find("ssh") else { return };
/// ```
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let found = sshd::find(program);
    if found.is_none() {
        skip(&format!("`{program}` is not installed"));
    }
    found
}

/// All kubectls to test with: the one on PATH and the one that `KPF_TEST_KUBECTL` names.
pub(crate) fn kubectls() -> Vec<PathBuf> {
    let named = std::env::var_os("KPF_TEST_KUBECTL").map(PathBuf::from);
    let all: Vec<_> = named.into_iter().chain(sshd::find("kubectl")).collect();
    if all.is_empty() {
        skip("`kubectl` is not installed");
    }
    all
}
