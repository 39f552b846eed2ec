//! The guide: one page for each question. The code on these pages is compiled and tested.
//!
//! To use keywire in a program:
//!
//! - [`embedding`]: a server on smol, tokio, async-std or a bare `block_on`; several threads;
//!   transports and stores of your own; and the client.
//! - [`promises`]: order, slow clients, watchers, the end of a connection, shutdown.
//!
//! To speak to a server from another language:
//!
//! - [`wire`]: every line that a client and a server may send.
//!
//! To run a server:
//!
//! - [`tools`]: the example programs, their options and exit codes.
//! - [`operations`]: in service: the log, the environment, exit codes, a unit for systemd.
//! - [`limits`]: each limit, its default, and what happens at it.
//! - [`durability`]: values on a disk: what survives, how it is kept, what happens when the disk fails.
//! - [`cluster`]: several servers on a Redis or Valkey Cluster: what is promised there, what a failover loses.
//! - [`metrics`]: counters and histograms for Prometheus, the health of a server, alerts.
//! - [`tls`]: encryption, certificates, and a first try with `openssl`.
//! - [`threats`]: what an attacker can do, and which limit prevents it.
//! - [`trouble`]: what misbehaving clients cost, as measured.
//! - [`performance`]: throughput, memory, and how to repeat the measurement.
//!
//! To go from one version to the next:
//!
//! - [`changes`]: what is different.
//! - [`versions`]: what may change, and in which version.
//!
//! To change keywire:
//!
//! - [`contributing`]: how a change is made, and how to report a fault that an attacker could use.
//! - [`simulation`]: how it is tested.

#[doc = include_str!("guide/changes.md")]
pub mod changes {}
// Its links need the feature `cluster`.
#[cfg_attr(feature = "cluster", doc = include_str!("guide/cluster.md"))]
#[cfg_attr(
    not(feature = "cluster"),
    doc = "Cluster: this page comes with the feature `cluster`."
)]
pub mod cluster {}
// Its links need the feature `disk`.
#[cfg_attr(feature = "disk", doc = include_str!("guide/durability.md"))]
#[cfg_attr(
    not(feature = "disk"),
    doc = "Durability: this page comes with the feature `disk`."
)]
pub mod durability {}
#[doc = include_str!("guide/contributing.md")]
pub mod contributing {}
// Its code needs tokio and async-std; examples/runtimes compiles it.
#[cfg_attr(not(doctest), doc = include_str!("guide/embedding.md"))]
pub mod embedding {}
#[doc = include_str!("guide/limits.md")]
pub mod limits {}
// Its links need the feature `metrics`.
#[cfg_attr(feature = "metrics", doc = include_str!("guide/metrics.md"))]
#[cfg_attr(
    not(feature = "metrics"),
    doc = "Metrics: this page comes with the feature `metrics`."
)]
pub mod metrics {}
#[doc = include_str!("guide/operations.md")]
pub mod operations {}
#[doc = include_str!("guide/performance.md")]
#[doc = "\n# The tables as a chart\n"]
#[doc = "<style>.docblock svg { max-width: 100%; height: auto; }</style>\n"]
#[doc = include_str!("guide/ratios.svg")]
pub mod performance {}
#[doc = include_str!("guide/promises.md")]
pub mod promises {}
#[doc = include_str!("guide/simulation.md")]
pub mod simulation {}
#[doc = include_str!("guide/threats.md")]
pub mod threats {}
#[doc = include_str!("guide/tls.md")]
pub mod tls {}
#[doc = include_str!("guide/tools.md")]
pub mod tools {}
#[doc = include_str!("guide/trouble.md")]
pub mod trouble {}
#[doc = include_str!("guide/versions.md")]
pub mod versions {}
#[doc = include_str!("guide/wire.md")]
pub mod wire {}
