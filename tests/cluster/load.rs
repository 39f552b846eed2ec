//! Clients that put and get all the time, and the record of it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use futures_lite::future;
use keywire::{Client, Error, protocol::Code};

use crate::{
    common::wait_until,
    linear::{Call, List, Op, linearize},
    servers::{ClusterServer, client},
};

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Applied,
    Refused(String),
    Unconfirmed(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) group: usize,
    pub(crate) client: usize,
    /// Of the client's calls.
    pub(crate) number: usize,
    pub(crate) key: String,
    pub(crate) op: Op,
    pub(crate) begin: Instant,
    pub(crate) end: Instant,
    pub(crate) fate: Fate,
}

impl Record {
    pub(crate) fn took(&self) -> Duration {
        self.end - self.begin
    }

    fn value(&self) -> Option<&[u8]> {
        match &self.op {
            Op::Put(value) => Some(value),
            _ => None,
        }
    }
}

/// Makes calls in one go and says what became of each. Of a Get, the list is put in.
pub(crate) fn call_all(client: &Client, calls: &mut [(String, Op)]) -> Vec<Fate> {
    let mut pipeline = client.pipeline();
    for (key, op) in &*calls {
        pipeline = match op {
            Op::Put(value) => pipeline.put(key, value),
            Op::Set(value) => pipeline.set(key, value),
            Op::Update(old, new) => pipeline.update(key, old, new),
            Op::Remove(value) => pipeline.remove(key, value),
            Op::Delete => pipeline.delete(key),
            Op::Get(_) => pipeline.get(key),
        };
    }
    let outcomes = future::block_on(pipeline.send()).unwrap();
    let fates = outcomes
        .into_iter()
        .zip(calls)
        .map(|(outcome, (_, op))| match outcome {
            Ok(outcome) => {
                match (op, outcome.into_values()) {
                    (Op::Get(list), Some(values)) => *list = values,
                    (op, values) => assert!(!matches!(op, Op::Get(_)) && values.is_none()),
                }
                Fate::Applied
            }
            Err(Error::Refused { code, message, .. }) => {
                assert_eq!(code, Code::Store, "{message}");
                Fate::Refused(message)
            }
            Err(Error::Unconfirmed { code, message, .. }) => {
                assert_eq!(code, Code::Unconfirmed, "{message}");
                Fate::Unconfirmed(message)
            }
            Err(error) => panic!("{error:?}"),
        });
    fates.collect()
}

type Records = Arc<Mutex<Vec<Record>>>;

/// Clients at work, each on the keys of one group. Every value is put once.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    records: Vec<Records>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// One client a group on each of the servers, with one call at a time.
    pub(crate) fn start(servers: &[ClusterServer], groups: &[Vec<String>]) -> Self {
        Self::start_deep(servers, groups, 1)
    }

    /// With so many calls at a time.
    pub(crate) fn start_deep(
        servers: &[ClusterServer],
        groups: &[Vec<String>],
        depth: usize,
    ) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            records: Vec::new(),
            threads: Vec::new(),
        };
        for server in servers {
            for (group, keys) in groups.iter().enumerate() {
                load.add(client(server), group, keys.clone(), depth);
            }
        }
        load
    }

    fn add(&mut self, client: Client, group: usize, keys: Vec<String>, depth: usize) {
        let number = self.threads.len();
        let records = Records::default();
        self.records.push(records.clone());
        let stop = self.stop.clone();
        self.threads.push(thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(number as u64);
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let random_call = |at: usize| {
                    let key = keys[random.usize(..keys.len())].clone();
                    let op = match random.u8(..10) {
                        0..6 => Op::Put(format!("{number}.{}", count + at).into_bytes()),
                        _ => Op::Get(List::new()),
                    };
                    (key, op)
                };
                let mut calls: Vec<_> = (0..depth).map(random_call).collect();
                let begin = Instant::now();
                let fates = call_all(&client, &mut calls);
                let end = Instant::now();
                let mut records = records.lock().unwrap();
                for ((key, op), fate) in calls.into_iter().zip(fates) {
                    records.push(Record {
                        group,
                        client: number,
                        number: count,
                        key,
                        op,
                        begin,
                        end,
                        fate,
                    });
                    count += 1;
                }
                drop(records);
                // So that lists stay short. Nothing waits for it.
                thread::sleep(Duration::from_millis(2 + depth as u64));
            }
        }));
    }

    /// Waits until each client of these groups has had so many more calls applied.
    pub(crate) fn await_applied(&self, groups: &[usize], calls: usize) {
        let now = Instant::now();
        wait_until("calls are applied", || {
            for thread in &self.threads {
                assert!(
                    !thread.is_finished() || self.stop.load(Ordering::Relaxed),
                    "a client has failed"
                );
            }
            self.records.iter().all(|records| {
                let records = records.lock().unwrap();
                if records
                    .first()
                    .is_some_and(|record| !groups.contains(&record.group))
                {
                    return true;
                }
                let applied = records
                    .iter()
                    .rev()
                    .take_while(|record| record.begin >= now);
                applied
                    .filter(|record| record.fate == Fate::Applied)
                    .count()
                    >= calls
            })
        });
    }

    /// Waits until a call of this group has failed that began from now on.
    pub(crate) fn await_failed(&self, group: usize) {
        let now = Instant::now();
        wait_until("a call fails", || {
            self.records.iter().any(|records| {
                let records = records.lock().unwrap();
                let mut later = records
                    .iter()
                    .rev()
                    .take_while(|record| record.begin >= now);
                later.any(|record| record.group == group && record.fate != Fate::Applied)
            })
        });
    }

    pub(crate) fn finish(self) -> Vec<Record> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let taken = self
            .records
            .iter()
            .map(|records| std::mem::take(&mut *records.lock().unwrap()));
        taken.flatten().collect()
    }
}

