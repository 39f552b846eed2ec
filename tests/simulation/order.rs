//! The one order in which answers of a store that answers late went out, as far as it is known: by what
//! was seen, by the order of each key, and where that leaves a choice, by when each could go out.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use keywire::{
    protocol::{Reply, Write},
    store::Order,
};

use crate::{
    history::{Entry, Kind, Record, What, tag_of_write},
    identify::{Directions, number_of},
    lists::Lists,
};

/// The entries in an order, as edges from each to what has to come later.
struct Graph<'a> {
    entries: &'a [Entry],
    later: Vec<Vec<usize>>,
    /// How many have to come before each.
    before: Vec<usize>,
}

impl Graph<'_> {
    /// Each of these comes after the one before it.
    fn chain(&mut self, places: impl IntoIterator<Item = usize>) {
        let mut last = None;
        for place in places {
            if let Some(last) = last.filter(|last| *last != place) {
                let later: &mut Vec<usize> = &mut self.later[last];
                later.push(place);
                self.before[place] += 1;
            }
            last = Some(place);
        }
    }

    fn sort(mut self) -> Vec<usize> {
        let key = |place: usize| (self.entries[place].answered, self.entries[place].number);
        let free = (0..self.entries.len()).filter(|place| self.before[*place] == 0);
        let mut free: BinaryHeap<_> = free.map(|place| Reverse((key(place), place))).collect();
        let mut sorted = Vec::new();
        while let Some(Reverse((_, place))) = free.pop() {
            sorted.push(place);
            for &later in &self.later[place] {
                self.before[later] -= 1;
                if self.before[later] == 0 {
                    free.push(Reverse((key(later), later)));
                }
            }
        }
        if sorted.len() < self.entries.len() {
            let left = (0..self.entries.len()).filter(|place| self.before[*place] > 0);
            let left: Vec<_> = left.map(|place| &self.entries[place]).collect();
            panic!("there is no order in which this was seen: {left:#?}");
        }
        sorted
    }
}

/// Puts the history into its order, and the reads of walks into theirs.
pub(crate) fn sort(record: &mut Record, directions: &Directions, order: Order) {
    let entries = std::mem::take(&mut record.entries);
    let mut graph = Graph {
        entries: &entries,
        later: vec![Vec::new(); entries.len()],
        before: vec![0; entries.len()],
    };
    let mut by_number: Vec<usize> = (0..entries.len()).collect();
    by_number.sort_unstable_by_key(|place| entries[*place].number);
    let mut chains: HashMap<(usize, &[u8]), Vec<usize>> = HashMap::new();
    for &place in &by_number {
        let entry = &entries[place];
        let own = (entry.connection, &b""[..]);
        chains.entry(own).or_default().push(place);
        let of_key = (usize::MAX, &entry.key[..]);
        chains.entry(of_key).or_default().push(place);
        if order == Order::Total && !matches!(entry.kind, Kind::Get | Kind::Walk) {
            let writes = (usize::MAX, &b""[..]);
            chains.entry(writes).or_default().push(place);
        }
    }
    chains.into_values().for_each(|chain| graph.chain(chain));
    let places = entries.iter().enumerate();
    let numbers: HashMap<_, _> = places.clone().map(|(p, entry)| (entry.number, p)).collect();
    // A walk has an error where a read of it has.
    let is_told = |entry: &Entry| entry.is_command() || !matches!(entry.what, What::Read(_));
    let told = places.filter(|(_, entry)| is_told(entry));
    let tags: HashMap<_, _> = told.map(|(place, entry)| (entry.tag, place)).collect();
    for (client, (down, up)) in directions.iter().enumerate() {
        // The lines of a `Keys` have no numbers. None of them was dropped.
        let counts = |place: &&usize| {
            let entry = &entries[**place];
            let line = |line: usize| up.lines[line].text.starts_with(b"Keys:");
            entry.kind == Kind::Walk && entry.tag.0 == client && line(entry.tag.1)
        };
        let mut counted = by_number.iter().filter(counts);
        let seen = down.lines.iter().filter_map(|line| {
            let key = line.text.split(|&byte| byte == b':').next();
            let mut number = || match number_of(&line.text) {
                Some(number) => numbers.get(&number),
                None => counted.find(|place| Some(&entries[**place].key[..]) == key),
            };
            match Reply::parse(&line.text) {
                Ok(Reply::Change(write)) => tags.get(&tag_of_write(write)),
                Ok(Reply::Value { .. }) => number(),
                Ok(Reply::Error { line, .. }) => {
                    tags.get(&(client, (line as usize).wrapping_sub(1)))
                }
                _ => None,
            }
        });
        graph.chain(seen.copied());
    }
    let sorted = graph.sort();
    let mut entries: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let sorted = sorted.into_iter().filter_map(|place| entries[place].take());
    record.entries = sorted.collect();
    let mut reads: Vec<usize> = (0..record.entries.len()).collect();
    reads.retain(|place| record.entries[*place].kind == Kind::Walk);
    reads.sort_unstable_by_key(|place| record.entries[*place].number);
    for place in reads {
        let walk = record.walks.entry(record.entries[place].tag).or_default();
        walk.reads.push(place);
    }
}

/// Every read shows what was written before it, and nothing else.
pub(crate) fn check_history(record: &Record) {
    let mut lists = Lists::default();
    for entry in &record.entries {
        match &entry.what {
            What::Written(_, line) | What::Unconfirmed(Some(line)) => lists.write(change(line)),
            What::Read(lines) if !entry.key.contains(&b'~') => {
                let value = |line: &Vec<u8>| {
                    let colon = line.iter().position(|&byte| byte == b':');
                    let value = &line[colon.expect("a colon") + 1..];
                    let end = value.iter().position(|&byte| byte == b'@');
                    value[..end.unwrap_or(value.len())].to_vec()
                };
                let values: Vec<Vec<u8>> = lines.iter().map(value).collect();
                assert_eq!(lists.get(&entry.key), values, "{entry:?}");
            }
            _ => {}
        }
    }
}

/// The write that a line tells of.
pub(crate) fn change(line: &[u8]) -> Write<'_> {
    match Reply::parse(line) {
        Ok(Reply::Change(write)) => write,
        _ => panic!("a change"),
    }
}
