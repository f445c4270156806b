//! The process's environment as plain data, read once.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variables that kpf may look at, and that a credential plugin inherits.
///
/// Captured once at start; a test makes its own from pairs. `Debug` shows names only, values may be secrets.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    service_account: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub fn capture() -> Self {
        std::env::vars_os().collect()
    }

    /// The same with the service account's files (`token`, `ca.crt`, `namespace`) in `directory`
    /// instead of where Kubernetes mounts them.
    pub fn with_service_account(mut self, directory: impl Into<PathBuf>) -> Self {
        self.service_account = Some(directory.into());
        self
    }

    /// The value of `name`; a variable that is set to nothing counts as not set, as in kubectl.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(OsStr::new(name))
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    /// The value of the first of `names` that is set, where it is text.
    pub fn text(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name)?.to_str())
    }

    /// The user's home directory.
    pub fn home(&self) -> Option<&Path> {
        let name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        self.get(name).map(Path::new)
    }

    /// The folder for what kpf keeps from one run to the next: `kpf` in `XDG_STATE_HOME`, else in `~/.local/state`. None
    /// without a home directory.
    pub fn state_folder(&self) -> Option<PathBuf> {
        let configured = self.get("XDG_STATE_HOME").map(PathBuf::from);
        // By the XDG specification a relative path counts as none.
        let state = configured.filter(|path| path.is_absolute());
        let state = state.or_else(|| Some(self.home()?.join(".local/state")))?;
        Some(state.join("kpf"))
    }

    pub(super) fn service_account(&self) -> &Path {
        const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
        self.service_account
            .as_deref()
            .unwrap_or_else(|| Path::new(MOUNT))
    }

    pub(super) fn variables(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(pairs: T) -> Self {
        let pairs = pairs.into_iter().map(|(n, v)| (n.into(), v.into()));
        Self {
            variables: pairs.collect(),
            service_account: None,
        }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}
