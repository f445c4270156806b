//! Reading a file that decides who may log in.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::Error;

/// Bytes of a file: some ten thousand keys.
const LARGEST: u64 = 4 << 20;

/// A file's bytes: of a plain one, which not everybody can write to. `what` is for the error. Blocks, but waits for
/// nobody.
pub(super) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let wrong = |source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    };
    // a pipe would wait for its other end, so this looks before it opens
    let metadata = path.metadata().map_err(wrong)?;
    if !metadata.is_file() {
        return Err(wrong(io::Error::other("it is no file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(wrong)?;
    file.take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(wrong)?;
    if bytes.len() as u64 > LARGEST {
        let reason = format!("it has more than {LARGEST} bytes");
        return Err(wrong(io::Error::other(reason)));
    }
    match metadata.permissions().mode() & 0o002 != 0 {
        true => Err(Error::WritableByAll {
            what,
            path: path.to_owned(),
        }),
        false => Ok(bytes),
    }
}

/// The lines that say something: their numbers from 1, and what they say, or why they are no text.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<&str, &'static str>)> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines.filter_map(|(at, line)| {
        let line = std::str::from_utf8(line).map(str::trim);
        match line {
            Ok(line) if line.is_empty() || line.starts_with('#') => None,
            line => Some((at + 1, line.map_err(|_| "it is no UTF-8"))),
        }
    })
}
