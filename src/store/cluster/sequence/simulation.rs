//! The order of changes and batches, with a network that delays, loses and doubles changes, and nodes that
//! lose the end of a history. Run one seed by `KEYWIRE_SEED=N`.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{HOLD_TIME, Output, Sequencer};

const BUCKETS: u16 = 3;

/// Each watches all buckets, and has one batch at a time.
const CLIENTS: usize = 6;

/// What a batch showed and wrote: bucket, epoch of the history, and the history or the write.
#[derive(Debug, Default, PartialEq, Eq)]
struct Batch {
    client: usize,
    gets: Vec<(u16, u32, Vec<u32>)>,
    writes: Vec<(u16, u32)>,
}

/// A batch that is under way.
struct UnderWay {
    ticket: Option<usize>,
    batch: Batch,
    /// Bucket, and whether it is a `Get`, of what is still to be done.
    rest: VecDeque<(u16, bool)>,
    numbers: Vec<(u16, u64)>,
}

enum Message {
    Change(u64, u32),
    Number(u64, bool),
}

/// A bucket on its node.
#[derive(Default)]
struct Node {
    history: Vec<u32>,
    /// Times that the end of the history was lost.
    epoch: u32,
    /// The epoch when its number was last told.
    told_epoch: u32,
    is_subscribed: bool,
    wire: VecDeque<Message>,
}

/// A client that watches a bucket.
#[derive(Clone, Default)]
struct Watcher {
    /// What it knows. None if it missed something and has not read since.
    known: Option<Vec<u32>>,
    /// It has seen a history whose loss it was not told of yet.
    owed: bool,
    epoch: u32,
}

