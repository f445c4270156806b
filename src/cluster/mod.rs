//! Kubernetes as kpf sees it: where the API server is, who we are to it, and one HTTP client for everything.
//!
//! [`Cluster::load`] makes a [`Cluster`] from [`Options`]: kubectl's global flags and the environment, as plain data.
//! Lookups go through [`Cluster::client`], streams through [`Cluster::upgrade`]; both share connections, TLS sessions
//! and credentials. Nothing here knows what is spoken on an upgraded connection.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::http::Uri;

pub use self::diagnose::{Action, Origin, origin};
pub use self::environment::Environment;
pub use self::http::{
    Connection, Protocol, RequestError, TlsFacts, Unreachable, UpgradeError, UpgradeRequest,
    Upgraded,
};
pub use crate::untrusted::printable;

use self::credentials::Credentials;
use self::http::{Connector, Transport};

mod context;
pub mod credentials;
mod diagnose;
mod environment;
pub mod follow;
pub mod http;
mod in_cluster;
mod kubeconfig;
pub mod names;
mod proxy;
#[cfg(test)]
mod scripted;
pub mod target;
mod tls;

/// kubectl's global flags and what surrounds a command; `Default` is a command without any.
#[derive(Clone, Default)]
pub struct Options {
    /// `--kubeconfig`
    pub kubeconfig: Option<PathBuf>,
    /// `--context`
    pub context: Option<String>,
    /// Other names of contexts, for targets that name one: what a host name can't say.
    pub aliases: Vec<Alias>,
    /// `--cluster`
    pub cluster: Option<String>,
    /// `--user`
    pub user: Option<String>,
    /// `-n`, `--namespace`
    pub namespace: Option<String>,
    /// `-s`, `--server`
    pub server: Option<String>,
    /// `--token`
    pub token: Option<String>,
    /// `--username`
    pub username: Option<String>,
    /// `--password`
    pub password: Option<String>,
    /// `--as`
    pub as_user: Option<String>,
    /// `--as-group`, once for each group
    pub as_groups: Vec<String>,
    /// `--as-uid`
    pub as_uid: Option<String>,
    /// `--as-user-extra`, each `KEY=VALUE`
    pub as_user_extra: Vec<String>,
    /// `--certificate-authority`
    pub certificate_authority: Option<PathBuf>,
    /// `--client-certificate`
    pub client_certificate: Option<PathBuf>,
    /// `--client-key`
    pub client_key: Option<PathBuf>,
    /// `--tls-server-name`
    pub tls_server_name: Option<String>,
    /// `--insecure-skip-tls-verify`
    pub insecure_skip_tls_verify: bool,
    /// `--request-timeout`, for lookups; streams are never cut by it. Zero is none.
    pub request_timeout: Option<Duration>,
    /// `--proxy-url`
    pub proxy_url: Option<String>,
    /// The environment variables that count.
    pub environment: Environment,
    /// Whether a credential plugin may read stdin.
    pub stdin: Stdin,
}

/// A context's name for host names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alias {
    /// An RFC 1123 label.
    pub alias: String,
    /// The context.
    pub context: String,
}

/// Whose stdin is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Stdin {
    /// A credential plugin may read it if it is a terminal.
    #[default]
    Free,
    /// The command reads it: nobody else may, not one byte.
    Taken,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither secrets nor URLs that may hold one.
        f.debug_struct("Options")
            .field("kubeconfig", &self.kubeconfig)
            .field("context", &self.context)
            .field("cluster", &self.cluster)
            .field("user", &self.user)
            .field("namespace", &self.namespace)
            .field("stdin", &self.stdin)
            .finish_non_exhaustive()
    }
}

/// Why there is no [`Cluster`]: a file, a flag or an entry is wrong. Nothing was sent yet.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read the {what} `{}`: {source}", path.display())]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// The operating system's words.
        source: std::io::Error,
    },
    /// A kubeconfig isn't one.
    #[error("error loading config file `{}`, line {line}: {reason}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// No such context.
    #[error(r#"context "{0}" does not exist"#)]
    NoContext(String),
    /// No such cluster entry.
    #[error(r#"cluster "{0}" does not exist"#)]
    NoCluster(String),
    /// No such user entry.
    #[error(r#"auth info "{0}" does not exist"#)]
    NoUser(String),
    /// There is a kubeconfig without a choice in it.
    #[error("no current-context is set in the kubeconfig: choose one by --context ({0})")]
    NoCurrentContext(String),
    /// There is no kubeconfig, and this is no pod.
    #[error(
        "no cluster is configured (looked at {0}): set KUBECONFIG, or give --kubeconfig or --server"
    )]
    NotConfigured(String),
    /// The server's URL is none.
    #[error("server `{server}`: {reason}")]
    Server {
        /// As it was written.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A flag's value makes no sense.
    #[error("{0}")]
    Flag(String),
    /// Certificates or keys cannot be used.
    #[error("{0}")]
    Tls(String),
    /// A proxy's URL is none. It isn't shown, it may hold a password.
    #[error("the proxy's URL ({setting}) cannot be used: {reason}")]
    Proxy {
        /// Where it was set.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The user entry makes no sense.
    #[error(transparent)]
    Credentials(credentials::Error),
}

/// Whom a request is for, where the credentials are somebody else's.
#[derive(Clone, Copy, Debug)]
pub struct Impersonation<'a> {
    /// The user's name; never empty.
    pub user: &'a str,
    /// The groups, `system:authenticated` aside, which the API server adds.
    pub groups: &'a [String],
    /// What else is to stand in the cluster's audit log, by its key.
    pub extra: &'a [(&'a str, &'a str)],
}

