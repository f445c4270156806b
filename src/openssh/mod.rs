//! What OpenSSH's client needs to reach pods: a block in its configuration, and host keys that are a pod's own.
//!
//! `kpf connect --ssh` is ssh's ProxyCommand. It leaves a [`note`] which pod it reached, and `kpf known-hosts`, ssh's
//! KnownHostsCommand, reads that and tells ssh the [pinned](pins) keys of this very pod. So a pod that takes another
//! one's name brings no warning that people learn to ignore, and another key under the same uid always brings one.
//!
//! [`block`] is the text, [`edit`] puts it into a file and takes it out again.

pub mod block;
pub mod edit;
pub mod note;
pub mod pins;
