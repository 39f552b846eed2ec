//! The one order in which answers of a store that answers late went out, as far as it is known: by what
//! was seen, by the order of each key, and where that leaves a choice, by when each could go out.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use keywire::{
    protocol::{Reply, Topic, Write},
    store::Order,
};

use crate::{
    history::{Entry, Kind, Record, What, tag_of_write},
    identify::{Directions, number_of},
    lists::Lists,
    sent::Sent,
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
            if let Some(last) = last {
                self.edge(last, place);
            }
            last = Some(place);
        }
    }

    fn edge(&mut self, before: usize, after: usize) {
        if before != after {
            self.later[before].push(after);
            self.before[after] += 1;
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

/// How far a client's own lines have been answered.
struct Seen<'a> {
    entries: &'a [Entry],
    sent: Vec<Sent>,
    /// Its own commands, in their order.
    own: Vec<usize>,
    /// The next line that may be answered.
    next: usize,
    /// How many of its own commands have a place in what was seen.
    chained: usize,
    /// How many of them have been looked at for the lines of a `Keys`.
    counted: usize,
}

impl Seen<'_> {
    /// One of its own commands is answered.
    fn come_to(&mut self, place: Option<usize>) -> Option<usize> {
        let place = place?;
        self.next = self.next.max(self.entries[place].tag.1 + 1);
        let own = self.own.iter().position(|own| *own == place)?;
        self.chained = self.chained.max(own + 1);
        Some(place)
    }

    /// A line that is no command is answered: the commands before it are done.
    fn control(&mut self, line: usize) -> Option<usize> {
        self.next = self.next.max(line + 1);
        let before = |place: &usize| self.entries[*place].tag.1 < line;
        let done = self.own.iter().take_while(|place| before(place)).count();
        if done <= self.chained {
            return None;
        }
        self.chained = done;
        Some(self.own[done - 1])
    }

    /// The line that a control line answers.
    fn find(&self, reply: &Reply<'_>) -> Option<usize> {
        let fits = |sent: &Sent| match (reply, sent) {
            (Reply::Sync { token, .. }, Sent::Sync(own)) => own == token,
            (Reply::Stats(_), Sent::Stats) => true,
            (Reply::Watch(Topic::Key(key)), Sent::Watch(own, false)) => own == key,
            (Reply::Watch(Topic::Prefix(prefix)), Sent::Watch(own, true)) => own == prefix,
            _ => false,
        };
        let ahead = self.sent[self.next.min(self.sent.len())..].iter();
        ahead.clone().position(fits).map(|ahead| self.next + ahead)
    }

    /// The lines of a `Keys` have no numbers. None of them was dropped.
    fn count(&mut self, key: &[u8]) -> Option<usize> {
        let is_counted = |place: &usize| {
            let entry = &self.entries[*place];
            let line = self.sent.get(entry.tag.1);
            let counts = matches!(line, Some(Sent::Walk { counts: true, .. }));
            entry.kind == Kind::Walk && counts && entry.key == key
        };
        let own = &self.own[self.counted..];
        let ahead = own.iter().position(is_counted)?;
        self.counted += ahead + 1;
        Some(self.own[self.counted - 1])
    }
}

/// Puts the history into its order, and the reads of walks into theirs.
pub(crate) fn sort(
    record: &mut Record,
    directions: &Directions,
    (order, all_changes): (Order, bool),
) {
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
        if order == Order::Total && entry.is_command() && entry.kind != Kind::Get {
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
        let own = by_number.iter().copied();
        let own = own.filter(|place| entries[*place].tag.0 == client);
        let mut seen = Seen {
            entries: &entries,
            sent: (up.lines.iter().enumerate())
                .map(|(line, sent)| Sent::of(&sent.text, false, Some(line)))
                .collect(),
            own: own.collect(),
            next: 0,
            chained: 0,
            counted: 0,
        };
        let mut chain = Vec::new();
        // Commands of its own that come before what is seen next.
        let mut done = Vec::new();
        for line in &down.lines {
            let place = match Reply::parse(&line.text) {
                Ok(Reply::Change(write)) => {
                    let place = tags.get(&tag_of_write(write)).copied();
                    // If the store tells it, it comes before replies to what stands before the write.
                    let is_own = |place: usize| entries[place].tag.0 == client && !all_changes;
                    match place.is_some_and(is_own) {
                        true => seen.come_to(place),
                        false => place,
                    }
                }
                Ok(Reply::Value { key, .. }) => match number_of(&line.text) {
                    Some(number) => seen.come_to(numbers.get(&number).copied()),
                    None => {
                        let place = seen.count(key);
                        seen.come_to(place)
                    }
                },
                Ok(Reply::Error { line, .. }) if line > 0 => {
                    let line = line as usize - 1;
                    let place = tags.get(&(client, line)).copied();
                    if place.is_none() {
                        done.extend(seen.control(line));
                    }
                    // Events of later writes in the batch come before it, if the store tells them. A page
                    // of a walk has no writes, so the failure of a read has its place, as a value has.
                    let has_place =
                        |place: &usize| !all_changes || entries[*place].kind == Kind::Walk;
                    seen.come_to(place).filter(has_place)
                }
                Ok(reply) => {
                    let line = seen.find(&reply);
                    done.extend(line.and_then(|line| seen.control(line)));
                    None
                }
                Err(_) => None,
            };
            if let Some(place) = place {
                done.drain(..).for_each(|own| graph.edge(own, place));
                chain.push(place);
            }
        }
        graph.chain(chain);
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
