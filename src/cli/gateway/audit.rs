//! `kpf gateway audit` and `kpf gateway replay`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `kpf gateway audit`.
#[derive(Args)]
pub struct AuditArgs {
    /// What to do with logs.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What to do with audit logs.
#[derive(Subcommand)]
pub enum AuditCommand {
    /// Say whether audit logs are as the gateway wrote them: nothing changed, missing, added or moved
    #[command(after_long_help = VERIFY_HELP)]
    Verify(VerifyArgs),
}

/// `kpf gateway audit verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// The log; of one that was rotated all files, oldest first; `-` for stdin
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    /// The log may begin after its first event, or anew: older files are gone, or it was collected from stdout
    #[arg(long)]
    pub partial: bool,
}

/// `kpf gateway replay`.
#[derive(Args)]
pub struct ReplayArgs {
    /// The recording, an asciicast of version 2 or 3; `-` for stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Play so many times as fast
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = factor)]
    pub speed: f64,

    /// Seconds that a pause lasts at most
    #[arg(long, value_name = "SECONDS", default_value = "2")]
    pub idle: u32,

    /// All that was recorded, also what steers a terminal: it may set its title, fill its clipboard, and have it type
    #[arg(long)]
    pub raw: bool,
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(factor) if (0.01..=1000.0).contains(&factor) => Ok(factor),
        _ => Err("write a number from 0.01 to 1000".to_owned()),
    }
}

const VERIFY_HELP: &str = "\
Prints each thing that is wrong with its file and line, and for each gateway the last event's number and hash. The chain
has no key: who can write the file can cut lines off its end, or make a new chain. Keep the last hash elsewhere now and
then, or let the events go to a second sink.

Exit codes: 0 as it was written, else 1.";

pub(super) const REPLAY_HELP: &str = "\
Shows text, colours and movement. What else a recorded program has sent is left out unless --raw says otherwise. Pauses
are kept only on a terminal.";
