//! What one client asks for, and what it has to hear.

use std::collections::{BTreeSet, HashMap};

use super::store::Entry;
use crate::common::model::Expected;

/// What a client asks for besides writes.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Watch(bool, String),
    Unwatch(bool, String),
    Get(String),
}

/// What one client has asked for, in order.
pub(crate) struct Script {
    pub(crate) name: usize,
    pub(crate) asked: Vec<Ask>,
    pub(crate) watching: Vec<(bool, String)>,
}

pub(crate) fn word(random: &mut fastrand::Rng, lengths: std::ops::Range<usize>) -> String {
    let length = random.usize(lengths);
    (0..length)
        .map(|_| ["a", "b", "\u{7f}"][random.usize(..3)])
        .collect()
}

pub(crate) fn random_write(random: &mut fastrand::Rng, out: &mut String) {
    let (key, value) = (word(random, 1..4), random.u8(..20));
    *out += &match random.u8(..6) {
        0 => format!("Delete:{key}\n"),
        1..=2 => format!("Update:{key}:{}:{value}\n", random.u8(..20)),
        _ => format!("Put:{key}:{value}\n"),
    };
}

impl Script {
    pub(crate) fn new(name: usize) -> Self {
        Self {
            name,
            asked: Vec::new(),
            watching: Vec::new(),
        }
    }

    /// The keys before and after what it asked. Nothing is ever put there.
    pub(crate) fn marks(&self, number: usize) -> [String; 2] {
        ["<", ">"].map(|side| format!("{}{side}{number}", self.name))
    }

    pub(crate) fn ask(&mut self, ask: Ask, out: &mut String) {
        let [before, after] = self.marks(self.asked.len());
        let line = match &ask {
            Ask::Watch(false, key) => format!("Watch:{key}"),
            Ask::Watch(true, prefix) => format!("WatchPrefix:{prefix}"),
            Ask::Unwatch(false, key) => format!("Unwatch:{key}"),
            Ask::Unwatch(true, prefix) => format!("UnwatchPrefix:{prefix}"),
            Ask::Get(key) => format!("Get:{key}"),
        };
        *out += &format!("Get:{before}\n{line}\nGet:{after}\n");
        self.asked.push(ask);
    }

    pub(crate) fn ask_something(&mut self, random: &mut fastrand::Rng, out: &mut String) {
        let prefix = random.bool();
        let ask = match random.u8(..8) {
            0..=2 => Ask::Get(word(random, 1..4)),
            3..=5 => {
                let topic = (prefix, word(random, usize::from(!prefix)..4));
                self.watching.push(topic.clone());
                Ask::Watch(topic.0, topic.1)
            }
            _ if self.watching.is_empty() => Ask::Unwatch(prefix, word(random, 1..3)),
            _ => {
                let (prefix, name) = self
                    .watching
                    .swap_remove(random.usize(..self.watching.len()));
                Ask::Unwatch(prefix, name)
            }
        };
        self.ask(ask, out);
    }

    /// What it has to hear, up to where others come between its marks, so that there is no telling.
    /// Says whether that is all.
    pub(crate) fn expected(
        &self,
        history: &[Entry],
        at: &HashMap<&[u8], usize>,
    ) -> (Vec<Expected>, bool) {
        let mut asks: HashMap<usize, &Ask> = HashMap::new();
        let mut until = history.len();
        for (number, ask) in self.asked.iter().enumerate() {
            let [before, after] = self
                .marks(number)
                .map(|mark| at.get(mark.as_bytes()).copied());
            let between = usize::from(matches!(ask, Ask::Get(_)));
            match (before, after) {
                (Some(before), Some(after)) if after == before + between + 1 => {
                    asks.insert(before, ask);
                }
                (None, None) => {}
                (Some(doubt), _) => {
                    until = doubt;
                    break;
                }
                (None, Some(_)) => panic!("commands in the wrong order"),
            }
        }
        let mut expected = Vec::new();
        let mut topics = BTreeSet::new();
        for (place, entry) in history[..until].iter().enumerate() {
            match (entry, asks.get(&place)) {
                (_, Some(Ask::Watch(prefix, name))) => {
                    topics.insert((*prefix, name.as_bytes()));
                    let word = if *prefix { "watchprefix" } else { "watch" };
                    expected.push(Expected::Line(format!(":{word}:{name}").into_bytes()));
                }
                (_, Some(Ask::Unwatch(prefix, name))) => {
                    topics.remove(&(*prefix, name.as_bytes()));
                }
                (_, Some(Ask::Get(asked))) => {
                    let Entry::Get { key, values } = &history[place + 1] else {
                        unreachable!("the marks have its Get between them");
                    };
                    assert_eq!(asked.as_bytes(), key);
                    let line = |value: &Vec<u8>| Expected::Line([&key[..], b":", value].concat());
                    expected.extend(values.iter().map(line));
                }
                (Entry::Change { key, line }, None) => {
                    let matches = |&(prefix, name): &(bool, &[u8])| match prefix {
                        true => key.starts_with(name),
                        false => key == name,
                    };
                    if topics.iter().any(matches) {
                        expected.push(Expected::Event(line.clone()));
                    }
                }
                (Entry::Get { .. }, None) => {}
            }
        }
        (expected, until == history.len())
    }
}
