//! Which of the commands that were sent each one is that a store without tags was asked.

use std::collections::{HashMap, VecDeque};

use keywire::protocol::{Command, Operation};

use crate::{
    history::{Entry, Kind, Record, Tag, What, tag_of_write},
    network::Direction,
    sent::Sent,
    walks::Page,
    world::Moment,
};

/// What goes from the server and to it, of each client.
pub(crate) type Directions = [(Direction, Direction)];

/// The number of the read that a line of values answers.
pub(crate) fn number_of(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, number) = text.rsplit_once('@')?;
    (!text.starts_with(':')).then(|| number.parse().ok())?
}

/// The client of each connection. `None`, where two had the same one after another.
fn clients(record: &Record, directions: &Directions) -> Option<HashMap<usize, usize>> {
    // When the last one was there, and when the first one spoke, before which nobody leaves.
    let there = directions
        .iter()
        .map(|(_, up)| up.looked.unwrap_or(Moment::NEVER));
    let spoke = directions.iter().filter_map(|(_, up)| up.writes.get(1));
    if spoke.min() < there.max().as_ref() {
        return None;
    }
    let mut clients = HashMap::new();
    let mut numbers = HashMap::new();
    for batch in &record.batches {
        for entry in &batch.entries {
            numbers.insert(entry.number, batch.connection);
            if let Ok(Command::Operation(Operation::Write(write))) = Command::parse(&entry.line) {
                let client = tag_of_write(write).0;
                if *clients.entry(batch.connection).or_insert(client) != client {
                    return None;
                }
            }
        }
    }
    for (client, (down, _)) in directions.iter().enumerate() {
        let read = down.lines.iter().filter_map(|line| number_of(&line.text));
        for connection in read.filter_map(|number| numbers.get(&number)) {
            if *clients.entry(*connection).or_insert(client) != client {
                return None;
            }
        }
    }
    // The others only read, and nobody was told of it.
    let mut unknown: Vec<usize> = record.batches.iter().map(|b| b.connection).collect();
    unknown.retain(|connection| !clients.contains_key(connection));
    unknown.sort_unstable();
    unknown.dedup();
    let all = 0..directions.len();
    let mut left = all.filter(|client| !clients.values().any(|other| other == client));
    match (&unknown[..], left.next(), left.next()) {
        ([], ..) => {}
        ([connection], Some(client), None) => drop(clients.insert(*connection, client)),
        _ => return None,
    }
    let mut all: Vec<usize> = clients.values().copied().collect();
    all.sort_unstable();
    all.dedup();
    (all.len() == clients.len()).then_some(clients)
}

/// Finds it out, if it can be known.
pub(crate) fn identify(record: &mut Record, directions: &Directions) -> Option<()> {
    let clients = clients(record, directions)?;
    record.clients = clients;
    let mut pages: Vec<Option<Tag>> = vec![None; record.pages.len()];
    let mut names = HashMap::new();
    for (client, (down, up)) in directions.iter().enumerate() {
        let mut own: Vec<&Entry> = record.entries.iter().collect();
        own.retain(|entry| record.clients.get(&entry.connection) == Some(&client));
        own.sort_unstable_by_key(|entry| entry.number);
        Client {
            client,
            down,
            up,
            record,
            next: 0,
            walk: None,
            keys: VecDeque::new(),
        }
        .follow(&own, &mut pages, &mut names)?;
    }
    for entry in &mut record.entries {
        if let Some(name) = names.get(&entry.number) {
            (entry.tag, entry.kind) = *name;
        }
    }
    claim(record, directions, &mut pages);
    for (page, tag) in std::mem::take(&mut record.pages).into_iter().zip(pages) {
        match tag {
            Some(tag) => record.walks.entry(tag).or_default().pages.push(page),
            // Nobody was told what came of it.
            None => record.pages.push(page),
        }
    }
    Some(())
}

/// Pages that follow belong to the same walk. The first one of a walk may have failed: then nothing
/// was read.
fn claim(record: &Record, directions: &Directions, pages: &mut [Option<Tag>]) {
    let mut failed = Vec::new();
    for (client, (down, up)) in directions.iter().enumerate() {
        for (number, line) in up.lines.iter().enumerate() {
            let Sent::Walk { prefix, .. } = Sent::of(&line.text, false, Some(number)) else {
                continue;
            };
            let error = format!(":error:{}:store:", number + 1);
            let mut lines = down.lines.iter();
            let error = lines.find(|line| line.text.starts_with(error.as_bytes()));
            if let (Some(error), false) = (error, pages.contains(&Some((client, number)))) {
                failed.push((error.begun, line.read, prefix, (client, number)));
            }
        }
    }
    // Whoever was told first has the first that fits.
    failed.sort_unstable();
    for (told, read, prefix, tag) in failed {
        let fits = |page: &Page| {
            let first = page.failed && page.cursor.is_empty() && page.prefix == prefix;
            first && read < Some(page.asked) && page.answered < told
        };
        let mut all = record.pages.iter().zip(&*pages);
        let place = all.position(|(page, other)| other.is_none() && fits(page));
        let place = place.unwrap_or_else(|| panic!("{tag:?} failed untried"));
        pages[place] = Some(tag);
    }
    for (id, page) in record.pages.iter().enumerate() {
        let before = std::str::from_utf8(&page.cursor).unwrap_or_default();
        if let Some((before, _)) = before.split_once('>') {
            pages[id] = pages[before.parse::<usize>().expect("a page")];
        }
    }
}

