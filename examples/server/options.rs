//! The command line.

use std::{env, path::PathBuf, time::Duration};

use clap::{ArgMatches, FromArgMatches as _, Parser, ValueEnum, parser::ValueSource};
use clap_complete::Shell;
use keywire::Overflow;
use tracing_subscriber::filter::Targets;

use crate::{
    address::Address,
    log::{self, Format},
    program,
};

pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9999";

/// Options that the log has at the start if they are not the default. No file and no address is among them.
const LIMITS: [&str; 19] = [
    "sync",
    "min_log",
    "replicas",
    "store_timeout",
    "outbox_lines",
    "outbox_bytes",
    "overflow",
    "stall_timeout",
    "max_line",
    "max_reply",
    "max_watches",
    "max_watch_prefix",
    "max_clients",
    "max_clients_per_address",
    "line_timeout",
    "idle_timeout",
    "max_line_rate",
    "max_store",
    "max_values",
];

/// More threads than this serve no faster on any machine, and each has a stack of its own.
const MAX_THREADS: usize = 1024;

/// A key-value server. Clients send lines: Put:key:value, Get:key, Set:key:value, Delete:key, and more.
#[derive(Parser)]
#[command(
    after_help = "BYTES may end in K, M or G: 1024, 1024² and 1024³ bytes.\n\n\
    The exit code is 0 after a shutdown, 1 if the server can't start, and 2 for wrong options."
)]
pub(crate) struct Options {
    /// Where to listen: HOST:PORT, all addresses of a name; :PORT or PORT, all interfaces; or
    /// unix:PATH. May be given more than once, or with commas between [default: 127.0.0.1:9999, or the
    /// sockets that a service manager has passed]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub(crate) listen: Vec<Address>,
    /// Keep the values in this directory, too: what is answered survives a crash. Without it, the values
    /// are gone when the server ends
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// When a write is on the disk: always, before it is answered; or at most so many seconds later, and a
    /// crash may take back that much
    #[arg(long, value_name = "always|SECONDS", default_value = "always", value_parser = delay, allow_negative_numbers = true)]
    pub(crate) sync: Delay,
    /// Bytes that the log of --data has at least when a snapshot of the values is begun, which then
    /// replaces it
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = bytes)]
    pub(crate) min_log: u64,
    /// Keep the values on a Redis or Valkey Cluster. Any of its nodes will do; the others are found.
    /// rediss://HOST:PORT is TLS, and needs --cluster-ca
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with_all = ["data", "sync"])]
    pub(crate) cluster: Vec<String>,
    /// How the names of keys in the cluster begin [default: keywire:]
    #[arg(long, value_name = "PREFIX", requires = "cluster")]
    pub(crate) cluster_prefix: Option<String>,
    /// Replicas that have to have a write before it is answered
    #[arg(long, value_name = "N", requires = "cluster")]
    pub(crate) replicas: Option<usize>,
    /// How long a command waits for its node of the cluster
    #[arg(long, value_name = "SECONDS", default_value = "5", requires = "cluster", value_parser = store_timeout, allow_negative_numbers = true)]
    pub(crate) store_timeout: Duration,
    /// A file with the password of the cluster's nodes
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub(crate) cluster_secret_file: Option<PathBuf>,
    /// Speak TLS to the cluster's nodes. Their certificates are vouched for by an authority in this PEM file
    #[arg(long, value_name = "FILE", requires = "cluster")]
    pub(crate) cluster_ca: Option<PathBuf>,
    /// The name in the certificates of the cluster's nodes [default: the host of each]
    #[arg(long, value_name = "NAME", requires = "cluster_ca")]
    pub(crate) cluster_tls_name: Option<String>,
    /// The server's own certificate, for nodes that ask for one
    #[arg(long, value_name = "FILE", requires_all = ["cluster_ca", "cluster_key"])]
    pub(crate) cluster_cert: Option<PathBuf>,
    /// The key that belongs to it
    #[arg(long, value_name = "FILE", requires = "cluster_cert")]
    pub(crate) cluster_key: Option<PathBuf>,
    /// Threads that serve
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = threads)]
    pub(crate) threads: usize,
    /// Reply lines that may wait for a client
    #[arg(long, value_name = "LINES", default_value_t = 500, value_parser = at_least_one)]
    pub(crate) outbox_lines: usize,
    /// Bytes of replies that may wait for a client
    #[arg(long, value_name = "BYTES", default_value = "4M", value_parser = some_bytes)]
    pub(crate) outbox_bytes: usize,
    /// What to do when a client does not read and its outbox is full
    #[arg(long, value_enum, default_value = "drop")]
    pub(crate) overflow: OnOverflow,
    /// How long a client's socket may take no bytes before it counts as not reading
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = program::seconds, allow_negative_numbers = true)]
    pub(crate) stall_timeout: Duration,
    /// The longest line that a client may send
    #[arg(long, value_name = "BYTES", default_value = "64K", value_parser = some_bytes)]
    pub(crate) max_line: usize,
    /// The longest reply to one Get, or to a GetPrefix for one key
    #[arg(long, value_name = "BYTES", default_value = "64M", value_parser = some_bytes)]
    pub(crate) max_reply: usize,
    /// Keys and prefixes that a client may watch
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) max_watches: usize,
    /// The longest prefix that a client may watch
    #[arg(long, value_name = "BYTES", default_value = "1K", value_parser = some_bytes)]
    pub(crate) max_watch_prefix: usize,
    /// Clients at a time
    #[arg(long, value_name = "N", default_value_t = 1 << 16, value_parser = at_least_one)]
    pub(crate) max_clients: usize,
    /// Clients at a time from one address; no limit unless given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) max_clients_per_address: Option<usize>,
    /// How long a line may take from its first byte to its end
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = program::seconds, allow_negative_numbers = true)]
    pub(crate) line_timeout: Duration,
    /// How long a connection may last on which nothing moves; no limit unless given
    #[arg(long, value_name = "SECONDS", value_parser = program::seconds, allow_negative_numbers = true)]
    pub(crate) idle_timeout: Option<Duration>,
    /// Lines a second from one client, what is more waits; no limit unless given. It counts lines,
    /// and a call of keywire's own Client sends two: the command and a Sync
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_line_rate: Option<u32>,
    /// Bytes that the store may hold, and 64 for each key and 8 for each value; no limit unless given
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(crate) max_store: Option<u64>,
    /// Values that a key may have; no limit unless given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) max_values: Option<usize>,
    /// A file with the secret that clients have to say, Auth:SECRET, before anything else
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Listen beyond this machine although there is no secret, for clients and for --metrics
    #[arg(long)]
    pub(crate) open: bool,
    /// Where to answer GET /metrics, as OpenMetrics text for Prometheus, and GET /healthz: on this machine only,
    /// unless --open is given
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) metrics: Option<Address>,
    /// Print clients and rates every so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = program::seconds, allow_negative_numbers = true)]
    pub(crate) stats: Option<Duration>,
    /// Speak TLS, with the certificate in this PEM file, and those behind it that vouch for it
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The key that belongs to the certificate, a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Accept only clients with a certificate that an authority in this PEM file vouches for
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// What the log holds, which goes to standard error: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log::filter)]
    pub(crate) log: Targets,
    /// How the log is written
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub(crate) log_format: Format,
    /// Print a script by which a shell completes these options
    #[arg(long, value_name = "SHELL")]
    pub(crate) completions: Option<Shell>,
    /// The limits that are not the default.
    #[arg(skip)]
    pub(crate) limits: String,
}

