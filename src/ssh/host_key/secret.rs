//! Keys in a Secret, which the replicas of a gateway share. It needs `get`, `create` and `update` of this one.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;

use super::{CERTIFICATES, Error, Kept, NAME};
use crate::untrusted::printable;

/// Times that a change is tried which others keep spoiling.
const TRIES: usize = 5;
/// Characters of what an API server says.
const SHOWN: usize = 300;

/// The Secret that the keys are in.
#[derive(Clone)]
pub struct Secret {
    client: kube::Client,
    namespace: String,
    name: String,
}

impl Secret {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(client: kube::Client, namespace: &str, name: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// What is kept, and the Secret itself.
    pub(super) async fn load(&self) -> Result<(Kept, v1::Secret), Error> {
        let secret = self.api().get_opt(&self.name).await;
        let secret = secret.map_err(|error| self.failed(&error))?;
        let missing = || Error::Missing {
            place: format!("Secret {self}"),
        };
        let secret = secret.ok_or_else(missing)?;
        let entry = |name| -> Result<Option<String>, Error> {
            let bytes = secret.data.as_ref().and_then(|data| data.get(name));
            bytes
                .map(|bytes| String::from_utf8(bytes.0.clone()))
                .transpose()
                .map_err(|_| self.wrong(format!("{name} is not text")))
        };
        let kept = Kept {
            keys: entry(NAME)?.ok_or_else(|| {
                self.wrong(format!(
                    "it has no entry {NAME}; delete it, and the gateway makes one"
                ))
            })?,
            certificates: entry(CERTIFICATES)?.unwrap_or_default(),
        };
        Ok((kept, secret))
    }

    /// Does nothing if there is one already.
    pub(super) async fn create(&self, keys: &str) -> Result<(), Error> {
        let entry = (NAME.to_owned(), ByteString(keys.as_bytes().to_vec()));
        let secret = v1::Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([entry])),
            type_: Some("Opaque".to_owned()),
            ..v1::Secret::default()
        };
        match self.api().create(&PostParams::default(), &secret).await {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Replaces both texts, unless somebody else has done so in between: then it looks again.
    pub(super) async fn change(
        &self,
        edit: &(impl Fn(&Kept) -> Result<Kept, Error> + Sync),
    ) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            let (old, mut secret) = self.load().await?;
            let new = edit(&old)?;
            let data = secret.data.get_or_insert_default();
            data.insert(NAME.to_owned(), ByteString(new.keys.into_bytes()));
            if old.certificates != new.certificates {
                let certificates = ByteString(new.certificates.into_bytes());
                data.insert(CERTIFICATES.to_owned(), certificates);
            }
            tries += 1;
            // It has the version that was read: others' changes make it a conflict.
            let parameters = PostParams::default();
            match self.api().replace(&self.name, &parameters, &secret).await {
                Ok(_) => return Ok(()),
                Err(error) if is_conflict(&error) && tries < TRIES => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    fn api(&self) -> Api<v1::Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn failed(&self, error: &kube::Error) -> Error {
        self.wrong(match error {
            kube::Error::Api(status) if status.code == 403 => format!(
                "{}; a gateway needs get, create and update of this Secret",
                printable(&status.message, SHOWN)
            ),
            error => printable(&error.to_string(), SHOWN),
        })
    }

    fn wrong(&self, error: String) -> Error {
        Error::Secret {
            secret: self.to_string(),
            error,
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
