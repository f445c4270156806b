//! `kpf known-hosts`: which host keys ssh is to accept of the pod that `kpf connect --ssh` has reached for it.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::cli::KnownHostsArgs;
use crate::cluster::Environment;
use crate::openssh::note::Note;
use crate::openssh::pins::{Answer, HostKey, Pins};
use crate::ui::Ui;

/// Prints them as lines of known_hosts. Asks no cluster. Any failure ends ssh's connection.
pub(super) fn run(args: &KnownHostsArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let host = &args.host;
    if host.is_empty() || host.chars().any(|c| c.is_control() || c.is_whitespace()) {
        bail!("`{host}` is no host: ssh runs this as its KnownHostsCommand");
    }
    let environment = Environment::capture();
    let Note { holder } = Note::read(&environment).context(
        "no pod is known for this ssh: its ProxyCommand must be `kpf connect --ssh`, see `kpf ssh-config`",
    )?;
    let pins = Pins::of_user(&environment).context("no place for pinned host keys")?;
    let keys = match &args.reason[..] {
        // Which kinds of keys to prefer: nothing has been offered yet.
        "ORDER" => pins.known(&holder)?,
        "HOSTNAME" | "ADDRESS" => match HostKey::from_ssh(&args.kind, &args.key)? {
            // ssh asks again for the key in it, if no authority vouches for the certificate
            None => pins.known(&holder)?,
            Some(offered) => match pins.meet(&holder, &offered)? {
                Answer::Pinned(keys) => keys,
                Answer::New(key) => {
                    ui.notice(format_args!(
                        "pinned the host key of pod {holder}, which is new"
                    ));
                    vec![key]
                }
                Answer::Other(keys) => {
                    ui.error(format_args!(
                        "pod {holder} shows another host key than the one that was pinned to it; if that is right, run: \
                         ssh-keygen -R {} -f {}",
                        holder.name(),
                        pins.path().display()
                    ));
                    keys
                }
            },
        },
        reason => bail!("`{reason}` is no reason of ssh's to ask for host keys"),
    };
    let lines: String = keys.iter().map(|key| key.line(host)).collect();
    ui.document(lines.as_bytes())
        .context("cannot write host keys to stdout")?;
    Ok(ExitCode::SUCCESS)
}
