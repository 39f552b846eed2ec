//! One history of all commands, kept by the store, and whether what a client saw agrees with it.
//!
//! Every command carries a tag, `CLIENT.NUMBER`: in its key behind a `#` that the store strips, so
//! that each reply and each event names the command it came from, or else as its value.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use keywire::{
    Error,
    protocol::{Change, Operation, Reply, Topic},
    store::{Batch, Held, Memory, Store},
};

use super::world::World;

pub type Tag = (usize, usize);

/// A command that the store has been given.
#[derive(Clone, Debug)]
pub struct Entry {
    pub tag: Tag,
    pub step: u64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Failed,
    /// The lines that it is answered with.
    Read(Vec<Vec<u8>>),
    /// The key, and the line that tells of it.
    Written(Vec<u8>, Vec<u8>),
}

/// What the store did, in order.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Vec<Entry>>>);

impl History {
    pub fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap()
    }
}

/// The key without its tag.
fn base(key: &[u8]) -> &[u8] {
    key.split(|&byte| byte == b'#').next().unwrap_or(key)
}

fn tag_of(text: &[u8]) -> Option<Tag> {
    let text = std::str::from_utf8(text).ok()?;
    let (client, number) = text.rsplit('#').next()?.split_once('.')?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

fn tag(operation: Operation<'_>) -> Tag {
    let (key, value) = match operation {
        Operation::Get { key } | Operation::Delete { key } => (key, key),
        Operation::Put { key, value } => (key, value),
        Operation::Update { key, new, .. } => (key, new),
    };
    tag_of(key)
        .or_else(|| tag_of(value))
        .expect("every command has a tag")
}

/// Commands that the store takes before it answers the first of them, at the most.
const AHEAD: usize = 3;

/// A store that takes its time, takes commands as it likes, and fails now and then.
pub struct Whimsical {
    pub world: World,
    pub memory: Memory,
    pub history: History,
}

impl Whimsical {
    fn apply_one(&mut self, operation: Operation<'_>) -> Entry {
        let what = match operation {
            Operation::Get { key } => {
                let values = self.memory.get(base(key));
                What::Read(values.map(|value| [key, value].join(&b':')).collect())
            }
            Operation::Put { key, value } => {
                self.memory.put(base(key), value);
                written(operation)
            }
            Operation::Delete { key } => {
                self.memory.delete(base(key));
                written(operation)
            }
            Operation::Update { key, old, new } => {
                self.memory.update(base(key), old, new);
                written(operation)
            }
        };
        self.entry(operation, what)
    }

    fn entry(&self, operation: Operation<'_>, what: What) -> Entry {
        Entry {
            tag: tag(operation),
            step: self.world.steps(),
            what,
        }
    }
}

fn written(operation: Operation<'_>) -> What {
    let change = Change::of(operation).expect("a write");
    let mut line = Vec::new();
    Reply::Change(change).encode(&mut line);
    line.pop();
    What::Written(change.key().to_vec(), line)
}

fn answer(batch: &mut Batch<'_>, entry: &Entry) {
    match &entry.what {
        What::Failed => batch.fail(&Error::store("a whim")),
        What::Written(..) => batch.done(),
        What::Read(lines) => {
            let value = |line: &'_ [u8]| line.iter().position(|&byte| byte == b':').unwrap() + 1;
            let values: Vec<&[u8]> = lines.iter().map(|line| &line[value(line)..]).collect();
            batch.values(values.into_iter());
        }
    }
}

impl Store for Whimsical {
    async fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), Error> {
        let ahead = self.world.random(|rng| rng.usize(1..=AHEAD));
        let most = self.world.random(|rng| rng.usize(1..60));
        if self.world.once_in(40) {
            // It fails as a whole, having taken some.
            let mut failed = Vec::new();
            for _ in 0..ahead {
                let Some(operation) = batch.take() else { break };
                failed.push(self.entry(operation, What::Failed));
            }
            if self.world.once_in(2) {
                failed.iter().take(1).for_each(|_| batch.done());
            }
            self.history.entries().extend(failed);
            return Err(Error::store("a whim"));
        }
        let mut unanswered = Vec::new();
        let mut taken = 0;
        loop {
            let operation = if taken < most { batch.take() } else { None };
            if let Some(operation) = operation {
                taken += 1;
                let entry = match self.world.once_in(30) {
                    true => self.entry(operation, What::Failed),
                    false => self.apply_one(operation),
                };
                self.history.entries().push(entry.clone());
                unanswered.push(entry);
            }
            if unanswered.len() >= ahead || operation.is_none() {
                for entry in unanswered.drain(..) {
                    answer(batch, &entry);
                }
            }
            if operation.is_none() {
                break;
            }
        }
        match self.world.random(|rng| rng.u32(..30)) {
            0 => {
                let time = self.world.random(|rng| rng.u64(..1500));
                self.world.sleep(Duration::from_millis(time)).await;
            }
            1..10 => self.world.give_way().await,
            _ => {}
        }
        Ok(())
    }

    fn held(&self) -> Held {
        self.memory.held()
    }
}

