//! Slots move from one master to another, with the keys in them, while clients work.

use std::{
    thread,
    time::{Duration, Instant},
};

use futures_lite::future;

use crate::{
    common::wait_until,
    load::{Load, check, check_order, lists},
    nodes::{Nodes, Setup, exclusive},
    servers::{
        ClusterServer, bucket, client, keys_by_master, list_name, server, server_with, slot,
        two_servers,
    },
};

/// Checks that no call failed, and that every key has one history.
fn check_all(load: Load, servers: &[ClusterServer], groups: &[Vec<String>]) {
    let records = load.finish();
    for server in servers {
        let tally = check(&records, &lists(server, groups));
        eprintln!("slots moved: {tally}");
        let failed = (tally.lost, tally.refused, tally.unconfirmed);
        assert_eq!(failed, (0, 0, 0), "{tally}");
        assert!(tally.applied > 500, "{tally}");
    }
    check_order(&records);
}

/// So many slots move at a time: the first ones of a master. (Valkey takes 20 ms or more for each.)
pub(crate) const MOVED: u16 = 200;

/// Exchanges keys of the first master for some whose slots move.
pub(crate) fn exchange(keys: &mut [String]) {
    let moving = (0..).map(|number| format!("m{number}"));
    let moving = moving.filter(|key| slot(key.as_bytes()) < MOVED);
    keys.iter_mut().zip(moving).for_each(|(key, it)| *key = it);
}

fn reshard_under_load(depth: usize) {
    let nodes = exclusive(Setup::default());
    let mut groups = keys_by_master(&nodes, 60);
    // Half of the first master's keys are in slots that move, twice.
    exchange(&mut groups[0][..30]);
    let servers = two_servers(&nodes, "reshard:");
    let load = Load::start_deep(&servers, &groups, depth);
    load.await_applied(&[0, 1, 2], 100);
    nodes.reshard(0, 1, MOVED.into());
    load.await_applied(&[0, 1, 2], 20);
    nodes.reshard(1, 2, MOVED.into());
    load.await_applied(&[0, 1, 2], 20);
    for key in &groups[0][..30] {
        assert_eq!(nodes.owner(slot(key.as_bytes())), 2, "it has moved");
    }
    check_all(load, &servers, &groups);
}

#[test]
fn nothing_is_lost_or_doubled_while_slots_move() {
    reshard_under_load(1);
}

/// So that commands of one key are in one pipeline when its slot moves.
#[test]
fn pipelined_commands_keep_their_order_while_slots_move() {
    reshard_under_load(30);
}

/// The steps of a slot's move, each with time for many calls: keys that moved are redirected with
/// ASK, those that did not are served, and a command on keys of both kinds is told to try again.
pub(crate) struct Move<'a> {
    pub(crate) nodes: &'a Nodes,
    pub(crate) slot: u16,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

impl Move<'_> {
    fn set(&self, index: usize, what: &str, id: &str) {
        let slot = self.slot.to_string();
        self.nodes
            .ask(index, ["CLUSTER", "SETSLOT", &slot, what, id]);
    }

    pub(crate) fn begin(&self) {
        self.set(self.to, "IMPORTING", &self.nodes.id(self.from));
        self.set(self.from, "MIGRATING", &self.nodes.id(self.to));
    }

    /// The names of keys that have not moved.
    pub(crate) fn left(&self) -> Vec<Vec<u8>> {
        let words = ["CLUSTER", "GETKEYSINSLOT", &self.slot.to_string(), "1000"];
        let left = self.nodes.ask(self.from, words);
        left.array()
            .iter()
            .map(|name| name.bytes().to_vec())
            .collect()
    }

    pub(crate) fn migrate(&self, name: &[u8]) {
        let port = self.nodes.port(self.to).to_string();
        let words = [
            b"MIGRATE",
            &b"127.0.0.1"[..],
            port.as_bytes(),
            name,
            b"0",
            b"5000",
        ];
        self.nodes.ask(self.from, words);
    }

    pub(crate) fn end(&self) {
        let id = self.nodes.id(self.to);
        for index in [self.to, self.from] {
            self.set(index, "NODE", &id);
        }
    }
}

#[test]
fn keys_that_have_moved_are_asked_for_where_they_are() {
    move_slot_under_load(1);
}

#[test]
fn pipelined_commands_of_a_moving_slot_keep_their_order() {
    move_slot_under_load(10);
}

fn move_slot_under_load(depth: usize) {
    let nodes = exclusive(Setup::default());
    // Keys of one slot, which moves, and keys of elsewhere.
    let others = keys_by_master(&nodes, 4);
    let moving = slot(others[0][0].as_bytes());
    let of_slot = (0..).map(|number| format!("moving{number}"));
    let of_slot: Vec<_> = of_slot
        .filter(|key| slot(key.as_bytes()) == moving)
        .take(6)
        .collect();
    let groups = [of_slot, others[1].clone(), others[2].clone()];
    let servers = [(); 2].map(|()| server_with(&nodes, "ask:", |store| store));
    let load = Load::start_deep(&servers, &groups, depth);
    load.await_applied(&[0, 1, 2], 50);

    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        let slot = Move {
            nodes: &nodes,
            slot: moving,
            from,
            to,
        };
        slot.begin();
        // Keys that are not there any more, or not yet, are written at the new place: a list must not be
        // there twice.
        let mut rounds = 0;
        while let Some(name) = slot.left().into_iter().min() {
            slot.migrate(&name);
            load.await_applied(&[1, 2], 5);
            rounds += 1;
            assert!(rounds < 100, "keys come back");
        }
        slot.end();
        load.await_applied(&[0, 1, 2], 30);
        assert_eq!(nodes.owner(moving), to);
    }
    check_all(load, &servers, &groups);
}

/// A write of a key that is on the other node than its bucket's number is refused until both are on one. It
/// waits, others of the bucket do not, and it does not wait for the whole slot.
#[test]
fn a_key_that_has_moved_alone_holds_up_no_other_of_its_bucket() {
    const SOON: Duration = Duration::from_secs(1);
    let nodes = exclusive(Setup::default());
    let apart = keys_by_master(&nodes, 1)[0][0].clone();
    let names = (0..).map(|number| format!("other{number}"));
    let of_bucket = |key: &String| bucket(key.as_bytes()) == bucket(apart.as_bytes());
    let other = &names.clone().find(of_bucket).unwrap();
    let server = server(&nodes, "apart:");
    let (client, second) = (client(&server), client(&server));
    let retries = || future::block_on(client.stats()).unwrap().retries;
    for key in [&apart, other] {
        future::block_on(client.put(key, "1")).unwrap();
    }

    let slot = Move {
        nodes: &nodes,
        slot: slot(apart.as_bytes()),
        from: 0,
        to: 1,
    };
    slot.begin();
    slot.migrate(&list_name("apart:", apart.as_bytes()));
    let key = apart.clone();
    let before = retries();
    let put = thread::spawn(move || future::block_on(second.put(&key, "2")));
    // So often that its next turn would be long in coming if it came later each time.
    wait_until("it is refused", || retries() >= before + 10);
    let began = Instant::now();
    for _ in 0..20 {
        future::block_on(client.put(other, "2")).unwrap();
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(!put.is_finished());

    for name in slot.left() {
        slot.migrate(&name);
    }
    let began = Instant::now();
    put.join().unwrap().unwrap();
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    slot.end();
    assert_eq!(future::block_on(client.get(&apart)).unwrap(), [b"1", b"2"]);
    assert_eq!(future::block_on(client.get(other)).unwrap().len(), 21);
}
