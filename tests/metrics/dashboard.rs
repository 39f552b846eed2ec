//! The dashboard: what its panels ask for is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::text::all_texts;

const DASHBOARD: &str = include_str!("../../examples/server/grafana.json");

/// What the servers have: the names of samples, with the labels of each and the values of these.
fn samples() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut samples = BTreeMap::<_, BTreeMap<_, BTreeSet<_>>>::new();
    for text in all_texts() {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, labels) = line.split_once(['{', ' ']).unwrap();
            let known = samples.entry(name.to_owned()).or_default();
            if let Some((label, rest)) = labels.split_once("=\"") {
                let (value, _) = rest.split_once('"').unwrap();
                known
                    .entry(label.to_owned())
                    .or_default()
                    .insert(value.to_owned());
            }
        }
    }
    samples
}

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

fn panels(dashboard: &Value) -> &[Value] {
    dashboard["panels"].as_array().unwrap()
}

/// The words of an expression, each with what follows it.
fn words(expression: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_in_word = |byte: char| byte.is_ascii_alphanumeric() || byte == '_';
    let starts = expression
        .char_indices()
        .filter(move |&(at, byte)| is_in_word(byte) && !expression[..at].ends_with(is_in_word));
    starts.map(move |(at, _)| {
        let rest = &expression[at..];
        rest.split_at(rest.find(|byte| !is_in_word(byte)).unwrap_or(rest.len()))
    })
}

#[test]
fn every_query_is_on_metrics_and_labels_that_are_there() {
    let samples = samples();
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let query = target["expr"].as_str().unwrap();
            let mut metrics = words(query).filter(|(word, _)| word.starts_with("keywire_"));
            let (metric, rest) = metrics.next().expect(query);
            assert_eq!(metrics.next(), None, "{query}");
            let labels = samples
                .get(metric)
                .unwrap_or_else(|| panic!("{title}: {metric}"));
            // The label that Prometheus adds, and no other.
            assert!(rest.starts_with("{instance=~\"$instance\"}"), "{query}");
            let grouped = query
                .split_once(" by (")
                .map(|(_, by)| by.split_once(')').unwrap().0);
            if let Some(label) = grouped {
                assert!(labels.contains_key(label), "{query}");
            }
            let legend = target["legendFormat"].as_str().unwrap();
            for label in legend.split("{{").skip(1) {
                let (label, _) = label.split_once("}}").unwrap();
                let is_known = Some(label) == grouped || label == "instance" && grouped.is_none();
                assert!(is_known, "{title}: {legend}");
            }
            // Only counters have rates, and all of them have.
            let is_counter = ["_total", "_count", "_bucket"]
                .iter()
                .any(|end| metric.ends_with(end));
            assert_eq!(query.contains("rate("), is_counter, "{query}");
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let shown = DASHBOARD.split('"').flat_map(words).map(|(word, _)| word);
    let shown: BTreeSet<_> = shown.collect();
    for name in samples().keys() {
        let base = ["_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end));
        let name = base.map_or(name.clone(), |base| format!("{base}_bucket"));
        if !name.ends_with("_info") {
            assert!(shown.contains(&*name), "{name}");
        }
    }
}

#[test]
fn panels_have_names_and_places_of_their_own() {
    let dashboard = dashboard();
    let (mut ids, mut titles, mut cells) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        assert!(titles.insert(panel["title"].as_str().unwrap()));
        assert_eq!(panel["datasource"]["uid"], "${datasource}");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        for column in side("x")..side("x") + side("w") {
            assert!(column < 24);
            for row in side("y")..side("y") + side("h") {
                assert!(cells.insert((column, row)), "{}", panel["title"]);
            }
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| &variable["name"]).collect();
    assert_eq!(names, ["datasource", "instance"]);
    let instances = variables[1]["query"]["query"].as_str().unwrap();
    let (metric, _) = words(instances)
        .find(|(word, _)| word.starts_with("keywire_"))
        .unwrap();
    assert!(samples().contains_key(metric));
}
