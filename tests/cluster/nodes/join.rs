//! Nodes become one cluster, and are well.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::Nodes;
use crate::common::wait_until;

const SLOTS: u16 = 16384;

impl Nodes {
    /// Makes one cluster of the nodes.
    pub(super) fn join(&self) {
        let masters = self.setup.masters;
        let range = |index: usize| {
            let at = |index: usize| usize::from(SLOTS) * index / masters;
            at(index)..at(index + 1)
        };
        let (port, bus) = (
            self.nodes[0].port.to_string(),
            self.nodes[0].bus.to_string(),
        );
        for index in 0..self.nodes.len() {
            let epoch = (index + 1).to_string();
            self.ask(index, ["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
            if index > 0 {
                self.ask(index, ["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
            if index < masters {
                let slots = range(index).map(|slot| slot.to_string());
                let words = ["CLUSTER".into(), "ADDSLOTS".into()]
                    .into_iter()
                    .chain(slots);
                self.ask(index, words);
            }
        }
        let ids: Vec<String> = (0..masters).map(|index| self.id(index)).collect();
        for index in masters..self.nodes.len() {
            let master = &ids[index % masters];
            wait_until("a replica knows its master", || {
                let mut connection = self.connect(index).unwrap();
                connection.ask(["CLUSTER", "REPLICATE", master]).is_ok()
            });
        }
    }

    /// Waits until all nodes that run say that the cluster is well, agree on who is who, and replicas
    /// have their masters' data.
    pub(crate) fn wait_ok(&self) {
        let began = Instant::now();
        let mut trouble = String::new();
        while let Err(error) = self.check() {
            trouble = error;
            assert!(
                began.elapsed() < Duration::from_secs(40),
                "the cluster is not well: {trouble}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        drop(trouble);
    }

    fn check(&self) -> Result<(), String> {
        let mut maps = Vec::new();
        for index in self.running() {
            let trouble = |what: &str| format!("node {index}: {what}");
            let mut connection = self.connect(index).map_err(|_| trouble("no connection"))?;
            let mut ask = |words: &[&str]| {
                let reply = connection.ask(words);
                reply.map_err(|error| trouble(&error.to_string()))
            };
            let info = ask(&["CLUSTER", "INFO"])?.text();
            if !info.contains("cluster_state:ok") || !info.contains("cluster_slots_ok:16384") {
                return Err(trouble(&info));
            }
            let replication = ask(&["INFO", "replication"])?.text();
            if replication.contains("role:slave") && !replication.contains("master_link_status:up")
            {
                return Err(trouble(&replication));
            }
            let map = ask(&["CLUSTER", "SLOTS"])?;
            let mut ranges: Vec<(i64, i64, i64, usize)> = Vec::new();
            for range in map.array() {
                let range = range.array();
                let port = range[2].array()[1].integer();
                ranges.push((
                    range[0].integer(),
                    range[1].integer(),
                    port,
                    range.len() - 3,
                ));
            }
            ranges.sort_unstable();
            maps.push(ranges);
        }
        let replicas = self.setup.masters * self.setup.replicas;
        let all_run = self.running().len() == self.nodes.len();
        let known = |map: &Vec<(i64, i64, i64, usize)>| {
            let masters: BTreeMap<_, _> = map.iter().map(|range| (range.2, range.3)).collect();
            masters.values().sum::<usize>()
        };
        match maps.windows(2).find(|two| two[0] != two[1]) {
            Some(two) => Err(format!("nodes differ: {two:?}")),
            None if all_run && maps.iter().any(|map| known(map) < replicas) => {
                Err("a replica is not known".into())
            }
            None => Ok(()),
        }
    }
}