/// One client, whose commands are followed in the order in which the store was asked them.
struct Client<'a> {
    client: usize,
    down: &'a Direction,
    up: &'a Direction,
    record: &'a Record,
    /// The next line that may have been asked.
    next: usize,
    /// The walk that is under way, and the keys that it still has to read.
    walk: Option<usize>,
    keys: VecDeque<Vec<u8>>,
}

impl Client<'_> {
    fn sent(&self, line: usize) -> Option<Sent> {
        let text = &self.up.lines.get(line)?.text;
        Some(Sent::of(text, false, Some(line)))
    }

    fn follow(
        mut self,
        own: &[&Entry],
        pages: &mut [Option<Tag>],
        names: &mut HashMap<usize, (Tag, Kind)>,
    ) -> Option<()> {
        let client = self.client;
        for entry in own {
            let mark = entry.key.iter().position(|&byte| byte == b'~');
            let (line, kind) = if let Some(mark) = mark.filter(|_| entry.kind == Kind::Get) {
                let page = std::str::from_utf8(&entry.key[mark + 1..]).ok()?;
                let page: usize = page.parse().expect("a page");
                let walk = self.page(page)?;
                pages[page] = Some((client, walk));
                (walk, Kind::Walk)
            } else if self.is_next_of_walk(entry)? {
                self.keys.pop_front();
                (self.walk?, Kind::Walk)
            } else {
                self.keys.clear();
                (self.command(entry), entry.kind)
            };
            if kind == Kind::Walk && !matches!(entry.what, What::Read(_)) {
                // It ends there.
                self.keys.clear();
            }
            names.insert(entry.number, ((client, line), kind));
        }
        Some(())
    }

    /// A walk has come to this page.
    fn page(&mut self, id: usize) -> Option<usize> {
        let page = &self.record.pages[id];
        self.keys = page.names[1..].iter().cloned().collect();
        if !page.cursor.is_empty() {
            return self.walk;
        }
        let mut walks = Vec::new();
        for line in self.next.. {
            match self.sent(line) {
                Some(Sent::Walk { prefix, .. }) if prefix == page.prefix => walks.push(line),
                Some(Sent::Command(_)) | None => break,
                _ => {}
            }
        }
        // One before it may have failed with its first page.
        let is_failed = |page: &Page| page.failed && page.cursor.is_empty();
        if walks.len() > 1 && self.record.pages.iter().any(is_failed) {
            return None;
        }
        let client = self.client;
        let walk = *walks
            .first()
            .unwrap_or_else(|| panic!("client {client} did not ask for {page:?}"));
        self.walk = Some(walk);
        self.next = walk + 1;
        Some(walk)
    }

    /// Whether this is the next key of the walk. `None` if that can't be known.
    fn is_next_of_walk(&self, entry: &Entry) -> Option<bool> {
        if entry.kind != Kind::Get || self.keys.front() != Some(&entry.key) {
            return Some(false);
        }
        // The server may have ended the walk, and gone on.
        let closing = format!(":error:{}:closing:", self.walk? + 1);
        let mut lines = self.down.lines.iter();
        let closed = lines.any(|line| line.text.starts_with(closing.as_bytes()));
        match closed || self.down.closed.is_none() {
            true if self
                .next_command()
                .is_some_and(|(_, text)| text == entry.line) =>
            {
                None
            }
            _ => Some(true),
        }
    }

    fn next_command(&self) -> Option<(usize, &[u8])> {
        let is_command = |line: &usize| matches!(self.sent(*line), Some(Sent::Command(_)));
        let line = (self.next..self.up.lines.len()).find(is_command)?;
        let text = &self.up.lines[line].text;
        Some((line, text.strip_suffix(b"\r").unwrap_or(text)))
    }

    /// The line of a command.
    fn command(&mut self, entry: &Entry) -> usize {
        let client = self.client;
        let Some((line, text)) = self.next_command() else {
            panic!("client {client} did not send {entry:?}");
        };
        assert_eq!(
            String::from_utf8_lossy(text),
            String::from_utf8_lossy(&entry.line),
            "client {client}: a command was applied out of order"
        );
        self.next = line + 1;
        line
    }
}