struct Simulation {
    random: fastrand::Rng,
    now: Instant,
    sequencer: Sequencer<Batch>,
    nodes: Vec<Node>,
    /// Of each client, for each bucket.
    watchers: Vec<Vec<Watcher>>,
    is_busy: [bool; CLIENTS],
    told: HashSet<u32>,
    under_way: Vec<UnderWay>,
    next_write: u32,
    begun: usize,
    back: usize,
    changes: usize,
    compared: usize,
    missed: usize,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut sequencer = Sequencer::new(BUCKETS);
        (0..BUCKETS).for_each(|bucket| sequencer.watch(bucket));
        Self {
            random: fastrand::Rng::with_seed(seed),
            now: Instant::now(),
            sequencer,
            nodes: (0..BUCKETS).map(|_| Node::default()).collect(),
            watchers: vec![vec![Watcher::default(); BUCKETS.into()]; CLIENTS],
            is_busy: [false; CLIENTS],
            told: HashSet::new(),
            under_way: Vec::new(),
            next_write: 0,
            begun: 0,
            back: 0,
            changes: 0,
            compared: 0,
            missed: 0,
        }
    }

    fn write(&mut self, bucket: u16, faults: bool) -> u32 {
        let write = self.next_write;
        self.next_write += 1;
        let node = &mut self.nodes[usize::from(bucket)];
        node.history.push(write);
        let number = node.history.len() as u64;
        let copies = match self.random.u8(..100) {
            0 if faults => 0,
            1 if faults => 2,
            _ => 1,
        };
        if node.is_subscribed {
            for _ in 0..copies {
                node.wire.push_back(Message::Change(number, write));
            }
        }
        write
    }

    fn lose_connection(&mut self, bucket: u16) {
        let node = &mut self.nodes[usize::from(bucket)];
        node.is_subscribed = false;
        node.wire.clear();
        self.sequencer.on_lost(bucket);
    }

    /// Asks for the number: after it has subscribed, or to see whether it is as expected.
    fn ask_number(&mut self, bucket: u16) {
        let node = &mut self.nodes[usize::from(bucket)];
        node.is_subscribed = true;
        let is_same = node.epoch == node.told_epoch;
        node.told_epoch = node.epoch;
        let number = node.history.len() as u64;
        node.wire.push_back(Message::Number(number, is_same));
    }

    fn begin(&mut self) {
        // As for a client that watches: no write stands behind a Get.
        let mut rest = VecDeque::new();
        for _ in 0..self.random.usize(0..3) {
            rest.push_back((self.random.u16(..BUCKETS), false));
        }
        let mut buckets: Vec<u16> = (0..BUCKETS).collect();
        self.random.shuffle(&mut buckets);
        let gets = self.random.usize(0..=2);
        rest.extend(buckets.iter().take(gets).map(|&bucket| (bucket, true)));
        let client = self.random.usize(..CLIENTS);
        if rest.is_empty() || self.is_busy[client] {
            return;
        }
        self.is_busy[client] = true;
        let ticket = self.sequencer.begin(rest.iter().copied(), self.now);
        self.begun += 1;
        self.under_way.push(UnderWay {
            ticket,
            batch: Batch {
                client,
                ..Batch::default()
            },
            rest,
            numbers: Vec::new(),
        });
    }

    /// A node does a part of a batch, or the last reply arrives.
    fn go_on(&mut self, faults: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let index = self.random.usize(..self.under_way.len());
        if let Some((bucket, is_get)) = self.under_way[index].rest.pop_front() {
            let write = (!is_get).then(|| self.write(bucket, faults));
            let node = &self.nodes[usize::from(bucket)];
            let it = &mut self.under_way[index];
            it.numbers.push((bucket, node.history.len() as u64));
            match write {
                Some(write) => it.batch.writes.push((bucket, write)),
                None => it
                    .batch
                    .gets
                    .push((bucket, node.epoch, node.history.clone())),
            }
        } else {
            let it = self.under_way.swap_remove(index);
            let Some(ticket) = it.ticket else {
                panic!("all buckets are watched");
            };
            let number = |bucket| {
                let of_bucket = it.numbers.iter().filter(|(it, _)| *it == bucket);
                of_bucket.map(|&(_, number)| number).next_back()
            };
            self.sequencer.answer(ticket, it.batch, number);
        }
    }

    fn deliver(&mut self, bucket: u16) {
        match self.nodes[usize::from(bucket)].wire.pop_front() {
            None => {}
            Some(Message::Change(number, write)) => {
                let line = format!("{bucket} {write}");
                self.sequencer.on_change(bucket, number, line.as_bytes());
            }
            Some(Message::Number(number, is_same)) => {
                self.sequencer.on_number(bucket, number, is_same);
            }
        }
    }

    fn check(&mut self) {
        while let Some(output) = self.sequencer.out.pop_front() {
            match output {
                Output::Change(line) => {
                    let line = String::from_utf8(line).unwrap();
                    let (bucket, write) = line.split_once(' ').unwrap();
                    let (bucket, write): (usize, u32) =
                        (bucket.parse().unwrap(), write.parse().unwrap());
                    assert!(self.told.insert(write), "{write} is told twice");
                    self.changes += 1;
                    for watchers in &mut self.watchers {
                        if let Some(known) = &mut watchers[bucket].known {
                            known.push(write);
                        }
                    }
                }
                Output::Missed(bucket) => {
                    for watchers in &mut self.watchers {
                        watchers[usize::from(bucket)] = Watcher {
                            epoch: self.nodes[usize::from(bucket)].epoch,
                            ..Watcher::default()
                        };
                    }
                    self.missed += 1;
                }
                Output::Batch(batch) => self.check_batch(batch),
            }
        }
    }

    fn check_batch(&mut self, batch: Batch) {
        self.back += 1;
        self.is_busy[batch.client] = false;
        for (bucket, write) in batch.writes {
            let watcher = &self.watchers[batch.client][usize::from(bucket)];
            let is_lost = !self.nodes[usize::from(bucket)].history.contains(&write);
            if let Some(known) = &watcher.known {
                let is_told = known.contains(&write) || watcher.owed;
                let is_behind = self.nodes[usize::from(bucket)].epoch > watcher.epoch;
                assert!(
                    is_told || is_lost || is_behind,
                    "{write} is done and not told"
                );
            }
        }
        for (bucket, epoch, history) in batch.gets {
            let watcher = &mut self.watchers[batch.client][usize::from(bucket)];
            match &watcher.known {
                // Nothing is known of the loss yet.
                Some(known) if epoch > watcher.epoch && *known != history => watcher.owed = true,
                Some(_) if watcher.owed => {}
                Some(known) => {
                    assert_eq!(*known, history, "bucket {bucket}");
                    self.compared += 1;
                }
                None => {
                    watcher.known = Some(history);
                    watcher.epoch = epoch;
                }
            }
        }
    }

    fn step(&mut self, faults: bool) {
        self.now += Duration::from_millis(self.random.u64(..20));
        let bucket = self.random.u16(..BUCKETS);
        match self.random.u8(..100) {
            0..20 => self.begin(),
            20..30 => {
                self.write(bucket, faults);
            }
            30..65 => self.go_on(faults),
            65..95 => self.deliver(bucket),
            95 if faults && self.random.u8(..4) == 0 => self.lose_connection(bucket),
            96 if faults && self.random.u8(..8) == 0 => {
                self.lose_connection(bucket);
                let node = &mut self.nodes[usize::from(bucket)];
                let left = node.history.len() - self.random.usize(..4).min(node.history.len());
                node.history.truncate(left);
                node.epoch += 1;
            }
            _ => self.ask_number(bucket),
        }
        for bucket in self.sequencer.on_time(self.now) {
            if self.nodes[usize::from(bucket)].is_subscribed {
                self.ask_number(bucket);
            }
        }
        self.check();
    }

    fn run(mut self) -> Self {
        for bucket in 0..BUCKETS {
            self.ask_number(bucket);
            self.deliver(bucket);
            for watchers in &mut self.watchers {
                watchers[usize::from(bucket)].known = Some(Vec::new());
            }
            assert!(self.sequencer.is_live(bucket));
        }
        for _ in 0..2000 {
            self.step(true);
        }
        while !self.under_way.is_empty() {
            self.go_on(false);
        }
        for bucket in 0..BUCKETS {
            self.ask_number(bucket);
            while !self.nodes[usize::from(bucket)].wire.is_empty() {
                self.deliver(bucket);
            }
        }
        self.now += 2 * HOLD_TIME;
        self.sequencer.on_time(self.now);
        self.check();
        assert_eq!(self.back, self.begun, "every batch comes back");
        assert!(self.sequencer.tickets.is_empty() && self.sequencer.deadline().is_none());
        for watchers in &self.watchers {
            for (node, watcher) in self.nodes.iter().zip(watchers) {
                assert!(!watcher.owed, "it was never told that it missed something");
                if let Some(known) = &watcher.known {
                    assert_eq!(*known, node.history);
                }
            }
        }
        self
    }
}

