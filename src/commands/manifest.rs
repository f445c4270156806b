//! `--filename`: files, folders and stdin that hold a manifest.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::cluster::target::Target;

/// Bytes of one manifest: etcd takes no object of more than 1.5 MiB.
const MAX: u64 = 4 << 20;

/// kubectl's, and its order.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// The one object in these files. A folder stands for the manifests in it, and `-` for stdin.
pub(super) fn target(names: &[String], stdin_is_taken: bool) -> anyhow::Result<Target> {
    let mut manifests = Vec::new();
    for name in names {
        if name == "-" {
            if stdin_is_taken {
                bail!("-f - and -i both want stdin: put the manifest in a file");
            }
            manifests.push(("STDIN".to_owned(), read(io::stdin(), name)?));
            continue;
        }
        if name.starts_with("http://") || name.starts_with("https://") {
            bail!("-f takes files, folders and - for stdin: fetch `{name}` yourself");
        }
        let path = Path::new(name);
        if !path.exists() {
            bail!("the path {name:?} does not exist"); // kubectl's words
        }
        let files = if path.is_dir() {
            in_folder(path)?
        } else {
            vec![path.to_owned()]
        };
        for path in files {
            let name = path.display().to_string();
            let file = File::open(&path).with_context(|| format!("cannot read {name:?}"))?;
            manifests.push((name.clone(), read(file, &name)?));
        }
    }
    Ok(Target::from_manifests(&manifests)?)
}

fn in_folder(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = folder.display();
    let unreadable = || format!("cannot read the folder `{name}`");
    let mut files = Vec::new();
    for entry in folder.read_dir().with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let extension = path.extension().and_then(|it| it.to_str());
        if path.is_file() && extension.is_some_and(|it| EXTENSIONS.contains(&it)) {
            files.push(path);
        }
    }
    if files.is_empty() {
        // kubectl's words
        bail!("error reading [{name}]: recognized file extensions are [.json .yaml .yml]");
    }
    files.sort();
    Ok(files)
}

fn read(from: impl Read, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = from.take(MAX + 1).read_to_end(&mut content);
    read.with_context(|| format!("cannot read {name:?}"))?;
    if content.len() as u64 > MAX {
        bail!("{name:?} is no manifest: it is longer than {MAX} bytes");
    }
    Ok(content)
}
