//! Where recordings lie: below one directory, under names that the gateway alone makes up.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rustix::fs::{Mode, OFlags, fstatvfs, mkdirat, open, openat};
use rustix::io::Errno;

use crate::ssh::audit::session::SessionId;

/// The directory of all recordings, opened once: what happens to its path afterwards leads nowhere else.
#[derive(Debug)]
pub(super) struct Store {
    directory: OwnedFd,
    path: PathBuf,
}

impl Store {
    /// Opens a directory that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let directory = open(path, DIRECTORY, Mode::empty())?;
        Ok(Self {
            directory,
            path: path.to_owned(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file of that name and the days' directories above it. Follows no link and takes no file that is there.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        let (directories, file) = name.rsplit_once('/').unwrap_or(("", name));
        let mut at = self.directory.as_fd().try_clone_to_owned()?;
        for directory in directories.split('/').filter(|part| !part.is_empty()) {
            match mkdirat(&at, directory, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = openat(&at, directory, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        }
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        Ok(openat(&at, file, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Bytes that this process may still write there.
    pub(super) fn free(&self) -> io::Result<u64> {
        let volume = fstatvfs(&self.directory)?;
        Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// `2026/11/22/<session>-<channel>.cast`, the day in UTC. Nothing in it is the client's choice but the channel's number.
pub(super) fn name(at: Timestamp, session: &SessionId, channel: u32) -> String {
    let day = at.to_zoned(TimeZone::UTC).date();
    let (year, month, day) = (day.year(), day.month(), day.day());
    format!("{year:04}/{month:02}/{day:02}/{session}-{channel}.cast")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::UNIX_EPOCH;
    use tempfile::TempDir;

    fn a_name() -> String {
        let at = "2026-01-02T23:59:59Z".parse().unwrap();
        name(at, &SessionId::new(UNIX_EPOCH, [0; 10]), 3)
    }

    #[test]
    fn names_are_of_the_day_and_the_session() {
        assert_eq!(a_name(), "2026/01/02/00000000000000000000000000-3.cast");
    }

    #[test]
    fn a_file_is_made_for_its_owner_alone_and_only_once() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.create(&a_name()).unwrap();
        let mode = |path: &str| {
            let metadata = fs::metadata(folder.path().join(path)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        assert_eq!(
            (mode(&a_name()), mode("2026"), mode("2026/01/02")),
            (0o600, 0o700, 0o700)
        );
        let again = store.create(&a_name()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(store.free().unwrap() > 0);
    }

    #[test]
    fn links_are_not_followed() {
        let folder = TempDir::new().unwrap();
        let elsewhere = TempDir::new().unwrap();
        let store = Store::open(folder.path()).unwrap();
        symlink(elsewhere.path(), folder.path().join("2026")).unwrap();
        store.create(&a_name()).unwrap_err();
        fs::remove_file(folder.path().join("2026")).unwrap();

        fs::create_dir_all(folder.path().join("2026/01/02")).unwrap();
        let planted = folder.path().join(a_name());
        symlink(elsewhere.path().join("file"), planted).unwrap();
        store.create(&a_name()).unwrap_err();
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_directory_stays_the_one_that_was_opened() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("recordings");
        fs::create_dir(&path).unwrap();
        let store = Store::open(&path).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        symlink("/tmp", &path).unwrap();
        store.create(&a_name()).unwrap();
        assert!(folder.path().join("moved").join(a_name()).exists());
    }
}
