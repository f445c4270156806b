//! Which host key a pod has shown. A pod can't get another one: who has another one is not that pod's sshd.
//!
//! The way to the pod is the API server's and the kubelet's already; this is against another process in the pod that takes
//! the sshd's port. A pod that was made anew has another uid, and starts anew.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use russh::keys::{HashAlg, PublicKey};

/// Pods that are remembered; the oldest are forgotten first.
const PODS: usize = 64 * 1024;

/// Host keys by pod, for as long as the process lives. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Pins(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By the pod's uid and port.
    keys: HashMap<(String, u16), PublicKey>,
    oldest: VecDeque<(String, u16)>,
}

/// A pod shows another key than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Of the key that it had, `SHA256:…`.
    pub pinned: String,
    /// Of the key that it shows now.
    pub shown: String,
}

impl Pins {
    /// Whether `key` is the one of this port of the pod; the first one is.
    ///
    /// # Errors
    /// It is another one.
    pub fn check(&self, uid: &str, port: u16, key: &PublicKey) -> Result<(), Changed> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pod = (uid.to_owned(), port);
        if let Some(pinned) = known.keys.get(&pod) {
            // The comment is nobody's concern.
            return match pinned.key_data() == key.key_data() {
                true => Ok(()),
                false => Err(Changed {
                    pinned: pinned.fingerprint(HashAlg::Sha256).to_string(),
                    shown: key.fingerprint(HashAlg::Sha256).to_string(),
                }),
            };
        }
        if known.oldest.len() == PODS
            && let Some(oldest) = known.oldest.pop_front()
        {
            known.keys.remove(&oldest);
        }
        known.oldest.push_back(pod.clone());
        known.keys.insert(pod, key.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use russh::keys::key::safe_rng;
    use russh::keys::{Algorithm, PrivateKey};

    use super::*;

    #[test]
    fn a_pod_keeps_its_key() {
        let [first, second] = [(); 2].map(|()| {
            let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
            key.public_key().clone()
        });
        let pins = Pins::default();
        pins.check("a", 22, &first).unwrap();
        pins.clone().check("a", 22, &first).unwrap();
        let changed = pins.check("a", 22, &second).unwrap_err();
        assert_eq!(
            changed.pinned,
            first.fingerprint(HashAlg::Sha256).to_string()
        );
        assert_eq!(
            changed.shown,
            second.fingerprint(HashAlg::Sha256).to_string()
        );
        pins.check("a", 22, &first).unwrap();
        pins.check("a", 2222, &second).unwrap();
        pins.check("b", 22, &second).unwrap();
    }
}
