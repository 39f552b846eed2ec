//! The router on a simulated cluster: a network that delays, loses and redirects, and nodes that hang and
//! die. One seed is one run.

mod checks;
mod fake_node;
mod faults;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    job::Job,
    layout::Layout,
    node::{Link, NODE_BYTES, NODE_REQUESTS},
    resp::{Reply, Scanner},
    router::{Config, Router},
    slots::{self, Address, SlotRange},
};
use crate::protocol::{Operation, Write};

const NODES: u16 = 4;
const KEYS: usize = 6;
const TIMEOUT: Duration = Duration::from_millis(400);
/// So many writes and batches a run.
const LAST_VALUE: u64 = 1_400;
const STEP: Duration = Duration::from_millis(1);

/// One connection of a node.
#[derive(Default)]
struct Wire {
    /// Bytes that the node has not handled, and replies that have not come.
    requests: Vec<u8>,
    replies: VecDeque<Vec<u8>>,
    asking: bool,
    /// Steps for which a `WAIT` goes on.
    waits: u32,
}

/// A node, or the reader of one, which has only the wires.
#[derive(Default)]
struct FakeNode {
    wire: Option<Wire>,
    /// A connection that the router has given up. The node may handle what it was sent all the same.
    old: Vec<Wire>,
    hangs: bool,
    is_down: bool,
    knows_script: bool,
    /// The later epoch wins.
    epoch: u64,
    /// It has heard nothing since the map was this.
    old_rows: Option<Vec<SlotRange>>,
}

struct Simulation {
    random: fastrand::Rng,
    now: Instant,
    steps: u32,
    router: Router,
    layout: Layout,
    nodes: Vec<FakeNode>,
    /// Owner by bucket, and the node that it moves to.
    owners: HashMap<u16, (usize, Option<usize>)>,
    /// Keys that have moved there.
    moved: HashSet<Vec<u8>>,
    lists: HashMap<Vec<u8>, Vec<u64>>,
    applied: HashSet<u64>,
    keys: Vec<Vec<u8>>,
    open: HashMap<usize, Expected>,
    next_value: u64,
    writes: HashMap<u64, Fate>,
    /// Writes that were answered, and the number of the first that was submitted after that.
    answered: HashMap<u64, u64>,
    shown: Vec<Shown>,
    done: Done,
}

#[derive(Default, Debug)]
struct Done {
    answered: u64,
    failed: u64,
    unconfirmed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Done,
    Failed,
    Unconfirmed,
}

/// What a `Get` has shown, and the number of the first write that was submitted after it was answered.
struct Shown {
    key: usize,
    length: usize,
    next: u64,
}

/// What was submitted: key, and the value of a write.
struct Expected {
    commands: Vec<(usize, Option<u64>)>,
    /// Writes had these numbers before it was submitted.
    from: u64,
    deadline: Instant,
}

fn address(node: usize) -> Address {
    Address {
        host: "sim".into(),
        port: node as u16,
    }
}

/// Some of one bucket, and some of others.
fn keys() -> Vec<Vec<u8>> {
    let name = |number: u32| format!("key{number}").into_bytes();
    let bucket = slots::bucket(&name(0));
    let of_bucket = (0..).map(name).filter(|key| slots::bucket(key) == bucket);
    let others = (1..).map(name).filter(|key| slots::bucket(key) != bucket);
    of_bucket
        .take(KEYS / 2)
        .chain(others.take(KEYS / 2))
        .collect()
}

