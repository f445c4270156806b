//! How a forward outlives what happens to its pods.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values;

/// How connections are kept apart, spread and held.
#[derive(Args, Clone, Debug)]
pub struct SurviveArgs {
    /// Spread connections over all ready pods of a service or workload: in turn, or to the one with the least open ones
    #[arg(
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "round-robin",
        hide_possible_values = true
    )]
    pub balance: Option<Balance>,

    /// How long a connection waits while there is no pod or no way to it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = values::duration)]
    pub hold: Duration,

    /// How long the pod must be silent before it is told that the local side has sent all; 0 tells it at once, as
    /// kubectl does, and cuts off what it still sends
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = values::duration)]
    pub half_close_grace: Duration,

    /// Tunnels to one pod: connections have one each, and share beyond that
    #[arg(long, value_name = "NUMBER", default_value = "32")]
    pub max_tunnels: NonZeroUsize,

    /// End when the pod or the connection to it is lost, as kubectl does
    #[arg(long)]
    pub no_reconnect: bool,

    /// Give up when a lost connection has not come back for so long; 0 never does
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = values::duration)]
    pub retry_max_elapsed: Duration,
}

/// How connections are spread over pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Balance {
    /// In turn.
    RoundRobin,
    /// To the pod with the fewest.
    Least,
}
