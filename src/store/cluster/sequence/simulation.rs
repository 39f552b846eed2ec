//! The order of changes and batches, with a network that delays, loses and doubles changes, and nodes that
//! lose the end of a history. Run one seed by `KEYWIRE_SEED=N`.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{HOLD_TIME, Numbers, Output, Sequencer};

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
    /// The last number of each command, and whether it was a `Get`.
    numbers: Vec<(u16, bool, u64)>,
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

fn parse(line: &[u8]) -> (usize, u32) {
    let line = str::from_utf8(line).unwrap();
    let (bucket, write) = line.split_once(' ').unwrap();
    (bucket.parse().unwrap(), write.parse().unwrap())
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
    kept: usize,
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
            kept: 0,
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
        let ticket = self.sequencer.begin(client, rest.iter().copied());
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
            it.numbers.push((bucket, is_get, node.history.len() as u64));
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
            let numbers = |bucket| {
                let mut of_bucket = it.numbers.iter().filter(|it| it.0 == bucket).rev();
                let &(_, _, last) = of_bucket.clone().next()?;
                let shown = of_bucket.find_map(|&(_, is_get, number)| is_get.then_some(number));
                let shown = shown.unwrap_or(last);
                Some(Numbers { last, shown })
            };
            self.sequencer.answer(ticket, it.batch, numbers, self.now);
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

    fn tell(&mut self, client: usize, line: &[u8]) {
        let (bucket, write) = parse(line);
        if let Some(known) = &mut self.watchers[client][bucket].known {
            known.push(write);
        }
    }

    /// The client is told that it missed some.
    fn miss(&mut self, client: usize, bucket: u16) {
        self.watchers[client][usize::from(bucket)] = Watcher {
            epoch: self.nodes[usize::from(bucket)].epoch,
            ..Watcher::default()
        };
    }

    fn check(&mut self) {
        while let Some(output) = self.sequencer.out.pop_front() {
            match output {
                Output::Change { line, except } => {
                    let (_, write) = parse(&line);
                    assert!(self.told.insert(write), "{write} is told twice");
                    self.changes += 1;
                    for client in (0..CLIENTS).filter(|client| !except.contains(client)) {
                        self.tell(client, &line);
                    }
                }
                Output::Missed(bucket) => {
                    (0..CLIENTS).for_each(|client| self.miss(client, bucket));
                    self.missed += 1;
                }
                Output::Batch(batch, changes) => {
                    let client = batch.client;
                    changes.before.iter().for_each(|it| self.tell(client, it));
                    self.kept += changes.before.len() + changes.behind.len();
                    self.check_batch(batch);
                    changes.behind.iter().for_each(|it| self.tell(client, it));
                    if changes.has_missed {
                        (0..BUCKETS).for_each(|bucket| self.miss(client, bucket));
                    }
                }
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
    let (mut changes, mut compared, mut missed, mut kept) = (0, 0, 0, 0);
    for seed in seeds {
        eprintln!("KEYWIRE_SEED={seed}");
        let done = Simulation::new(seed).run();
        changes += done.changes;
        compared += done.compared;
        missed += done.missed;
        kept += done.kept;
    }
    eprintln!(
        "{changes} changes, {kept} kept for a batch, {compared} histories compared, {missed} times missed"
    );
    assert!(changes > 10_000 && kept > 1000 && compared > 1000 && missed > 100);
}