/// One API server and one way to be somebody there. Clones share connections and credentials.
#[derive(Clone)]
pub struct Cluster {
    transport: Transport,
    names: Arc<Names>,
}

struct Names {
    namespace: String,
    namespace_flag: Option<String>,
    contexts: Vec<String>,
}

impl Cluster {
    /// Reads the kubeconfig and the files that it names.
    ///
    /// Sends nothing and runs no plugin: both wait for the first request.
    pub fn load(options: &Options) -> Result<Self, Error> {
        let (config, looked) = kubeconfig::read(options)?;
        let context::Access {
            server,
            cluster,
            user,
            namespace,
        } = context::resolve(options, &config, &looked)?;
        let environment = &options.environment;
        let connector = Connector::new(&server, &cluster, environment)?;
        let transport = Transport::new(
            server,
            http::headers(&user)?,
            Credentials::new(&user, &cluster, environment, options.stdin)?,
            options.request_timeout.filter(|limit| !limit.is_zero()),
            connector,
        );
        let contexts = kubeconfig::contexts(config);
        let namespace_flag = options.namespace.clone();
        Ok(Self {
            transport,
            names: Arc::new(Names {
                namespace,
                namespace_flag,
                contexts,
            }),
        })
    }

    /// The same server and credentials on connections of its own, acting for nobody else than before.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self {
            transport: self.transport.apart(),
            names: self.names.clone(),
        }
    }

    /// The same server and credentials on connections of its own, every request for `who` and for nobody else.
    ///
    /// # Errors
    /// A name that can be no header's value: it has a control character in it, or the user's is empty.
    pub fn impersonating(&self, who: &Impersonation<'_>) -> Result<Self, Error> {
        Ok(Self {
            transport: self.transport.impersonating(who)?,
            names: self.names.clone(),
        })
    }

    /// The namespace of `-n`, else of the context, else `default`; inside a pod the pod's own.
    pub fn namespace(&self) -> &str {
        &self.names.namespace
    }

    /// What `-n` said, if it was given.
    pub fn namespace_flag(&self) -> Option<&str> {
        self.names.namespace_flag.as_deref()
    }

    /// The names of all contexts, in the order of the files.
    pub fn contexts(&self) -> Vec<String> {
        self.names.contexts.clone()
    }

    /// The API server's URL, its path included.
    pub fn server(&self) -> &Uri {
        self.transport.server()
    }

    /// A client for lookups, over the same connections as [`Cluster::upgrade`]. Must be called within a tokio runtime.
    ///
    /// Its errors become readable by [`RequestError::from`].
    pub fn client(&self) -> kube::Client {
        let transport = self.transport.clone();
        let service = tower::service_fn(move |request| {
            let transport = transport.clone();
            async move { transport.request(request).await }
        });
        kube::Client::new(service, self.namespace())
    }

    /// Turns one HTTP request into a raw connection, within 30 s. Tries once: falling back is the caller's affair,
    /// see [`UpgradeError::allows_fallback`]. Cancel safe.
    pub async fn upgrade(&self, request: UpgradeRequest) -> Result<Upgraded, UpgradeError> {
        self.transport.upgrade(request).await
    }
}

/// The names of all contexts in the kubeconfig of `options`, whether or not any of them works.
pub fn contexts(options: &Options) -> Result<Vec<String>, Error> {
    let (config, _) = kubeconfig::read(options)?;
    Ok(kubeconfig::contexts(config))
}

/// The name of the context that `options` choose, if any.
pub fn current_context(options: &Options) -> Result<Option<String>, Error> {
    let (config, _) = kubeconfig::read(options)?;
    let context = options.context.clone().or(config.current_context);
    Ok(context.filter(|name| !name.is_empty()))
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.server();
        f.debug_struct("Cluster")
            .field("server", server)
            .field("namespace", &self.names.namespace)
            .finish_non_exhaustive()
    }
}