impl Simulation {
    fn new(seed: u64, replicas: usize) -> Self {
        let now = Instant::now();
        let layout = Layout::new(b"k:", &[b'0'; 40]);
        let mut load = Vec::new();
        super::resp::push_command(&mut load, &[b"SCRIPT", b"LOAD", b"x"]);
        let config = Config {
            timeout: TIMEOUT,
            replicas,
            auth: None,
            load,
        };
        let mut router = Router::new(config, now);
        for node in 0..NODES {
            // The first ones of the router.
            router.node(&address(node.into()), now);
        }
        let mut simulation = Self {
            random: fastrand::Rng::with_seed(seed),
            now,
            steps: 0,
            router,
            layout,
            nodes: (1..=NODES)
                .map(|epoch| FakeNode {
                    epoch: epoch.into(),
                    ..FakeNode::default()
                })
                .collect(),
            owners: HashMap::new(),
            moved: HashSet::new(),
            lists: HashMap::new(),
            applied: HashSet::new(),
            keys: keys(),
            open: HashMap::new(),
            next_value: 1,
            writes: HashMap::new(),
            answered: HashMap::new(),
            shown: Vec::new(),
            done: Done::default(),
        };
        let buckets: Vec<u16> = simulation
            .keys
            .iter()
            .map(|key| slots::bucket(key))
            .collect();
        for bucket in buckets {
            // Two buckets of one slot have one owner.
            let owner = usize::from(slots::slot(bucket) % NODES);
            simulation.owners.insert(bucket, (owner, None));
        }
        let rows = simulation.rows();
        simulation.router.on_slots(None, &rows, now);
        simulation
    }

    fn rows(&self) -> Vec<SlotRange> {
        let row = |(&bucket, &(owner, _)): (&u16, &(usize, _))| SlotRange {
            first: slots::slot(bucket),
            last: slots::slot(bucket),
            master: address(owner),
            replicas: Vec::new(),
            epoch: Some(self.nodes[owner].epoch),
        };
        let mut rows: Vec<_> = self.owners.iter().map(row).collect();
        rows.sort_unstable_by_key(|row| row.first);
        rows
    }

    /// The node that one of the router's nodes is.
    fn place(&self, node: usize) -> usize {
        self.router.nodes[node].address.port.into()
    }

    fn step(&mut self, faults: bool) {
        self.now += STEP;
        let nodes = self.router.nodes.len();
        self.nodes.resize_with(nodes, FakeNode::default);
        for _ in 0..self.random.usize(0..3) {
            if self.open.len() < 40 && self.next_value < LAST_VALUE {
                self.submit();
            }
        }
        if faults {
            self.fault();
        }
        while let Some((node, _)) = self.router.next_connect() {
            if self.nodes[self.place(node)].is_down || self.random.u8(..) < 20 {
                self.router.on_closed(node, self.now);
            } else {
                self.router.on_connected(node, self.now);
                let wire = Wire::default();
                let old = self.nodes[node].wire.replace(wire);
                self.nodes[node].old.extend(old);
            }
        }
        for node in 0..self.nodes.len() {
            self.transmit(node);
            let wires = 1 + self.nodes[node].old.len();
            for wire in 0..wires {
                self.serve(node, wire);
            }
            self.deliver(node);
        }
        self.steps += 1;
        if self.steps.is_multiple_of(10) || self.random.u8(..) < 20 {
            self.router.on_time(self.now);
            self.drop_closed();
        }
        self.collect();
        for node in &self.router.nodes {
            assert!(node.requests <= NODE_REQUESTS);
            assert!(node.out.len() < 2 * NODE_BYTES);
        }
    }

    /// Connections that the router has given up are closed.
    fn drop_closed(&mut self) {
        for (node, fake) in self.nodes.iter_mut().enumerate() {
            let link = self.router.nodes[node].link;
            if !matches!(link, Link::Up | Link::Handshake) {
                fake.old.extend(fake.wire.take());
            }
        }
    }

