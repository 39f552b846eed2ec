//! How much is asked for, by how many, and for how long.

use std::time::Duration;

use clap::value_parser;

/// How the work is asked for.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) clients: u32,
    /// Operations a client sends in one batch, before it reads
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) depth: u32,
    /// Operations that the first client sends in one batch, where it differs from the others
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) first_depth: Option<u32>,
    /// Operations a second, all clients together, at fixed times [default: as fast as replies come]
    #[arg(long, value_name = "OPS", conflicts_with = "first_depth",
          value_parser = value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Clients more that only write, each as fast as replies come; the figures are of the others
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub(crate) writers: u32,
    /// Clients more that ask and never read a reply
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub(crate) never_read: u32,
    /// Operations each of those asks for; replies to 10,000 are more than the kernel keeps for it
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) unread: u32,
    /// How long to measure
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds)]
    pub(crate) seconds: Duration,
    /// How long to work before that
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub(crate) warmup: Duration,
    /// Chooses the operations; the same number, the same operations
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Plan {
    pub(crate) fn sockets(&self) -> usize {
        self.answered() + self.never_read as usize
    }

    /// Clients that read their replies. The writers are the last of them.
    pub(crate) fn answered(&self) -> usize {
        self.clients as usize + self.writers as usize
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time <= Duration::from_secs(86_400) => Ok(time),
        _ => Err("it has to be a time of a day at most".into()),
    }
}