/// A line that a client sent.
#[derive(Clone, Debug)]
pub enum Sent {
    /// A command for the store, by its number.
    Command(usize),
    Sync(String),
    Stats,
    /// What is watched: the key, or the prefix where `true`.
    Watch(Vec<u8>, bool),
    Unwatch(Vec<u8>, bool),
    /// It is answered with this code.
    Wrong(&'static str),
    Blank,
}

/// What one client did and saw.
#[derive(Debug, Default)]
pub struct Log {
    pub client: usize,
    /// Whole lines, and when the first byte of each was sent.
    pub sent: Vec<(Sent, u64)>,
    /// Whole lines, and when each had come.
    pub received: Vec<(Vec<u8>, u64)>,
    /// When the server had written each line.
    pub written: Vec<u64>,
    /// When the server had read each of its lines.
    pub read: Vec<u64>,
    /// It read to a clean end, with nothing on the way cut off, by this step.
    pub ended: Option<u64>,
    /// That was not for a shutdown, so that all it sent was handled.
    pub complete: bool,
}

struct Check<'a> {
    log: &'a Log,
    entries: &'a [Entry],
    /// Where in the history each of this client's commands stands.
    places: HashMap<usize, usize>,
    by_tag: &'a HashMap<Tag, usize>,
    /// The next line sent that may be answered.
    next: usize,
    /// Reply lines dropped since the last Sync.
    lost: u64,
    /// The place in the history of the last thing seen.
    at: Option<usize>,
    missed: u64,
    heard: Vec<usize>,
    /// Lines that were refused.
    refused: HashSet<usize>,
}

/// Panics where a client saw what the history does not explain, or where more lines waited for it
/// than may.
pub fn check(
    log: &Log,
    entries: &[Entry],
    by_tag: &HashMap<Tag, usize>,
    outbox_lines: usize,
    stopped: u64,
) {
    let own = entries.iter().enumerate();
    let own = own.filter(|(_, entry)| entry.tag.0 == log.client);
    let places: HashMap<usize, usize> = own.map(|(place, entry)| (entry.tag.1, place)).collect();
    let mut check = Check {
        log,
        entries,
        places,
        by_tag,
        next: 0,
        lost: 0,
        at: None,
        missed: 0,
        heard: Vec::new(),
        refused: HashSet::new(),
    };
    check.order();
    let mut received = &log.received[..];
    while let Some((line, step)) = received.first() {
        let lines = check.line(line, *step, received);
        received = &received[lines..];
    }
    if log.complete {
        check.skip_to(log.sent.len());
    } else if log.ended.is_some() {
        check.skip_to(check.applied());
    }
    check.watches();
    check.bounds(outbox_lines);
    check.all_applied(stopped);
}

