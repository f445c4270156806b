//! `kpf gateway replay`: plays a recording.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::super::signal::Signals;
use super::audit::open;
use crate::cli::ReplayArgs;
use crate::ssh::audit::recording::replay::{Replay, What};
use crate::ssh::audit::recording::screen::{Filter, RESET};
use crate::ui::Ui;

pub(in super::super) async fn run(args: &ReplayArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let terminal = io::stdout().is_terminal();
    let mut signals = Signals::new()?;
    let played = tokio::select! {
        played = play(args, terminal, ui) => played.map(|()| ExitCode::SUCCESS),
        code = signals.wait() => Ok(code),
    };
    if terminal {
        let _ = ui.document(format!("{RESET}\r\n").as_bytes()); // a terminal that is gone needs none
    }
    played
}

async fn play(args: &ReplayArgs, terminal: bool, ui: &Ui) -> anyhow::Result<()> {
    let shown = || format!("cannot play {}", args.file.display());
    let reader = open(&args.file).with_context(shown)?;
    let mut filter = Filter::default();
    for event in Replay::new(reader).with_context(shown)? {
        let event = event.with_context(shown)?;
        if terminal {
            let pause = event.after.div_f64(args.speed);
            tokio::time::sleep(pause.min(Duration::from_secs(args.idle.into()))).await;
        }
        let What::Shown(text) = event.what else {
            continue;
        };
        let mut filtered = String::new();
        let text = match args.raw {
            true => &text,
            false => {
                filter.pass(&text, &mut filtered);
                &filtered
            }
        };
        ui.document(text.as_bytes())
            .context("cannot write to stdout")?;
    }
    Ok(())
}
