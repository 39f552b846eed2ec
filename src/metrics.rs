//! Counters and histograms as OpenMetrics text, for Prometheus and its like.
//!
//! A [`Handle`] gives the text:
//!
//! ```
//! let server = keywire::Server::new();
//! let text = server.handle().openmetrics();
//! assert!(text.contains("\nkeywire_commands_total{kind=\"get\"} 0\n"));
//! assert!(text.ends_with("# EOF\n"));
//! ```
//!
//! It is a [`Collector`] too, for a program that has a registry of its own:
//!
//! ```
//! use keywire::metrics::prometheus_client::{encoding::text::encode, registry::Registry};
//!
//! let server = keywire::Server::new();
//! let mut registry = Registry::default();
//! registry.register_collector(Box::new(server.handle()));
//! // With each scrape:
//! let mut text = String::new();
//! encode(&mut text, &registry)?;
//! assert!(text.contains("keywire_clients 0"));
//! # Ok::<(), std::fmt::Error>(())
//! ```
//!
//! A registry takes one server's handle, since each metric may stand in the text once. There is no HTTP server
//! in this crate; the example server shows one. [`guide::metrics`](crate::guide::metrics) lists all metrics.

use std::fmt;

pub use prometheus_client;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};

use crate::{Handle, Histogram, Histograms, Stats, StoreKind};

/// The content type of an HTTP response with [`Handle::openmetrics`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Handle {
    /// The counters and histograms of now as OpenMetrics text. See [`metrics`](crate::metrics).
    #[must_use]
    pub fn openmetrics(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        // Writing to a `String` does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

/// Every scrape has the counters and histograms of its moment.
impl Collector for Handle {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_all(encoder, &self.stats(), &self.histograms())
    }
}

fn encode_all(
    encoder: DescriptorEncoder<'_>,
    stats: &Stats,
    histograms: &Histograms,
) -> fmt::Result {
    let mut families = Families(encoder);
    families.server(stats, histograms)?;
    families.connections(stats)?;
    families.commands(stats)?;
    families.replies(stats)?;
    families.store(stats)?;
    match stats.store_kind() {
        StoreKind::Disk => families.disk(stats, histograms),
        StoreKind::Cluster => families.cluster(stats, histograms),
        StoreKind::Memory | StoreKind::Other => Ok(()),
    }
}

