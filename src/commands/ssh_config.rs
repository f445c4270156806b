//! `kpf ssh-config`: ssh's configuration for pods, shown, installed and removed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{GlobalArgs, SshConfigArgs};
use crate::cluster::{Environment, Stdin};
use crate::openssh::block::{Way, block};
use crate::openssh::edit::Edit;
use crate::ui::Ui;

/// Asks no cluster, and needs none.
pub(super) fn run(args: &SshConfigArgs, global: &GlobalArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let environment = Environment::capture();
    let wanted = match args.remove {
        true => None,
        false => Some(block(&way(args, global, &environment)?)?),
    };
    if let (Some(block), false, false) = (&wanted, args.write, args.dry_run) {
        ui.document(block.as_bytes())
            .context("cannot write to stdout")?;
        return Ok(ExitCode::SUCCESS);
    }
    let file = match &args.file {
        Some(file) => file.clone(),
        None => {
            let home = environment.home();
            home.context(
                "there is no home directory: set HOME, or name ssh's configuration by --file",
            )?
            .join(".ssh/config")
        }
    };
    let edit = Edit::new(&file, wanted.as_deref())?;
    let path = edit.path().display();
    if args.dry_run {
        ui.notice(match edit.is_needed() {
            true => format!("`{path}` would be:"),
            false => format!("`{path}` would stay as it is:"),
        });
        ui.document(edit.after())
            .context("cannot write to stdout")?;
    } else if !edit.is_needed() {
        ui.notice(match args.remove {
            true => format!("`{path}` has no block of kpf's"),
            false => format!("`{path}` is up to date"),
        });
    } else {
        edit.write()?;
        let kept = edit
            .backup()
            .map(|backup| format!("; what was there is in `{}`", backup.display()));
        ui.notice(format!("wrote `{path}`{}", kept.unwrap_or_default()));
        if let (false, None) = (args.remove, &args.gateway) {
            ui.notice("now: ssh USER@POD.NAMESPACE.kpf");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn way(
    args: &SshConfigArgs,
    global: &GlobalArgs,
    environment: &Environment,
) -> anyhow::Result<Way> {
    if let Some(gateway) = &args.gateway {
        return Ok(Way::Gateway(gateway.clone()));
    }
    let options = global.to_options(environment.clone(), Stdin::Free);
    let mut flags = Vec::new();
    if let Some(kubeconfig) = &options.kubeconfig {
        let absolute = std::path::absolute(kubeconfig).context("the kubeconfig's path")?;
        flags.extend(["--kubeconfig".to_owned(), text(&absolute)?]);
    }
    if let Some(context) = options.context {
        flags.extend(["--context".to_owned(), context]);
    }
    for alias in &args.alias {
        flags.extend(["--alias".to_owned(), alias.to_string()]);
    }
    let program = text(&own_path(environment)?)?;
    Ok(Way::Connect { program, flags })
}

/// This program, under the name that PATH has for it if it has one: that one stays when a package manager puts the next
/// version somewhere else.
fn own_path(environment: &Environment) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find out where kpf is")?;
    let name = own.file_name().unwrap_or_default();
    let path = environment.get("PATH").unwrap_or_default();
    let mut named = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name));
    let is_own = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == own);
    Ok(named.find(is_own).unwrap_or_else(|| own.clone()))
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = path.to_str();
    let text = text.with_context(|| {
        format!(
            "`{}` can't stand in ssh_config: it is no UTF-8",
            path.display()
        )
    })?;
    Ok(text.to_owned())
}