#[test]
fn watchers_know_the_history_or_that_they_missed_some() {
    let seeds = match std::env::var("KEYWIRE_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..100,
    };
    let (mut changes, mut compared, mut missed) = (0, 0, 0);
    for seed in seeds {
        eprintln!("KEYWIRE_SEED={seed}");
        let done = Simulation::new(seed).run();
        changes += done.changes;
        compared += done.compared;
        missed += done.missed;
    }
    eprintln!("{changes} changes, {compared} histories compared, {missed} times missed");
    assert!(changes > 10_000 && compared > 1000 && missed > 100);
}

/// A change that comes before the reply to a `Get` that does not show it waits for that.
#[test]
fn a_change_waits_for_earlier_gets() {
    let now = Instant::now();
    let mut sequencer = Sequencer::new(1);
    sequencer.watch(0);
    sequencer.on_number(0, 4, false);
    let get = sequencer.begin([(0, true)].into_iter(), now).unwrap();
    let put = sequencer.begin([(0, false)].into_iter(), now).unwrap();
    sequencer.answer(put, "put", |_| Some(6));
    sequencer.on_change(0, 5, b"5");
    sequencer.on_change(0, 6, b"6");
    assert!(sequencer.out.is_empty());
    sequencer.answer(get, "get", |_| Some(5));
    let expected = [
        Output::Change(b"5".to_vec()),
        Output::Batch("get"),
        Output::Change(b"6".to_vec()),
        Output::Batch("put"),
    ];
    assert_eq!(sequencer.out.make_contiguous(), expected);
}

/// Nothing waits for ever: neither a batch for changes that are lost, nor changes for a batch.
#[test]
fn what_does_not_come_is_missed() {
    let now = Instant::now();
    let mut sequencer = Sequencer::new(2);
    (0..2).for_each(|bucket| {
        sequencer.watch(bucket);
        sequencer.on_number(bucket, 0, false);
    });
    let late = sequencer.begin([(0, true), (1, true)].into_iter(), now);
    let put = sequencer.begin([(0, false)].into_iter(), now).unwrap();
    sequencer.on_change(1, 1, b"1");
    sequencer.answer(put, "put", |_| Some(1));
    assert_eq!(sequencer.deadline(), Some(now + HOLD_TIME));
    assert!(sequencer.on_time(now + HOLD_TIME / 2).is_empty());
    assert!(sequencer.out.is_empty());
    assert_eq!(sequencer.on_time(now + HOLD_TIME), [0]);
    let out: Vec<_> = sequencer.out.drain(..).collect();
    assert!(out.contains(&Output::Missed(1)) && out.contains(&Output::Batch("put")));
    let missed = out.iter().position(|it| *it == Output::Missed(0)).unwrap();
    let put = out
        .iter()
        .position(|it| *it == Output::Batch("put"))
        .unwrap();
    assert!(missed < put);
    // Behind the Gets, since they may show what was before.
    sequencer.answer(late.unwrap(), "late", |_| Some(0));
    let out: Vec<_> = sequencer.out.drain(..).collect();
    assert_eq!(
        out,
        [Output::Batch("late"), Output::Missed(0), Output::Missed(1)]
    );
    assert_eq!(sequencer.deadline(), None);
}

/// Many batches that wait for one another are let go without a call in a call.
#[test]
fn a_long_chain_is_let_go() {
    let now = Instant::now();
    let mut sequencer = Sequencer::new(1);
    sequencer.watch(0);
    sequencer.on_number(0, 0, false);
    let first = sequencer.begin([(0, true)].into_iter(), now).unwrap();
    const BATCHES: u64 = 100_000;
    for number in 1..=BATCHES {
        let batch = sequencer.begin([(0, true)].into_iter(), now).unwrap();
        sequencer.answer(batch, number, |_| Some(number));
        sequencer.on_change(0, number, b"");
    }
    assert!(sequencer.out.is_empty());
    sequencer.answer(first, 0, |_| Some(0));
    assert_eq!(sequencer.out.len() as u64, 2 * BATCHES + 1);
}