impl Check<'_> {
    /// A client's commands are applied in the order sent.
    fn order(&self) {
        let mut last = None;
        for (sent, _) in &self.log.sent {
            if let Sent::Command(number) = sent {
                let place = self.places.get(number).copied();
                assert!(
                    place.is_none() || place > last,
                    "{number} was applied out of order"
                );
                last = place.or(last);
            }
        }
    }

    /// Takes a line, or all lines of a reply. Says how many.
    fn line(&mut self, line: &[u8], step: u64, rest: &[(Vec<u8>, u64)]) -> usize {
        let client = self.log.client;
        let text = String::from_utf8_lossy(line).into_owned();
        match Reply::parse(line).unwrap_or_else(|_| panic!("client {client}: {text} is no reply")) {
            Reply::Value { key, .. } => {
                let (by, number) = tag_of(key).expect("a tag");
                assert_eq!(by, client, "a reply to another's command: {text}");
                let place = self.places[&number];
                let What::Read(lines) = &self.entries[place].what else {
                    panic!("{text} answers no Get");
                };
                let sent = self.log.sent.iter();
                let index = sent
                    .clone()
                    .position(|(sent, _)| matches!(sent, Sent::Command(other) if *other == number));
                let index = index.expect("it was sent");
                self.skip_to(index);
                self.next = index + 1;
                self.see(place, &text);
                self.took_place(index, place, step);
                let seen: Vec<_> = rest
                    .iter()
                    .take(lines.len())
                    .map(|(line, _)| line)
                    .collect();
                assert!(
                    seen.iter().copied().eq(lines.iter())
                        || (seen.len() < lines.len() && self.log.ended.is_none()),
                    "client {client}: the reply to {number} is not whole: {seen:?}, not {lines:?}",
                );
                seen.len()
            }
            Reply::Sync { dropped, token } => {
                let index = self.answered(
                    &text,
                    |sent| matches!(sent, Sent::Sync(own) if own.as_bytes() == token),
                );
                // Everything before it was applied by then.
                for (sent, _) in &self.log.sent[..index] {
                    if let Sent::Command(number) = sent {
                        let place = self.places.get(number);
                        let applied = place.is_some_and(|&place| self.entries[place].step <= step);
                        assert!(
                            applied,
                            "client {client}: {number} was not applied at {text}"
                        );
                    }
                }
                assert_eq!(dropped, self.lost, "client {client}: lost lines at {text}");
                self.lost = 0;
                1
            }
            Reply::Stats(_) => {
                self.answered(&text, |sent| matches!(sent, Sent::Stats));
                1
            }
            Reply::Error { line, code, .. } => {
                let index = line as usize - 1;
                assert!(index >= self.next, "client {client}: {text} comes late");
                let Some((sent, _)) = self.log.sent.get(index) else {
                    // A line that never ended.
                    assert_eq!(
                        (index, code.as_str()),
                        (self.log.sent.len(), "malformed"),
                        "{text}"
                    );
                    return 1;
                };
                self.skip_to(index);
                self.next = index + 1;
                self.refused.insert(index);
                match (sent, code.as_str()) {
                    (Sent::Command(number), "store") => {
                        let place = self.places[number];
                        assert!(matches!(self.entries[place].what, What::Failed), "{text}");
                        self.see(place, &text);
                    }
                    (Sent::Command(number), "closing") => {
                        assert!(
                            !self.places.contains_key(number),
                            "refused and applied: {text}"
                        );
                    }
                    (Sent::Blank, _) => panic!("an error for a blank line"),
                    (_, "closing") => {}
                    (Sent::Wrong(expected), code) => assert_eq!(*expected, code),
                    (sent, _) => panic!("client {client}: {text} for {sent:?}"),
                }
                1
            }
            Reply::Watch(watched) => {
                self.answered(&text, |sent| match (sent, watched) {
                    (Sent::Watch(name, false), Topic::Key(key)) => name == key,
                    (Sent::Watch(name, true), Topic::Prefix(prefix)) => name == prefix,
                    _ => false,
                });
                1
            }
            Reply::Change(change) => {
                let value = match change {
                    Change::Put { value, .. } => value,
                    Change::Update { new, .. } => new,
                    Change::Delete { key } => key,
                };
                let tag = tag_of(change.key())
                    .or_else(|| tag_of(value))
                    .expect("a tag");
                let place = self.by_tag[&tag];
                match &self.entries[place].what {
                    What::Written(_, told) => assert_eq!(told, line),
                    _ => panic!("client {client}: {text} was not applied"),
                }
                self.see(place, &text);
                self.heard.push(place);
                1
            }
            Reply::Missed(missed) => {
                assert!(missed > 0);
                self.missed += missed;
                1
            }
        }
    }

    /// The replies that wait are an outbox-full and one reply more, at the most, and those to the
    /// commands that the store took before it answered that one.
    fn bounds(&self, outbox_lines: usize) {
        // Each line waits from when it was read from the store to when it was written.
        let mut changes = Vec::new();
        let mut longest = 0;
        for ((line, _), written) in self.log.received.iter().zip(&self.log.written) {
            let Ok(Reply::Value { key, .. }) = Reply::parse(line) else {
                continue;
            };
            let entry = tag_of(key)
                .and_then(|tag| self.by_tag.get(&tag))
                .map(|&p| &self.entries[p]);
            let Some(Entry {
                step,
                what: What::Read(lines),
                ..
            }) = entry
            else {
                continue;
            };
            longest = longest.max(lines.len());
            changes.extend([(*step, 1), (*written, -1)]);
        }
        changes.sort_by_key(|&(step, change)| (step, change));
        let waiting = changes.iter().scan(0, |waiting, (_, change)| {
            *waiting += change;
            Some(*waiting)
        });
        let most = waiting.max().unwrap_or(0);
        assert!(
            most <= (outbox_lines + AHEAD * longest) as i64,
            "{most} lines waited in an outbox of {outbox_lines}, with replies of {longest}",
        );
    }

    /// What the server had read before this step was applied, even if the client has gone.
    fn all_applied(&self, before: u64) {
        for ((sent, _), _) in self
            .log
            .sent
            .iter()
            .zip(&self.log.read)
            .filter(|(_, step)| **step < before)
        {
            if let Sent::Command(number) = sent {
                assert!(
                    self.places.contains_key(number),
                    "{number} was read and not applied"
                );
            }
        }
    }

    /// The line behind the last one that was applied.
    fn applied(&self) -> usize {
        let applied = |(sent, _): &(Sent, u64)| matches!(sent, Sent::Command(number) if self.places.contains_key(number));
        self.log
            .sent
            .iter()
            .rposition(applied)
            .map_or(0, |last| last + 1)
    }

    /// What is seen follows the history.
    fn see(&mut self, place: usize, text: &str) {
        let client = self.log.client;
        assert!(self.at < Some(place), "client {client}: {text} comes late");
        self.at = Some(place);
    }

    /// It happened between the question and the answer.
    fn took_place(&self, index: usize, place: usize, step: u64) {
        let happened = self.entries[place].step;
        assert!(self.log.sent[index].1 <= happened && happened <= step);
    }

    /// The next line sent that this answers, with nothing left out on the way.
    fn answered(&mut self, text: &str, fits: impl Fn(&Sent) -> bool) -> usize {
        let sent = &self.log.sent[self.next..];
        let ahead = sent.iter().position(|(sent, _)| fits(sent));
        let client = self.log.client;
        let index =
            self.next + ahead.unwrap_or_else(|| panic!("client {client}: {text} answers nothing"));
        self.skip_to(index);
        self.next = index + 1;
        index
    }

    /// The lines before this one have no answer, or it was dropped.
    fn skip_to(&mut self, index: usize) {
        let client = self.log.client;
        for (sent, _) in &self.log.sent[self.next.min(index)..index] {
            match sent {
                Sent::Command(number) => {
                    match self.places.get(number).map(|&p| &self.entries[p].what) {
                        Some(What::Read(lines)) => self.lost += lines.len() as u64,
                        Some(What::Written(..)) => {}
                        Some(What::Failed) => {
                            panic!("client {client}: the failure of {number} was not told")
                        }
                        None => panic!("client {client}: {number} is lost"),
                    }
                }
                Sent::Blank | Sent::Unwatch(..) => {}
                other => panic!("client {client}: no answer to {other:?}"),
            }
        }
        self.next = self.next.max(index);
    }

    /// Every change of what was watched was told or counted as missed, and nothing else was told.
    fn watches(&self) {
        // Where each line stands in the history: between the command before it and the one after.
        let mut before = Vec::new();
        let mut last = None;
        for (sent, _) in &self.log.sent {
            before.push(last);
            if let Sent::Command(number) = sent {
                last = self.places.get(number).copied().or(last);
            }
        }
        let mut after = vec![usize::MAX; self.log.sent.len()];
        let mut next = usize::MAX;
        for (index, (sent, _)) in self.log.sent.iter().enumerate().rev() {
            after[index] = next;
            if let Sent::Command(number) = sent {
                next = self.places.get(number).copied().unwrap_or(next);
            }
        }
        // The last line that is known to have been handled: later watches may never have begun.
        let handled = if self.log.complete {
            self.log.sent.len()
        } else {
            self.next
        };
        let (mut may, mut must) = (
            vec![false; self.entries.len()],
            vec![false; self.entries.len()],
        );
        for (place, entry) in self.entries.iter().enumerate() {
            let What::Written(key, _) = &entry.what else {
                continue;
            };
            let mut active: HashMap<(&[u8], bool), (bool, bool)> = HashMap::new();
            for (index, (sent, _)) in self.log.sent.iter().enumerate() {
                if self.refused.contains(&index) {
                    continue;
                }
                let (topic, begins) = match sent {
                    Sent::Watch(name, prefix) => ((&name[..], *prefix), true),
                    Sent::Unwatch(name, prefix) => ((&name[..], *prefix), false),
                    _ => continue,
                };
                let fits = if topic.1 {
                    key.starts_with(topic.0)
                } else {
                    key == topic.0
                };
                if !fits {
                    continue;
                }
                let (may, must) = active.entry(topic).or_default();
                let surely_before = after[index] <= place && index < handled;
                let maybe_before = before[index] < Some(place);
                match begins {
                    true => {
                        *may |= maybe_before;
                        *must |= surely_before;
                    }
                    false => {
                        *may &= !surely_before;
                        *must &= !maybe_before;
                    }
                }
            }
            may[place] = active.values().any(|(may, _)| *may);
            must[place] = active.values().any(|(_, must)| *must);
        }
        let client = self.log.client;
        for &place in &self.heard {
            assert!(
                may[place],
                "client {client} was told of {:?}",
                self.entries[place]
            );
        }
        // With the end of its input it ceases to watch.
        let last = self.places.values().chain(&self.heard).max();
        let end = match self.log.complete {
            true => last.map_or(0, |last| last + 1),
            false => self.heard.last().map_or(0, |last| last + 1),
        };
        let unheard = |flags: &[bool], end: usize| {
            let places = (0..end).filter(|place| flags[*place] && !self.heard.contains(place));
            places.count() as u64
        };
        assert!(
            unheard(&must, end) <= self.missed
                && (self.missed <= unheard(&may, self.entries.len()) || !self.log.complete),
            "client {client} missed {}, not {} to {}",
            self.missed,
            unheard(&must, end),
            unheard(&may, self.entries.len()),
        );
    }
}