/// The lists of these keys, as a server has them.
pub(crate) fn lists(server: &ClusterServer, groups: &[Vec<String>]) -> BTreeMap<String, List> {
    let client = client(server);
    let keys = groups.iter().flatten();
    keys.map(|key| (key.clone(), future::block_on(client.get(key)).unwrap()))
        .collect()
}

/// How many calls came to what.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) applied: usize,
    pub(crate) refused: usize,
    pub(crate) unconfirmed: usize,
    /// Applied, and not there.
    pub(crate) lost: usize,
    /// Unconfirmed, and there.
    pub(crate) there: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} applied ({} lost), {} refused, {} unconfirmed ({} there)",
            self.applied, self.lost, self.refused, self.unconfirmed, self.there
        )
    }
}

/// Checks what is there at the end against the record of all puts: nothing is there twice, nothing is
/// there that was refused or never put, and what each client had applied is there in its order. What is
/// lost is counted.
pub(crate) fn check(records: &[Record], lists: &BTreeMap<String, List>) -> Tally {
    let mut tally = Tally::default();
    let mut puts: HashMap<(&str, &[u8]), &Record> = HashMap::new();
    for record in records {
        match record.fate {
            Fate::Applied => tally.applied += 1,
            Fate::Refused(_) => tally.refused += 1,
            Fate::Unconfirmed(_) => tally.unconfirmed += 1,
        }
        if let Some(value) = record.value() {
            puts.insert((&record.key, value), record);
        } else {
            let unconfirmed = matches!(record.fate, Fate::Unconfirmed(_));
            assert!(!unconfirmed, "a Get is never unconfirmed: {record:?}");
        }
    }
    for (key, list) in lists {
        let mut last: HashMap<usize, usize> = HashMap::new();
        for value in list {
            let shown = value.escape_ascii();
            let Some(record) = puts.remove(&(key.as_str(), &value[..])) else {
                panic!("{key} has {shown} twice, or without a put");
            };
            match record.fate {
                Fate::Refused(_) => panic!("{key} has {shown}: {record:?}"),
                Fate::Unconfirmed(_) => tally.there += 1,
                Fate::Applied => {
                    let before = last.insert(record.client, record.number);
                    let in_order = before.is_none_or(|before| before < record.number);
                    assert!(in_order, "{key}: {shown} is not in the order of its client");
                }
            }
        }
    }
    let applied = |record: &&&Record| record.fate == Fate::Applied;
    tally.lost = puts.values().filter(applied).count();
    tally
}

/// Checks that every key's calls are explained by one order.
pub(crate) fn check_order(records: &[Record]) {
    let mut by_key: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        by_key.entry(&record.key).or_default().push(record);
    }
    for (key, records) in by_key {
        let calls = to_calls(&records);
        linearize(calls).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
}

/// The calls of which an order has to be found: refused ones have not been.
pub(crate) fn to_calls(records: &[&Record]) -> Vec<Call> {
    let start = records.iter().map(|record| record.begin).min();
    let since = |time: Instant| start.map_or(0, |start| (time - start).as_nanos() as u64);
    let calls = records.iter().filter_map(|record| {
        let end = match record.fate {
            Fate::Applied => Some(since(record.end)),
            Fate::Refused(_) => return None,
            Fate::Unconfirmed(_) => None,
        };
        Some(Call {
            client: record.client,
            begin: since(record.begin),
            end,
            op: record.op.clone(),
        })
    });
    calls.collect()
}

/// How long 99 of 100 of the calls took at most that were under way between these moments.
pub(crate) fn p99<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    from: Instant,
    to: Instant,
) -> Duration {
    let under_way = records
        .into_iter()
        .filter(|record| record.end >= from && record.begin <= to);
    let mut times: Vec<_> = under_way.map(Record::took).collect();
    times.sort_unstable();
    assert!(times.len() >= 100, "too few calls: {}", times.len());
    times[times.len() * 99 / 100]
}