/// The options that the program was started with. What is wrong with them ends it.
pub(crate) fn parse() -> Options {
    let matches = program::matches(program::command::<Options>(), env::args_os().collect());
    let mut options = Options::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    options.limits = limits(&matches);
    options
}

fn limits(matches: &ArgMatches) -> String {
    let given = LIMITS.into_iter().filter_map(|limit| {
        let source = matches.value_source(limit)?;
        let value = matches.get_raw(limit)?.next()?.to_string_lossy();
        (source != ValueSource::DefaultValue)
            .then(|| format!("{}={value}", limit.replace('_', "-")))
    });
    given.collect::<Vec<_>>().join(" ")
}

/// How much later than its answer a write is on the disk; `None` is before.
#[derive(Clone, Copy)]
pub(crate) struct Delay(pub(crate) Option<Duration>);

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum OnOverflow {
    /// Drop the reply and count it
    Drop,
    /// Disconnect the client
    Disconnect,
    /// Let the client's own commands wait until it reads
    Wait,
}

impl From<OnOverflow> for Overflow {
    fn from(overflow: OnOverflow) -> Self {
        match overflow {
            OnOverflow::Drop => Overflow::Drop,
            OnOverflow::Disconnect => Overflow::Disconnect,
            OnOverflow::Wait => Overflow::Wait,
        }
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err("it has to be a whole number, at least 1".into()),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=MAX_THREADS) => Ok(number),
        _ => Err(format!(
            "it has to be a whole number from 1 to {MAX_THREADS}"
        )),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    number
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(unit))
        .ok_or_else(|| "it has to be a whole number of bytes, or of K, M or G".into())
}

fn some_bytes(text: &str) -> Result<usize, String> {
    match bytes(text)?.try_into() {
        Ok(number @ 1..) => Ok(number),
        Ok(_) => Err("it has to be at least 1".into()),
        Err(_) => Err("it is more than this machine can address".into()),
    }
}

fn delay(text: &str) -> Result<Delay, String> {
    match text {
        "always" => Ok(Delay(None)),
        _ => program::seconds(text).map(|time| Delay(Some(time))),
    }
}

fn store_timeout(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.01..=3600.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "it has to be a number of seconds, from 0.01 to 3600".into())
}
