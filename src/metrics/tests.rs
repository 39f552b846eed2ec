//! What is counted is in the text, and what is in the text is in the guide.

use std::collections::BTreeMap;

use super::*;

const PAGE: &str = include_str!("../guide/metrics.md");

/// What a scrape of these would be.
#[derive(Debug)]
struct Fixed(Stats, Histograms);

impl Collector for Fixed {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_all(encoder, &self.0, &self.1)
    }
}

fn text(stats: Stats) -> String {
    let histograms = Histograms {
        commit: Some(Histogram::of_times()),
        node_answer: Some(Histogram::of_times()),
        ..Histograms::default()
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Fixed(stats, histograms)));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

/// Counters that differ from each other, on a store of this kind.
fn distinct(kind: StoreKind) -> Stats {
    let counters = Stats::default().counters().enumerate();
    let words = counters.map(|(at, (name, _))| match name {
        "store" => format!("store={}", kind as u64),
        // It holds those of two reasons, and those for the shutdown.
        "refused" => format!("refused={}", 3 * 100_000),
        _ => format!("{name}={}", 100_000 + at),
    });
    let words: Vec<_> = words.collect();
    Stats::parse(words.join(" ").as_bytes()).unwrap()
}

fn sample_values(text: &str) -> Vec<f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let values = samples.map(|line| line.rsplit_once(' ').unwrap().1);
    values.map(|value| value.parse().unwrap()).collect()
}

#[test]
fn every_counter_is_a_metric() {
    // The histogram of commits has these, and the kinds of commands add up to their number.
    let elsewhere = [
        "commands",
        "commits",
        "commit_last_us",
        "commit_longest_us",
        "refused",
        "store",
    ];
    let (disk, cluster) = (distinct(StoreKind::Disk), distinct(StoreKind::Cluster));
    let mut values = sample_values(&text(disk));
    values.extend(sample_values(&text(cluster)));
    for (name, value) in disk.counters() {
        if !elsewhere.contains(&name) {
            assert!(values.contains(&(value as f64)), "{name} is no metric");
        }
    }
    let closing = disk.refused - disk.full_clients - disk.full_addresses;
    assert!(values.contains(&(closing as f64)));
}

#[test]
fn a_kind_of_command_is_not_left_out() {
    let text = text(distinct(StoreKind::Memory));
    let commands = text
        .lines()
        .filter(|line| line.starts_with("keywire_commands_total{"));
    let kinds: Vec<_> = Stats::default().counters().map(|(name, _)| name).collect();
    // They stand between these two.
    let place = |name| kinds.iter().position(|&kind| kind == name).unwrap();
    assert_eq!(commands.count(), place("unauthorized") - place("gets"));
}

/// Names with their types and labels, as the text has them.
fn families(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let mut families = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            last = format!("{name}{suffix}");
            families.insert(last.clone(), (kind.to_owned(), Vec::new()));
        } else if let Some((label, value)) = label(line).filter(|(label, _)| *label != "le") {
            let (_, labels) = families.get_mut(&last).unwrap();
            if labels.is_empty() {
                labels.push(label.to_owned());
            }
            if label != "version" {
                labels.push(value.to_owned());
            }
        }
    }
    families
}

fn label(line: &str) -> Option<(&str, &str)> {
    let (_, labels) = line.split_once('{')?;
    labels.split_once("\"} ")?.0.split_once("=\"")
}

/// The same, as the guide has them.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `keywire_"));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else {
            panic!("{row}");
        };
        let words = |text: &str| -> Vec<String> {
            let words = text.split('`').skip(1).step_by(2);
            words.map(str::to_owned).collect()
        };
        (words(name).remove(0), (kind.to_owned(), words(labels)))
    });
    rows.collect()
}

#[test]
fn the_guide_lists_every_metric() {
    let mut actual = families(&text(distinct(StoreKind::Disk)));
    actual.append(&mut families(&text(distinct(StoreKind::Cluster))));
    let mut documented = documented();
    // A server has one of these.
    let kinds = documented.get_mut("keywire_store_info").unwrap();
    let known = [
        StoreKind::Memory,
        StoreKind::Disk,
        StoreKind::Cluster,
        StoreKind::Other,
    ]
    .map(StoreKind::name);
    assert_eq!(kinds.1.split_off(1), known);
    actual.get_mut("keywire_store_info").unwrap().1.truncate(1);
    assert_eq!(documented, actual);
}

#[test]
fn alerts_are_on_metrics_that_are_there() {
    let (_, alerts) = PAGE.split_once("# What to alert on").unwrap();
    let documented = documented();
    let words = alerts.split(|byte: char| !(byte.is_ascii_alphanumeric() || byte == '_'));
    let mut names = words.filter(|word| word.starts_with("keywire_")).peekable();
    assert!(names.peek().is_some());
    for name in names {
        assert!(documented.contains_key(name), "{name}");
    }
}