/// Writes metric families. Counters get their `_total`, and what has a unit gets that, from the encoder.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn server(&mut self, stats: &Stats, histograms: &Histograms) -> fmt::Result {
        let version = ("version", env!("CARGO_PKG_VERSION"));
        self.info("keywire_build", "The version of keywire.", version)?;
        let uptime = stats.uptime.as_secs_f64();
        let seconds = Some(Unit::Seconds);
        let help = "Time since the server began to run.";
        self.gauge("keywire_uptime", help, seconds, uptime)?;
        self.times(
            "keywire_round_duration",
            "How long the rounds of the coordinator took.",
            Some(&histograms.round),
        )?;
        self.histogram(
            "keywire_outbox_fill",
            "The fullest outbox of each round, as a share of its limit.",
            Unit::Other("ratio".into()),
            &histograms.outbox_fill,
        )
    }

    fn connections(&mut self, stats: &Stats) -> fmt::Result {
        let full = stats.full_clients + stats.full_addresses;
        let closing = stats.refused.saturating_sub(full);
        self.gauge(
            "keywire_clients",
            "Clients connected now.",
            None,
            stats.active,
        )?;
        self.counter(
            "keywire_disconnects",
            "Clients that have gone, whatever the cause.",
            stats.dropped,
        )?;
        self.counters(
            "keywire_refused_connections",
            "Connections that were refused.",
            "reason",
            &[
                ("max_clients", stats.full_clients),
                ("max_clients_per_address", stats.full_addresses),
                ("closing", closing),
            ],
        )?;
        self.counter(
            "keywire_accept_errors",
            "Times that a listener failed to accept a connection.",
            stats.accept_errors,
        )?;
        self.counters(
            "keywire_timed_out_connections",
            "Connections that were closed because of a timeout.",
            "timeout",
            &[("line", stats.slow_lines), ("idle", stats.idle)],
        )
    }

    fn commands(&mut self, stats: &Stats) -> fmt::Result {
        self.counters(
            "keywire_commands",
            "Commands that were understood.",
            "kind",
            &[
                ("get", stats.gets),
                ("put", stats.puts),
                ("update", stats.updates),
                ("delete", stats.deletes),
                ("set", stats.sets),
                ("remove", stats.removes),
                ("walk", stats.walks),
                ("sync", stats.syncs),
                ("stats", stats.stats),
                ("watch", stats.watches),
                ("unwatch", stats.unwatches),
                ("auth", stats.auths),
            ],
        )?;
        self.counter(
            "keywire_error_lines",
            "Error lines queued for clients, whatever the reason.",
            stats.errors,
        )?;
        self.counters(
            "keywire_refusals",
            "Lines and replies that were refused for a secret or a limit.",
            "reason",
            &[
                ("unauthorized", stats.unauthorized),
                ("max_line", stats.long_lines),
                ("max_reply", stats.long_replies),
                ("max_watch_prefix", stats.long_prefixes),
                ("max_watches", stats.full_watches),
                ("max_store", stats.full_store),
                ("max_values", stats.full_values),
            ],
        )?;
        self.counter(
            "keywire_unconfirmed_writes",
            "Writes that may have been applied or not.",
            stats.unconfirmed,
        )?;
        self.counter(
            "keywire_throttles",
            "Times that a client's lines had to wait for its line rate.",
            stats.throttled,
        )
    }

    fn replies(&mut self, stats: &Stats) -> fmt::Result {
        self.counter(
            "keywire_reply_lines",
            "Reply lines queued for clients, without events.",
            stats.lines_queued,
        )?;
        self.counter(
            "keywire_dropped_reply_lines",
            "Reply lines dropped because a client did not read.",
            stats.lines_dropped,
        )?;
        self.gauge(
            "keywire_watches",
            "Keys and prefixes watched now.",
            None,
            stats.watching,
        )?;
        self.counter(
            "keywire_events",
            "Changes queued for watchers, each watcher's counted.",
            stats.events,
        )?;
        self.counter(
            "keywire_missed_events",
            "Changes that watchers missed because they did not keep up.",
            stats.missed,
        )
    }

    fn store(&mut self, stats: &Stats) -> fmt::Result {
        let kind = ("kind", stats.store_kind().name());
        self.info("keywire_store", "What keeps the values.", kind)?;
        let bytes = || Some(Unit::Bytes);
        self.gauge("keywire_store_keys", "Keys in the store.", None, stats.keys)?;
        self.gauge(
            "keywire_store_values",
            "Values in the store.",
            None,
            stats.values,
        )?;
        self.gauge(
            "keywire_store_data",
            "Bytes of these keys and values.",
            bytes(),
            stats.bytes,
        )?;
        self.gauge(
            "keywire_store_charged",
            "What max_store bounds.",
            bytes(),
            stats.size,
        )
    }

    fn disk(&mut self, stats: &Stats, histograms: &Histograms) -> fmt::Result {
        self.times(
            "keywire_commit_duration",
            "How long the commits to the disk took.",
            histograms.commit.as_ref(),
        )?;
        self.counter(
            "keywire_committed_writes",
            "Writes in these commits.",
            stats.commit_writes,
        )?;
        self.gauge(
            "keywire_disk",
            "What the store has on the disk.",
            Some(Unit::Bytes),
            stats.disk_bytes,
        )?;
        self.gauge(
            "keywire_log_commits",
            "Commits that are not in a snapshot yet.",
            None,
            stats.log_commits,
        )?;
        self.gauge(
            "keywire_refusing_writes",
            "1 if writes are refused, because the disk has failed.",
            None,
            stats.refusing,
        )
    }

    fn cluster(&mut self, stats: &Stats, histograms: &Histograms) -> fmt::Result {
        self.times(
            "keywire_cluster_answer_duration",
            "How long nodes took to answer a request, sampled.",
            histograms.node_answer.as_ref(),
        )?;
        self.gauge(
            "keywire_cluster_nodes",
            "Nodes that the store is connected to.",
            None,
            stats.nodes_up,
        )?;
        self.gauge(
            "keywire_cluster_pending_commands",
            "Commands that these nodes have to answer.",
            None,
            stats.under_way,
        )?;
        self.counter(
            "keywire_cluster_retries",
            "Times that a request was sent to a node again.",
            stats.retries,
        )?;
        self.counter(
            "keywire_cluster_failures",
            "Commands that failed or are unconfirmed because of a node.",
            stats.failures,
        )
    }

    fn family(
        &mut self,
        (name, help): (&str, &str),
        unit: Option<Unit>,
        kind: MetricType,
        encode: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        encode(self.0.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }

    fn info(&mut self, name: &str, help: &str, label: (&str, &str)) -> fmt::Result {
        self.family((name, help), None, MetricType::Info, |mut metric| {
            metric.encode_info(&[label])
        })
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.family((name, help), unit, MetricType::Gauge, |mut metric| {
            metric.encode_gauge(&value)
        })
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family((name, help), None, MetricType::Counter, |mut metric| {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    /// One counter for each value of a label.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counters: &[(&str, u64)],
    ) -> fmt::Result {
        self.family((name, help), None, MetricType::Counter, |mut metric| {
            for (of, value) in counters {
                metric
                    .encode_family(&[(label, *of)])?
                    .encode_counter::<NoLabelSet, _, f64>(value, None)?;
            }
            Ok(())
        })
    }

    fn times(&mut self, name: &str, help: &str, times: Option<&Histogram>) -> fmt::Result {
        match times {
            Some(times) => self.histogram(name, help, Unit::Seconds, times),
            None => Ok(()),
        }
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Unit,
        histogram: &Histogram,
    ) -> fmt::Result {
        let buckets: Vec<_> = histogram.buckets().collect();
        let (sum, count) = (histogram.sum(), histogram.count());
        self.family(
            (name, help),
            Some(unit),
            MetricType::Histogram,
            |mut metric| metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
        )
    }
}

#[cfg(test)]
mod tests;
