//! What a client did to keys that are its own, and what may be left of it after a crash.

use std::collections::HashMap;

use fastrand::Rng;

use crate::process::Lists;

/// Keys of a client.
pub(crate) const KEYS: usize = 12;

/// Values that a key may have. What exceeds it is refused.
pub(crate) const MAX_VALUES: usize = 6;

/// Keys that all clients set.
pub(crate) const SHARED: usize = 2;

#[derive(Clone, Debug)]
pub(crate) enum Write {
    Put(usize, String),
    Set(usize, String),
    Update(usize, String, String),
    Remove(usize, String),
    Delete(usize),
    SetShared(usize, String),
}

type State = Vec<Vec<String>>;

/// The writes of a client since the last start, in the order sent.
pub(crate) struct History {
    client: usize,
    /// Bytes of most values.
    length: usize,
    /// The number of the first one. Each value begins with the number of the write that brought it.
    first: usize,
    writes: Vec<Write>,
    /// Before the first one, and after the last.
    base: State,
    now: State,
    /// So many of them survive a crash.
    durable: usize,
    /// Lists that others were shown, by key.
    shown: Vec<(usize, Vec<String>)>,
    /// The number of the last write that a watcher was told.
    told: Option<usize>,
}

impl History {
    pub(crate) fn new(client: usize, length: usize) -> Self {
        let state = vec![Vec::new(); KEYS];
        Self {
            client,
            length,
            first: 0,
            writes: Vec::new(),
            base: state.clone(),
            now: state,
            durable: 0,
            shown: Vec::new(),
            told: None,
        }
    }

    pub(crate) fn key(client: usize, key: usize) -> String {
        format!("c{client}k{key}")
    }

    /// The number that the next write will have.
    pub(crate) fn next(&self) -> usize {
        self.first + self.writes.len()
    }

    /// A random write, and whether it will be refused.
    pub(crate) fn write(&mut self, rng: &mut Rng) -> (Write, bool) {
        let write = self.choose(rng);
        let refused = !apply(&mut self.now, &write);
        self.writes.push(write.clone());
        (write, refused)
    }

    /// The writes from this number on were refused, all of them.
    pub(crate) fn refuse_from(&mut self, number: usize) {
        self.writes.truncate(number - self.first);
        assert!(
            self.durable <= self.writes.len(),
            "refused what was acknowledged"
        );
    }

    fn choose(&self, rng: &mut Rng) -> Write {
        // Some keys change all the time, and some hardly ever.
        let key = if rng.u8(..4) == 0 {
            rng.usize(..KEYS)
        } else {
            rng.usize(..3)
        };
        // What hardly changes is most of the data, so that a snapshot takes several commits.
        let length = match key {
            ..3 => rng.usize(..100.min(self.length)),
            _ => rng.usize(..self.length),
        };
        let new = format!("{}.{}.{}", self.client, self.next(), "x".repeat(length));
        let old = match self.now[key].len() {
            0 => "none".into(),
            values => self.now[key][rng.usize(..values)].clone(),
        };
        match rng.u8(..20) {
            0..7 => Write::Put(key, new),
            7..10 => Write::Set(key, new),
            10..13 => Write::Update(key, old, new),
            13..17 => Write::Remove(key, old),
            17..19 => Write::Delete(key),
            _ => Write::SetShared(rng.usize(..SHARED), new),
        }
    }

    pub(crate) fn line(&self, write: &Write) -> String {
        let name = |key: &usize| Self::key(self.client, *key);
        match write {
            Write::Put(key, value) => format!("Put:{}:{value}\n", name(key)),
            Write::Set(key, value) => format!("Set:{}:{value}\n", name(key)),
            Write::Update(key, old, new) => format!("Update:{}:{old}:{new}\n", name(key)),
            Write::Remove(key, value) => format!("Remove:{}:{value}\n", name(key)),
            Write::Delete(key) => format!("Delete:{}\n", name(key)),
            Write::SetShared(key, value) => format!("Set:s{key}:{value}\n"),
        }
    }

    /// A Get of a random key, and the lines of its reply.
    pub(crate) fn get(&self, rng: &mut Rng) -> (String, Vec<String>) {
        let key = rng.usize(..KEYS);
        let name = Self::key(self.client, key);
        let lines = self.now[key].iter().map(|value| format!("{name}:{value}"));
        let lines = lines.collect();
        (format!("Get:{name}\n"), lines)
    }

    /// All writes before this number are acknowledged.
    pub(crate) fn acknowledge(&mut self, number: usize) {
        self.durable = self.durable.max(number - self.first);
    }

    /// Somebody was shown this list.
    pub(crate) fn show(&mut self, key: usize, list: Vec<String>) {
        self.shown.push((key, list));
    }

