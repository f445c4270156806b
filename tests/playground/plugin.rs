//! The credential plugin: a small shell script, for tests that bring none.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::kubeconfig;

/// The file, in the script's folder, of the token that goes before the kubeconfig's.
pub(crate) const TOKEN: &str = "credential-plugin-token";
/// The file that gets a byte for each run.
pub(crate) const RUNS: &str = "credential-plugin-runs";

/// Makes the script, and says where it is.
pub(crate) fn script(folder: &Path) -> anyhow::Result<String> {
    let file = folder.join("credential-plugin");
    let credential = kubeconfig::exec_credential("TOKEN").replace("TOKEN", "'\"$token\"'");
    let script = format!(
        "#!/bin/sh\n\
         folder=$(dirname \"$0\")\n\
         printf . >>\"$folder/{RUNS}\"\n\
         token=$(cat \"$folder/{TOKEN}\" 2>/dev/null) || token=$KPF_PLAYGROUND_TOKEN\n\
         printf '%s' '{credential}'\n"
    );
    std::fs::write(&file, script)?;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700))?;
    Ok(file.display().to_string())
}
