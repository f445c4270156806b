//! A marked block in a file that is somebody else's: put in, replaced, taken out, and nothing else touched.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::block::{BEGIN, END};

/// Bytes of an ssh_config: far more than a person writes.
const LARGEST: u64 = 1 << 20;
/// What is appended to the name of a file for its last state.
const BACKUP: &str = ".kpf-backup";

/// Why a file stays as it is.
#[derive(Debug, Error)]
pub enum Error {
    /// The system's refusal.
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With this file or folder.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// Nobody can tell what is ours.
    #[error("`{}` has a broken kpf block, line {line}: {what}; mend it or delete its lines by hand", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// A file as it is and as it is to be.
#[derive(Debug)]
pub struct Edit {
    /// The file itself, where a name leads to it by links.
    path: PathBuf,
    before: Option<Vec<u8>>,
    after: Vec<u8>,
}

impl Edit {
    /// Reads the file and puts `block` in the place of the one that is there, or at the beginning; without a block, takes
    /// out the one that is there. A file that doesn't exist is empty. Writes nothing.
    ///
    /// At the beginning, because ssh takes the first value that it finds.
    ///
    /// # Errors
    /// The file can't be read, or its block has no end or no beginning.
    pub fn new(path: &Path, block: Option<&str>) -> Result<Self, Error> {
        let failed = |what, source| Error::Io {
            what,
            path: path.to_owned(),
            source,
        };
        let path = followed(path).map_err(|source| failed("read", source))?;
        let before = match read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(failed("read", source)),
        };
        let after = edited(before.as_deref().unwrap_or_default(), block);
        let after = after.map_err(|(line, what)| Error::Broken {
            path: path.clone(),
            line,
            what,
        })?;
        Ok(Self {
            path,
            before,
            after,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is to be in it.
    pub fn after(&self) -> &[u8] {
        &self.after
    }

    /// Whether there is anything to do.
    pub fn is_needed(&self) -> bool {
        self.before.as_deref().unwrap_or_default() != self.after
    }

    /// Where the file's last state is kept; none where there was no file.
    pub fn backup(&self) -> Option<PathBuf> {
        self.before
            .as_ref()
            .map(|_| with_suffix(&self.path, BACKUP))
    }

    /// Writes it: whole or not at all, with the permissions that the file had, 0600 if there was none. What was there is
    /// kept in [`Edit::backup`].
    ///
    /// # Errors
    /// It can't be written; then nothing has changed, but for the backup.
    pub fn write(&self) -> Result<(), Error> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error::Io { what, path, source }
        };
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        private_folder(folder).map_err(failed("make", folder))?;
        let permissions = match &self.before {
            Some(_) => {
                let metadata = fs::metadata(&self.path).map_err(failed("read", &self.path))?;
                Some(metadata.permissions())
            }
            None => None,
        };
        if let (Some(before), Some(backup)) = (&self.before, self.backup()) {
            replace(&backup, before, permissions.clone()).map_err(failed("write", &backup))?;
        }
        replace(&self.path, &self.after, permissions).map_err(failed("write", &self.path))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;

    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(io::Error::other("it is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

/// Where the links of a path lead, whether or not there is a file at their end.
fn followed(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    // as many as Linux follows
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or_else(|| Path::new(".")).join(target),
            // no link, or no file
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// Makes a folder as ssh wants it, and those above it.
pub(super) fn private_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder.create(folder)
}

/// Puts a whole file in the place of another one.
fn replace(path: &Path, bytes: &[u8], permissions: Option<fs::Permissions>) -> io::Result<()> {
    let new = with_suffix(path, &format!(".kpf-{}", std::process::id()));
    let written = (|| {
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let mut file = options.open(&new)?;
        file.write_all(bytes)?;
        if let Some(permissions) = permissions {
            file.set_permissions(permissions)?;
        }
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        // it may never have been there
        let _ = fs::remove_file(&new);
    }
    written
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// `before` with another block, or without one; or the line where it is broken, and how.
fn edited(before: &[u8], block: Option<&str>) -> Result<Vec<u8>, (usize, &'static str)> {
    let (mut begin, mut end) = (None, None);
    let mut at = 0;
    for (index, line) in before.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        let next = at + line.len();
        match line.trim_ascii() {
            mark if mark == BEGIN.as_bytes() => match (begin, end) {
                (None, _) => begin = Some((at, number)),
                (Some(_), None) => return Err((number, "it begins a second time before it ends")),
                (Some(_), Some(_)) => return Err((number, "there is a second one")),
            },
            mark if mark == END.as_bytes() => match (begin, end) {
                (Some(_), None) => end = Some(next),
                _ => return Err((number, "it ends without a beginning")),
            },
            _ => {}
        }
        at = next;
    }
    let block = block.unwrap_or_default().as_bytes();
    let (head, tail) = match (begin, end) {
        (Some((begin, _)), Some(end)) => (&before[..begin], &before[end..]),
        (Some((_, number)), None) => return Err((number, "it has no end")),
        (None, _) => (&before[..0], before),
    };
    Ok([head, block, tail].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOCK: &str = "# >>> kpf ssh-config >>>\nHost *.kpf\nHost *\n# <<< kpf ssh-config <<<\n";

    #[test]
    fn a_block_is_put_in_replaced_and_taken_out() {
        let old = BLOCK.replace("*.kpf", "old");
        for (before, with, without) in [
            ("", BLOCK.to_owned(), ""),
            ("Host x\n", format!("{BLOCK}Host x\n"), "Host x\n"),
            ("Host x", format!("{BLOCK}Host x"), "Host x"),
            (&format!("a\n{old}b"), format!("a\n{BLOCK}b"), "a\nb"),
            (
                &format!("a\r\n{}b", old.replace('\n', "\r\n")),
                format!("a\r\n{BLOCK}b"),
                "a\r\nb",
            ),
            (old.trim_end(), BLOCK.to_owned(), ""),
        ] {
            assert_eq!(
                edited(before.as_bytes(), Some(BLOCK)).unwrap(),
                with.as_bytes()
            );
            assert_eq!(edited(before.as_bytes(), None).unwrap(), without.as_bytes());
        }
    }

    #[test]
    fn a_broken_block_is_left_alone() {
        for (before, line, part) in [
            (format!("x\n{BEGIN}\ny"), 2, "no end"),
            (format!("x\n{END}\n"), 2, "without a beginning"),
            (format!("{BEGIN}\n{BEGIN}\n{END}\n"), 2, "second time"),
            (format!("{BLOCK}{BLOCK}"), 5, "a second one"),
            (format!("{BLOCK}{END}"), 5, "without a beginning"),
        ] {
            for block in [None, Some(BLOCK)] {
                let (number, what) = edited(before.as_bytes(), block).unwrap_err();
                assert!(number == line && what.contains(part), "{number} {what}");
            }
        }
    }

    proptest! {
        /// Whatever else is in the file stays, byte by byte.
        #[test]
        fn the_rest_stays(head in "([ -~\u{e4}]{0,9}\r?\n){0,4}", tail in any::<Vec<u8>>()) {
            let mut file = head.into_bytes();
            let at = file.len();
            file.extend(&tail);
            prop_assert_eq!(&edited(&edited(&file, Some(BLOCK)).unwrap(), None).unwrap(), &file);
            let mut blocked = file.clone();
            blocked.splice(at..at, BLOCK.bytes());
            prop_assert_eq!(&edited(&blocked, Some(BLOCK)).unwrap(), &blocked);
            prop_assert_eq!(&edited(&blocked, None).unwrap(), &file);
        }
    }
}