    /// A watcher was told of the write that brought this value.
    pub(crate) fn tell(&mut self, value: &str) {
        let number = number_of(value);
        assert!(number < self.next(), "told of what was not sent: {value}");
        assert!(self.told < Some(number), "told twice, or late: {value}");
        self.told = Some(number);
        self.acknowledge(number + 1);
    }

    /// Compares with what was found after a crash, and goes on from there. Gives how many writes
    /// had not been acknowledged, and how many of them survived.
    pub(crate) fn settle(&mut self, found: &Lists) -> (usize, usize) {
        let list = |key| found.get(&Self::key(self.client, key));
        let found: State = (0..KEYS)
            .map(|key| list(key).cloned().unwrap_or_default())
            .collect();
        let mut state = self.base.clone();
        // After how many writes a key had a list first.
        let mut had = HashMap::new();
        for (key, list) in state.iter().enumerate() {
            had.insert((key, list.clone()), 0);
        }
        let mut survived = (state == found && self.durable == 0).then_some(0);
        for (index, write) in self.writes.iter().enumerate() {
            apply(&mut state, write);
            if let Some(key) = key_of(write) {
                let list = state[key].clone();
                had.entry((key, list)).or_insert(index + 1);
            }
            if index + 1 >= self.durable && state == found {
                survived = Some(index + 1);
            }
        }
        let Some(survived) = survived else {
            self.explain(&found);
        };
        for (key, list) in &self.shown {
            let after = had.get(&(*key, list.clone()));
            let after = after.unwrap_or_else(|| panic!("key {key} never was {list:?}"));
            assert!(*after <= survived, "key {key} was shown as {list:?}");
        }
        let unacknowledged = self.writes.len() - self.durable;
        let result = (unacknowledged, survived - self.durable.min(survived));
        self.first += self.writes.len();
        self.writes.clear();
        self.base.clone_from(&found);
        self.now = found;
        self.durable = 0;
        self.shown.clear();
        self.told = None;
        result
    }

    fn explain(&self, found: &State) -> ! {
        let mut state = self.base.clone();
        for write in &self.writes[..self.durable] {
            apply(&mut state, write);
        }
        for key in (0..KEYS).filter(|&key| state[key] != found[key]) {
            eprintln!(
                "key {key}\n  {:?} acknowledged\n  {:?} found",
                state[key], found[key]
            );
        }
        for (index, write) in self.writes.iter().enumerate().skip(self.durable) {
            eprintln!("not acknowledged {}: {write:?}", self.first + index);
        }
        panic!("client {}: no prefix of its writes makes this", self.client);
    }

    /// Whether this may be the value of a key that all clients set: it was sent, and this client has
    /// no later one that is acknowledged.
    pub(crate) fn may_share(&self, shared: usize, value: &str) -> bool {
        let number = number_of(value);
        let mut sets = self.writes.iter().enumerate().filter_map(|(index, write)| {
            matches!(write, Write::SetShared(key, _) if *key == shared).then_some(index)
        });
        let last = sets.rfind(|&index| index < self.durable);
        if client_of(value) == self.client {
            number < self.next() && last.is_none_or(|last| self.first + last <= number)
        } else {
            true
        }
    }
}

pub(crate) fn client_of(value: &str) -> usize {
    value.split('.').next().unwrap().parse().unwrap()
}

fn number_of(value: &str) -> usize {
    value.split('.').nth(1).unwrap().parse().unwrap()
}

fn key_of(write: &Write) -> Option<usize> {
    match write {
        Write::Put(key, _)
        | Write::Set(key, _)
        | Write::Update(key, ..)
        | Write::Remove(key, _)
        | Write::Delete(key) => Some(*key),
        Write::SetShared(..) => None,
    }
}

/// Whether it was not refused.
fn apply(state: &mut State, write: &Write) -> bool {
    match write {
        Write::Put(key, value) => {
            let list = &mut state[*key];
            if list.len() >= MAX_VALUES {
                return false;
            }
            list.push(value.clone());
        }
        Write::Set(key, value) => state[*key] = vec![value.clone()],
        Write::Update(key, old, new) => {
            let list = &mut state[*key];
            match list.iter().position(|value| value == old) {
                Some(place) => list[place].clone_from(new),
                None if list.len() >= MAX_VALUES => return false,
                None => list.push(new.clone()),
            }
        }
        Write::Remove(key, value) => {
            let list = &mut state[*key];
            if let Some(place) = list.iter().position(|other| other == value) {
                list.remove(place);
            }
        }
        Write::Delete(key) => state[*key].clear(),
        Write::SetShared(..) => {}
    }
    true
}
