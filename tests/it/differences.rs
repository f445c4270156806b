//! Where kpf does not do as kubectl does, and why. The suites that run both side by side name one of these for each of
//! their rows in which the two differ, and the README has a table with the same words.

use std::cell::Cell;

/// One deliberate difference, as in the README.
#[derive(Debug)]
pub(crate) struct Difference {
    pub(crate) kubectl: &'static str,
    pub(crate) kpf: &'static str,
    pub(crate) why: &'static str,
}

const fn difference(kubectl: &'static str, kpf: &'static str, why: &'static str) -> Difference {
    Difference { kubectl, kpf, why }
}

pub(crate) mod forward {
    use super::{Difference, difference};

    pub(crate) const ALL: &[&Difference] = &[
        FAILURE,
        PARTIAL,
        THREE_PORTS,
        LOSS,
        WAIT,
        NOT_READY,
        HALF_CLOSE,
        KLOG,
        ADDRESS,
        TARGETS,
        PROXY,
        LINES,
    ];
    pub(crate) const FAILURE: &Difference = &difference(
        "one refused or reset connection ends everything",
        "it ends alone; the local peer sees a reset, not an empty answer",
        "one failure is one failure, and an empty answer is none",
    );
    pub(crate) const PARTIAL: &Difference = &difference(
        "a port that can't be bound is passed over if another one is free",
        "an error at start; `--allow-partial` for kubectl's way",
        "whoever asks for a port wants it",
    );
    pub(crate) const THREE_PORTS: &Difference = &difference(
        "`8080:80:90` means 8080",
        "an error",
        "kubectl takes the first number for both ports, which nobody means",
    );
    pub(crate) const ADDRESS: &Difference = &difference(
        "`ADDRESS:LOCAL:REMOTE` is an error",
        "binds one port to an address",
        "not all ports of a forward are for the same peers",
    );
    pub(crate) const TARGETS: &Difference = &difference(
        "one target, in the namespace of `-n`",
        "several, as `NAMESPACE/TYPE/NAME` and as host names too",
        "one process and one connection for what belongs together",
    );
    pub(crate) const LOSS: &Difference = &difference(
        "a lost connection, noticed at the next one, ends it",
        "it goes on with the pod that comes next, on the same local port; `--no-reconnect` for kubectl's way",
        "forwards are left running for days",
    );
    pub(crate) const WAIT: &Difference = &difference(
        "`--pod-running-timeout` waits until a pod exists",
        "waits until one is ready",
        "nobody listens in a pod that merely exists",
    );
    pub(crate) const NOT_READY: &Difference = &difference(
        "takes a pod of a service or workload that isn't ready",
        "only if none becomes ready in time, with a warning",
        "a service sends nothing to such a pod either",
    );
    pub(crate) const HALF_CLOSE: &Difference = &difference(
        "after your side's end of input, the pod's answer is cut off within a second",
        "your end is held back until the pod has been silent for 3 s",
        "runtimes take a half-close for the end",
    );
    pub(crate) const KLOG: &Difference = &difference(
        "lines of klog on stderr",
        "`error: forwarding 8080 -> 80: …`, one line, control characters escaped",
        "what a pod says is no command for a terminal",
    );
    pub(crate) const LINES: &Difference = &difference(
        "usage errors have a second line, `See 'kubectl port-forward -h' …`",
        "one line, with the usage or a hint in it",
        "logs and scripts read lines",
    );
    pub(crate) const PROXY: &Difference = &difference(
        "`--proxy-url` only in the kubeconfig",
        "also a flag",
        "the proxy often depends on where one is, the cluster doesn't",
    );
}

pub(crate) mod exec {
    use super::{Difference, difference};

