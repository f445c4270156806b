//! kubectl's global flags.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::values;
use crate::cluster::{Environment, Options, Stdin};

/// kubectl's global flags. Has no `Debug`, for the token and the password.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Namespace to look in [default: the context's]
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,

    /// Context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) context: Option<String>,

    /// Kubeconfig file to use [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,

    /// How much to log to stderr, from 0 to 10
    #[arg(
        short,
        long = "v",
        global = true,
        value_name = "LEVEL",
        default_value_t = 0,
        hide_default_value = true
    )]
    pub v: u32,

    /// Cluster of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(super) cluster: Option<String>,

    /// User of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(super) user: Option<String>,

    /// Address and port of the API server
    #[arg(short, long, global = true, value_name = "URL", hide_short_help = true)]
    pub(super) server: Option<String>,

    /// Bearer token
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    pub(super) token: Option<String>,

    /// User name for basic authentication
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(super) username: Option<String>,

    /// Password for basic authentication
    #[arg(long, global = true, value_name = "PASSWORD", hide_short_help = true)]
    pub(super) password: Option<String>,

    /// User to impersonate
    #[arg(
        long = "as",
        global = true,
        value_name = "USER",
        hide_short_help = true
    )]
    pub(super) as_user: Option<String>,

    /// Group to impersonate; may be given more than once
    #[arg(
        long = "as-group",
        global = true,
        value_name = "GROUP",
        hide_short_help = true
    )]
    pub(super) as_groups: Vec<String>,

    /// UID to impersonate
    #[arg(long, global = true, value_name = "UID", hide_short_help = true)]
    pub(super) as_uid: Option<String>,

    /// Extra field to impersonate; may be given more than once
    #[arg(long, global = true, value_name = "KEY=VALUE", hide_short_help = true)]
    pub(super) as_user_extra: Vec<String>,

    /// File with the certificates that the server's is checked against
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(super) certificate_authority: Option<PathBuf>,

    /// File with the client's certificate
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(super) client_certificate: Option<PathBuf>,

    /// File with the client's key
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(super) client_key: Option<PathBuf>,

    /// Name that the server's certificate must have [default: the host of its address]
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub(super) tls_server_name: Option<String>,

    /// Do not check the server's certificate; insecure
    #[arg(
        long,
        global = true,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_parser = values::boolean,
        action = ArgAction::Set,
        hide_short_help = true
    )]
    pub(super) insecure_skip_tls_verify: bool,

    /// How long one request may take, as in 30s or 1m30s; 0 is without end. It does not end a forward
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        default_value = "0",
        value_parser = values::request_timeout,
        hide_short_help = true
    )]
    pub(super) request_timeout: Duration,

    /// Proxy to the API server, http, https or socks5 [default: the kubeconfig's, then HTTPS_PROXY]
    #[arg(long, global = true, value_name = "URL", hide_short_help = true)]
    pub(super) proxy_url: Option<String>,

    #[command(flatten)]
    without_effect: WithoutEffect,
}

impl GlobalArgs {
    /// What the cluster layer takes: plain data, no flags. An empty value counts as not given, as in kubectl.
    pub fn to_options(&self, environment: Environment, stdin: Stdin) -> Options {
        let text = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let path =
            |value: &Option<PathBuf>| value.clone().filter(|value| !value.as_os_str().is_empty());
        Options {
            kubeconfig: path(&self.kubeconfig),
            context: text(&self.context),
            aliases: Vec::new(),
            cluster: text(&self.cluster),
            user: text(&self.user),
            namespace: text(&self.namespace),
            server: text(&self.server),
            token: text(&self.token),
            username: text(&self.username),
            password: text(&self.password),
            as_user: text(&self.as_user),
            as_groups: self.as_groups.clone(),
            as_uid: text(&self.as_uid),
            as_user_extra: self.as_user_extra.clone(),
            certificate_authority: path(&self.certificate_authority),
            client_certificate: path(&self.client_certificate),
            client_key: path(&self.client_key),
            tls_server_name: text(&self.tls_server_name),
            insecure_skip_tls_verify: self.insecure_skip_tls_verify,
            request_timeout: Some(self.request_timeout).filter(|timeout| !timeout.is_zero()),
            proxy_url: text(&self.proxy_url),
            environment,
            stdin,
        }
    }
}

/// Flags of kubectl that change nothing in kpf, taken so that scripts need no change.
#[derive(Args)]
struct WithoutEffect {
    #[arg(long, global = true, hide = true)]
    cache_dir: Option<String>,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    disable_compression: Option<String>,
    #[arg(long, global = true, hide = true)]
    kuberc: Option<String>,
    #[arg(long, global = true, hide = true)]
    log_flush_frequency: Option<String>,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    match_server_version: Option<String>,
    #[arg(long, global = true, hide = true)]
    profile: Option<String>,
    #[arg(long, global = true, hide = true)]
    profile_output: Option<String>,
    #[arg(long, global = true, hide = true)]
    vmodule: Option<String>,
    #[arg(long, global = true, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    warnings_as_errors: Option<String>,
}