    fn submit(&mut self) {
        let count = self.random.usize(1..6);
        let from = self.next_value;
        let commands: Vec<_> = (0..count)
            .map(|_| {
                let key = self.random.usize(..KEYS);
                let value = self.random.bool().then(|| {
                    self.next_value += 1;
                    self.next_value - 1
                });
                (key, value)
            })
            .collect();
        let values: Vec<_> = commands
            .iter()
            .map(|(_, value)| value.unwrap_or(0).to_string())
            .collect();
        let operations: Vec<_> = commands
            .iter()
            .zip(&values)
            .map(|(&(key, value), text)| match value {
                None => Operation::Get {
                    key: &self.keys[key],
                },
                Some(_) => Operation::Write(Write::Put {
                    key: &self.keys[key],
                    value: text.as_bytes(),
                }),
            })
            .collect();
        for (_, value) in &commands {
            self.writes.extend(value.map(|value| (value, Fate::Open)));
        }
        let job = Job::new(&operations, &self.layout, usize::MAX, |_| false);
        let job = self.router.submit(job, self.now);
        let expected = Expected {
            commands,
            from,
            deadline: self.now + TIMEOUT + 20 * STEP,
        };
        self.open.insert(job, expected);
        // So that what is answered from now on is later than this.
        self.next_value += 1;
    }

    fn transmit(&mut self, node: usize) {
        let link = self.router.nodes[node].link;
        let Some(wire) = &mut self.nodes[node].wire else {
            return;
        };
        if !matches!(link, Link::Up | Link::Handshake) || self.random.u8(..) < 60 {
            return;
        }
        let mut out = Vec::new();
        self.router.take_out(node, &mut out, self.now);
        wire.requests.extend_from_slice(&out);
        self.router.on_written(node, out.len());
    }

    /// The node handles some of the commands of a connection.
    fn serve(&mut self, node: usize, wire: usize) {
        let place = self.place(node);
        if self.nodes[place].hangs || self.nodes[place].is_down {
            return;
        }
        for _ in 0..self.random.usize(..12) {
            let fake = &mut self.nodes[node];
            let Some(it) = fake.old.iter_mut().chain(&mut fake.wire).nth(wire) else {
                return;
            };
            it.waits = it.waits.saturating_sub(1);
            if it.waits > 0 {
                return;
            }
            let Ok(Some(length)) = Scanner::default().scan(&it.requests) else {
                return;
            };
            let command: Vec<u8> = it.requests.drain(..length).collect();
            let asking = std::mem::take(&mut it.asking);
            let Some(Reply::Array(words)) = Reply::parse(&command) else {
                panic!("no command");
            };
            let words: Vec<Vec<u8>> = words.values().map(<[u8]>::to_vec).collect();
            let reply = self.execute(place, &words, asking);
            let waits = match words[0] == b"WAIT" {
                true => self.random.u32(..80),
                false => 0,
            };
            let fake = &mut self.nodes[node];
            if let Some(it) = fake.old.iter_mut().chain(&mut fake.wire).nth(wire) {
                it.asking = words[0] == b"ASKING";
                it.waits = waits;
                it.replies.push_back(reply);
            }
        }
    }

    fn deliver(&mut self, node: usize) {
        for _ in 0..self.random.usize(..12) {
            let Some(wire) = &mut self.nodes[node].wire else {
                return;
            };
            let Some(reply) = wire.replies.pop_front() else {
                return;
            };
            self.router.on_read(node, self.now);
            if self.router.on_reply(node, &reply, self.now).is_err() {
                self.nodes[node].wire = None;
                self.router.on_closed(node, self.now);
            }
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("KEYWIRE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => seed..seed + 1,
        None => 0..40,
    }
}

#[test]
fn the_rules_hold_on_a_bad_network() {
    let mut all = Done::default();
    for seed in seeds() {
        eprintln!("KEYWIRE_SEED={seed}");
        let done = Simulation::new(seed, usize::from(seed % 3 == 0)).run();
        all.answered += done.answered;
        all.failed += done.failed;
        all.unconfirmed += done.unconfirmed;
    }
    eprintln!("{all:?}");
    // A single run may be one of long moves.
    assert!(
        seeds().count() == 1 || all.answered > 10 * all.failed,
        "{all:?}"
    );
}
