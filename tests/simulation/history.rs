//! One history of all commands, kept by the store.
//!
//! Every command carries a tag, `CLIENT.NUMBER`: in its key behind a `#` that the store strips, so
//! that each reply and each event names the command it came from, or else as its value.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use keywire::{
    protocol::{Operation, Reply, Write},
    store::StoreSize,
};

use crate::{
    late::Submitted,
    subscribe::{Request, Watched},
    walks::{Page, Walk},
    world::{Moment, lock},
};

pub(crate) type Tag = (usize, usize);

/// A command that the store has been given.
#[derive(Clone)]
pub(crate) struct Entry {
    /// Where keys have no tags: which one it is, of which connection, and its line.
    pub(crate) number: usize,
    pub(crate) connection: usize,
    pub(crate) line: Vec<u8>,
    pub(crate) tag: Tag,
    /// The key with its tag.
    pub(crate) key: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) what: What,
    /// When the store was given it.
    pub(crate) at: Moment,
    /// When the store answered it.
    pub(crate) decided: Moment,
    /// When the answer could go out.
    pub(crate) answered: Moment,
    /// What the store held then.
    pub(crate) held: StoreSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Put,
    Update,
    Delete,
    Set,
    Remove,
    /// A key is read for a walk.
    Walk,
    /// It was no command.
    Elsewhere,
}

impl Kind {
    pub(crate) fn of(operation: Operation<'_>) -> Self {
        let Operation::Write(write) = operation else {
            return match operation.key().contains(&b'/') {
                true => Kind::Walk,
                false => Kind::Get,
            };
        };
        match write {
            Write::Put { .. } => Kind::Put,
            Write::Update { .. } => Kind::Update,
            Write::Delete { .. } => Kind::Delete,
            Write::Set { .. } => Kind::Set,
            Write::Remove { .. } => Kind::Remove,
            _ => panic!("{write:?} is new"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Failed,
    /// It was answered so. The line that would tell of it, if it was applied.
    Unconfirmed(Option<Vec<u8>>),
    /// It would have gone over a limit.
    Full(Limit),
    /// The lines that it is answered with.
    Read(Vec<Vec<u8>>),
    /// The key, and the line that tells of it.
    Written(Vec<u8>, Vec<u8>),
}

/// What a write may go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    Store,
    Values,
}

/// What the store did, in order.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Record>>);

#[derive(Default)]
pub(crate) struct Record {
    pub(crate) entries: Vec<Entry>,
    pub(crate) walks: HashMap<Tag, Walk>,
    /// When rounds ended, and the number of entries by then. Two rounds are taken for one where
    /// nothing else happened between them.
    pub(crate) rounds: Vec<(usize, Moment)>,
    /// The step of the last one.
    pub(crate) step: u64,
    /// Batches in a row of which nothing was taken.
    pub(crate) empty: usize,
    /// Commands that a store without tags was asked, its batches, and what they are of.
    pub(crate) numbers: usize,
    pub(crate) batches: Vec<Submitted>,
    pub(crate) pages: Vec<Page>,
    /// The lines of changes that were watched and that the store has not made known.
    pub(crate) missed: HashSet<Vec<u8>>,
    /// What it was asked to watch.
    pub(crate) requests: Vec<Request>,
    pub(crate) clients: HashMap<usize, usize>,
    /// What such a store has not answered, at moments of rest.
    pub(crate) flights: Vec<Flight>,
    /// How often it has said what it holds, which is after each round, and what it said last.
    pub(crate) rounds_seen: u64,
    pub(crate) size: StoreSize,
}

/// The batches and pages that a store has not answered.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub(crate) batches: Vec<usize>,
    pub(crate) pages: Vec<Vec<u8>>,
    pub(crate) requests: Vec<Watched>,
    /// Commands that the server had counted by then.
    pub(crate) counted: Option<u64>,
}

impl History {
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.0)
    }
}

impl Record {
    /// Commands in the history; the reads of a walk are none.
    pub(crate) fn operations(&self) -> u64 {
        self.entries
            .iter()
            .filter(|entry| entry.is_command())
            .count() as u64
    }

    /// How much of the history holds so many commands.
    pub(crate) fn after(&self, operations: u64) -> usize {
        let commands = self.entries.iter().enumerate();
        let mut commands = commands.filter(|(_, entry)| entry.is_command());
        match operations.checked_sub(1) {
            None => 0,
            Some(last) => commands
                .nth(last as usize)
                .map(|(place, _)| place + 1)
                .expect("so many commands"),
        }
    }

    /// So much of the history, and the reads of walks that follow.
    pub(crate) fn with_walks(&self, entries: usize) -> usize {
        let more = self.entries[entries..].iter();
        entries + more.take_while(|entry| !entry.is_command()).count()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let Entry {
            tag, number, kind, ..
        } = self;
        write!(f, "{tag:?} @{number} {kind:?} {}: ", shown(&self.key))?;
        match &self.what {
            What::Read(lines) => write!(f, "{}", shown(&lines.join(&b' ')))?,
            What::Written(_, line) => write!(f, "{}", shown(line))?,
            What::Unconfirmed(line) => write!(f, "unconfirmed {:?}", line.as_deref().map(shown))?,
            What::Failed | What::Full(_) => write!(f, "{:?}", self.what)?,
        }
        let Entry {
            at,
            decided,
            answered,
            ..
        } = self;
        let ticks = [at.tick, decided.tick, answered.tick];
        write!(f, " at {ticks:?}, {:?}", at.now)
    }
}

impl Entry {
    pub(crate) fn is_command(&self) -> bool {
        !matches!(self.kind, Kind::Walk | Kind::Elsewhere)
    }
}

/// The key without its tag.
pub(crate) fn base(key: &[u8]) -> &[u8] {
    match key.iter().position(|&byte| byte == b'/') {
        Some(walk) => &key[walk + 1..],
        None => key.split(|&byte| byte == b'#').next().unwrap_or(key),
    }
}

pub(crate) fn tag_of(text: &[u8]) -> Option<Tag> {
    let text = std::str::from_utf8(text).ok()?.split('/').next()?;
    let (client, number) = text.rsplit('#').next()?.split_once('.')?;
    Some((client.parse().ok()?, number.parse().ok()?))
}

/// The command that a write or its event belongs to.
pub(crate) fn tag_of_write(write: Write<'_>) -> Tag {
    let value = match write {
        Write::Put { value, .. } | Write::Set { value, .. } => Some(value),
        Write::Update { new, .. } => Some(new),
        // What is removed has the tag of the command that brought it. Its own may stand behind.
        Write::Remove { value, .. } => value.rsplit(|&byte| byte == b'~').next(),
        _ => None,
    };
    let tag = tag_of(write.key()).or_else(|| value.and_then(tag_of));
    tag.expect("every command has a tag")
}

pub(crate) fn tag(operation: Operation<'_>) -> Tag {
    match operation {
        Operation::Write(write) => tag_of_write(write),
        read => tag_of(read.key()).expect("every command has a tag"),
    }
}

/// The line of an event.
pub(crate) fn line_of(change: Write<'_>) -> Vec<u8> {
    let mut line = Vec::new();
    Reply::Change(change).encode(&mut line);
    line.pop();
    line
}

pub(crate) fn is_event(text: &[u8]) -> bool {
    let words: [&[u8]; 5] = [b":put:", b":update:", b":delete:", b":set:", b":remove:"];
    words.iter().any(|word| text.starts_with(word))
}
