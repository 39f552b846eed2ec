//! The text, as a parser of Prometheus reads it, and its numbers.

use std::{
    future::Future,
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use futures_lite::future;
use keywire::{
    Handle, Histogram, Server, StoreKind,
    store::{Batch, Order, Store, Submission},
};

use crate::request;

/// A store of this kind that answers nothing. It has measured something.
struct OfKind<const KIND: u8>;

impl<const KIND: u8> Store for OfKind<KIND> {
    const ORDER: Order = Order::Immediate;
    const KIND: StoreKind = match KIND {
        0 => StoreKind::Other,
        1 => StoreKind::Memory,
        2 => StoreKind::Disk,
        _ => StoreKind::Cluster,
    };

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.fail("never");
        batch.done()
    }

    fn commit_times(&self) -> Option<Histogram> {
        (Self::KIND == StoreKind::Disk).then(times)
    }

    fn answer_times(&self) -> Option<Histogram> {
        (Self::KIND == StoreKind::Cluster).then(times)
    }
}

fn times() -> Histogram {
    let mut times = Histogram::of_times();
    for time in [3, 30, 300_000_000] {
        times.record_time(Duration::from_micros(time));
    }
    times
}

/// What a server with such a store gives.
fn text_of<const KIND: u8>() -> String {
    let server = Server::builder().store(OfKind::<KIND>).build();
    let handle = server.handle();
    let work = async {
        let client = handle.client().await.unwrap();
        // Each is in a round of its own, and a round is counted when it has ended.
        client.sync().await.unwrap();
        client.sync().await.unwrap();
        let text = handle.openmetrics();
        handle.shutdown(Duration::ZERO).await;
        text
    };
    future::block_on(future::zip(server.run(), work)).1
}

/// The text of a server of each kind.
pub(crate) fn all_texts() -> [String; 4] {
    [
        text_of::<0>(),
        text_of::<1>(),
        text_of::<2>(),
        text_of::<3>(),
    ]
}

/// The parser is that of Prometheus's client for Python, which keeps to the standard in all it says.
fn parse(text: &str) {
    const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
assert len(families) > 20, families
assert all(family.documentation for family in families)
";
    // Debian's package is for Debian's Python.
    let has_parser = |python: &&str| {
        let script = "import prometheus_client.openmetrics.parser";
        let mut command = Command::new(python);
        let status = command.args(["-c", script]).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let Some(python) = ["/usr/bin/python3", "python3"].into_iter().find(has_parser) else {
        eprintln!("NOT TESTED: the text by a parser, since python3-prometheus-client is missing");
        return;
    };
    let mut parser = Command::new(python);
    let mut parser = parser.args(["-c", PARSE]).stdin(Stdio::piped());
    parser = parser.stderr(Stdio::piped());
    let mut parser = parser.spawn().unwrap();
    let mut input = parser.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = parser.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}\n{text}");
}

/// A sample, by its name and labels.
#[track_caller]
pub(crate) fn sample(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
    let mut samples = samples.filter(|(of, _)| *of == name);
    let (_, value) = samples.next().expect(name);
    assert_eq!(samples.next(), None, "{name} is there twice");
    value.parse().unwrap()
}

#[test]
fn prometheus_can_read_it() {
    for text in all_texts() {
        parse(&text);
    }
    let server = Server::new();
    let never_ran: Handle = server.handle();
    parse(&never_ran.openmetrics());
    let process = request::Server::start(&[]);
    process.process.connect().end_with("Put:a:1\nBad\nGet:a\n");
    parse(&process.get("/metrics").body);
}

#[test]
fn what_clients_did_is_counted() {
    let server = request::Server::start(&["--max-values", "2", "--max-line", "100"]);
    let mut client = server.process.connect();
    client.send("Put:a:1\nPut:a:2\nPut:a:3\nGet:a\nWatch:a\nSet:a:4\nBad\nKeys:\n");
    client.send(format!("Put:a:{}\n", "x".repeat(200)));
    client.sync();
    let text = server.get("/metrics").body;
    for (name, value) in [
        ("keywire_commands_total{kind=\"put\"}", 3.0),
        ("keywire_commands_total{kind=\"get\"}", 1.0),
        ("keywire_commands_total{kind=\"set\"}", 1.0),
        ("keywire_commands_total{kind=\"walk\"}", 1.0),
        ("keywire_commands_total{kind=\"watch\"}", 1.0),
        ("keywire_commands_total{kind=\"sync\"}", 1.0),
        ("keywire_commands_total{kind=\"delete\"}", 0.0),
        ("keywire_error_lines_total", 3.0),
        ("keywire_refusals_total{reason=\"max_values\"}", 1.0),
        ("keywire_refusals_total{reason=\"max_line\"}", 1.0),
        ("keywire_events_total", 1.0),
        ("keywire_watches", 1.0),
        ("keywire_clients", 1.0),
        ("keywire_disconnects_total", 0.0),
        ("keywire_store_info{kind=\"memory\"}", 1.0),
        ("keywire_store_keys", 1.0),
        ("keywire_store_values", 1.0),
        ("keywire_store_data_bytes", 2.0),
    ] {
        assert_eq!(sample(&text, name), value, "{name}");
    }
    assert!(!text.contains("keywire_commit") && !text.contains("keywire_cluster"));
}

#[test]
fn a_histogram_is_cumulative_and_ends_with_its_count() {
    let [_, memory, disk, cluster] = all_texts();
    let histograms = [
        (&memory, "keywire_round_duration_seconds"),
        (&memory, "keywire_outbox_fill_ratio"),
        (&disk, "keywire_commit_duration_seconds"),
        (&cluster, "keywire_cluster_answer_duration_seconds"),
    ];
    for (text, name) in histograms {
        let start = format!("{name}_bucket{{le=\"");
        let buckets = text.lines().filter_map(|line| line.strip_prefix(&start));
        let buckets = buckets.map(|line| {
            let (bound, count) = line.split_once("\"} ").unwrap();
            let bound = bound.replace("+Inf", "inf").parse::<f64>().unwrap();
            (bound, count.parse::<f64>().unwrap())
        });
        let buckets: Vec<_> = buckets.collect();
        assert!(
            buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
            "{buckets:?}"
        );
        let count = sample(text, &format!("{name}_count"));
        assert!(count > 0.0, "{name}");
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)));
    }
    assert_eq!(
        sample(&disk, "keywire_commit_duration_seconds_sum"),
        300.000_033
    );
    assert_eq!(
        sample(
            &disk,
            "keywire_commit_duration_seconds_bucket{le=\"0.000004\"}"
        ),
        1.0
    );
}