    pub(crate) const ALL: &[&Difference] = &[
        NO_STATUS, LOCAL, LINES, HINTS, CLUSTER, STDIN, CR_LF, VERIFY, HANG_UP, TARGETS,
    ];
    pub(crate) const NO_STATUS: &Difference = &difference(
        "ends with 0 when the connection is closed before an exit status came",
        "an error, and code 74",
        "whether the command has succeeded nobody knows, and output may be missing",
    );
    pub(crate) const LOCAL: &Difference = &difference(
        "a stdin that can't be read and a stdout that can't be written change nothing",
        "an error, and code 74",
        "a truncated file must not look like a whole one",
    );
    pub(crate) const LINES: &Difference = &difference(
        "usage errors have a second line, `See 'kubectl exec -h' …`",
        "one line",
        "logs and scripts read lines",
    );
    pub(crate) const HINTS: &Difference = &difference(
        "`not found`, `forbidden` and `timed out` say no more",
        "the line ends in where it was looked for, and which verb the role lacks",
        "that is the next question",
    );
    pub(crate) const CLUSTER: &Difference = &difference(
        "`-f` takes a pod's containers and a workload's selector from the file",
        "the file names the object; the cluster knows the rest",
        "sidecars and ephemeral containers are in no file, and neither is whether it has ended",
    );
    pub(crate) const STDIN: &Difference = &difference(
        "`-f -` always fails",
        "reads the manifest from stdin",
        "as everywhere else in kubectl",
    );
    pub(crate) const CR_LF: &Difference = &difference(
        "`-it` with stdout in a file or pipe is silent",
        "warns that lines end in CR LF; `-q` for silence",
        "a binary file is broken by it",
    );
    pub(crate) const VERIFY: &Difference = &difference(
        "a stdin that the runtime loses on its way goes unnoticed",
        "`--verify` makes it an error, and code 74",
        "success must mean that all has arrived",
    );
    pub(crate) const HANG_UP: &Difference = &difference(
        "the command lives on when its client is gone",
        "so it does; `--hang-up` ends it",
        "no runtime ends it",
    );
    pub(crate) const TARGETS: &Difference = &difference(
        "a pod or `TYPE/NAME`, in the namespace of `-n`",
        "`NAMESPACE/TYPE/NAME` and host names too",
        "targets are written alike in all of kpf",
    );
}

/// How many rows of a suite are equal, and how many differ on purpose.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    equal: Cell<usize>,
    differing: Cell<usize>,
}

impl Tally {
    pub(crate) fn count(&self, difference: Option<&Difference>) {
        let counter = match difference {
            None => &self.equal,
            Some(_) => &self.differing,
        };
        counter.set(counter.get() + 1);
    }

    /// The line begins with `COMPARED:`, so that a runner can find it.
    #[expect(clippy::print_stderr, reason = "the test runner reads it")]
    pub(crate) fn print(&self, suite: &str) {
        let (equal, differing) = (self.equal.get(), self.differing.get());
        eprintln!("COMPARED: {suite}: {equal} rows are equal, {differing} differ on purpose");
    }
}

#[test]
fn the_readme_has_them_all() {
    let readme = include_str!("../../README.md");
    let (_, section) = readme
        .split_once("\n## Differences from kubectl, on purpose\n")
        .expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let tables: Vec<Vec<&str>> = section
        .split("\n\n")
        .map(|part| part.lines().filter(|line| line.starts_with("| ")).collect())
        .filter(|table: &Vec<_>| !table.is_empty())
        .collect();
    let titles = [
        ("| kubectl port-forward | kpf forward |", forward::ALL),
        ("| kubectl exec | kpf exec |", exec::ALL),
    ];
    assert_eq!(tables.len(), titles.len());
    for (table, (title, all)) in tables.iter().zip(titles) {
        assert_eq!(table[0], title);
        let mut expected: Vec<_> = all
            .iter()
            .map(|it| format!("| {} | {} |", it.kubectl, it.kpf))
            .collect();
        let mut rows = table[1..].to_vec();
        rows.sort_unstable();
        expected.sort_unstable();
        assert_eq!(rows, expected);
        assert!(all.iter().all(|it| !it.why.is_empty()));
    }
}
