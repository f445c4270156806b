//! `completions/` and `man/` are what the command line says they are. `SNAPSHOTS=overwrite cargo test` rewrites them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::{CommandFactory as _, ValueEnum as _};
use clap_complete::Generator as _;
use clap_complete::Shell;
use kpf::cli::{self, Cli};

#[test]
fn completions() {
    let scripts = [Shell::Bash, Shell::Zsh, Shell::Fish]
        .map(|shell| (shell.file_name("kpf"), cli::completion_script(shell)));
    equal("completions", BTreeMap::from(scripts));
}

#[test]
fn man_pages() {
    let pages = tempfile::tempdir().unwrap();
    // clap_mangen would leave out what such a flag is for
    let command = Cli::command().mut_args(|arg| arg.hide_short_help(false));
    clap_mangen::generate_to(command, pages.path()).unwrap();
    equal("man", files(pages.path()));
}

/// `kpf completions` takes every shell that clap knows, so none may make the generator panic.
#[test]
fn every_shell_has_a_script() {
    for shell in Shell::value_variants() {
        assert!(!cli::completion_script(*shell).is_empty(), "{shell}");
    }
}

fn equal(folder: &str, generated: BTreeMap<String, Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    if std::env::var_os("SNAPSHOTS").is_some_and(|value| value == "overwrite") {
        let _ = fs::remove_dir_all(&folder); // it may not be there yet
        fs::create_dir(&folder).unwrap();
        for (name, content) in &generated {
            fs::write(folder.join(name), content).unwrap();
        }
    }
    let committed = files(&folder);
    assert!(
        committed.keys().eq(generated.keys()),
        "{} has {:?} but the command line makes {:?}",
        folder.display(),
        committed.keys(),
        generated.keys()
    );
    for (name, content) in generated {
        assert!(
            committed[&name] == content,
            "{}/{name} is out of date: run `SNAPSHOTS=overwrite cargo test generated`",
            folder.display()
        );
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}
