//! `kpf gateway audit verify`: whether a log is as it was written.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::cli::{AuditArgs, AuditCommand, VerifyArgs};
use crate::ssh::audit::verify::{Options, Report, Verifier};
use crate::ui::Ui;
use crate::untrusted::printable;

/// Characters of a gateway's name that are shown.
const NAME: usize = 100;

pub(in super::super) fn run(args: &AuditArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let AuditCommand::Verify(args) = &args.command;
    verify(args, ui)
}

fn verify(args: &VerifyArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let mut verifier = Verifier::new(Options {
        partial: args.partial,
    });
    for file in &args.files {
        let read = open(file).and_then(|reader| verifier.read(reader));
        read.with_context(|| format!("cannot read {}", file.display()))?;
    }
    let report = verifier.finish();
    if report.lines == 0 {
        bail!("there are no events");
    }
    ui.document(text(&args.files, &report).as_bytes())
        .context("cannot write to stdout")?;
    match report.wrong {
        0 => Ok(ExitCode::SUCCESS),
        1 => bail!("the log is not as it was written: one thing is wrong"),
        wrong => bail!("the log is not as it was written: {wrong} things are wrong"),
    }
}

/// A file, or stdin for `-`.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    Ok(match path == Path::new("-") {
        true => Box::new(BufReader::new(io::stdin())),
        false => Box::new(BufReader::new(File::open(path)?)),
    })
}

fn text(files: &[impl AsRef<Path>], report: &Report) -> String {
    let mut text = String::new();
    // A String takes everything.
    for (at, finding) in &report.findings {
        let file = files.get(at.file).map(|file| file.as_ref().display());
        let file = file.map(|file| file.to_string()).unwrap_or_default();
        let _ = writeln!(text, "{file}:{}: {finding}", at.line);
    }
    let unlisted = report.wrong - report.findings.len() as u64;
    if unlisted > 0 {
        let _ = writeln!(text, "and {unlisted} more");
    }
    if report.torn > 0 {
        let _ = writeln!(
            text,
            "{} events were cut off when a process was killed; the log goes on after them",
            report.torn
        );
    }
    for (gateway, last) in &report.last {
        let end = match last.stopped {
            true => "stopped",
            false => "runs still, or was killed",
        };
        let gateway = printable(gateway, NAME);
        let _ = writeln!(
            text,
            "{gateway}: last event {}, {}: {end}",
            last.seq, last.hash
        );
    }
    let verdict = match report.is_intact() {
        true => "as they were written",
        false => "not as they were written",
    };
    let _ = writeln!(text, "{} events, {verdict}", report.lines);
    text
}
