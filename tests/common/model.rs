//! What a server has to answer, written the plain way: one connection, one map, no batches.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
};

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Exactly this, without the LF.
    Line(Vec<u8>),
    /// The lines of some keys, in any order of the keys, but those of a key together.
    Walk(BTreeMap<Vec<u8>, Vec<Vec<u8>>>),
    /// A change that is watched. It may be missed, where the server has no room for it.
    Event(Vec<u8>),
    /// An error for this line, with this code and any words.
    Error(u64, &'static str),
    /// The counters, with these words among them, whatever the others are.
    Stats(Vec<String>),
}

/// The lists, and how a line changes them.
#[derive(Clone, Debug)]
pub struct Model {
    pub lists: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    max_line: usize,
    max_watches: usize,
    /// What the server wants to hear, if anything. It has been said.
    pub secret: Option<&'static [u8]>,
    keys: BTreeSet<Vec<u8>>,
    prefixes: BTreeSet<Vec<u8>>,
    /// Whether the connection is the only one, so that the counters are its own.
    alone: bool,
    /// Lines of the connection so far.
    lines: u64,
    /// Whether one of them was a command.
    opened: bool,
    /// It was refused as a whole.
    closed: bool,
}

impl Model {
    pub fn new(max_line: usize) -> Self {
        Self {
            lists: BTreeMap::new(),
            max_line,
            max_watches: 1000,
            secret: None,
            keys: BTreeSet::new(),
            prefixes: BTreeSet::new(),
            alone: false,
            lines: 0,
            opened: false,
            closed: false,
        }
    }

    /// Of a server that nobody else is connected to, and that allows so many watches.
    pub fn alone(max_line: usize, max_watches: usize) -> Self {
        Self {
            max_watches,
            alone: true,
            ..Self::new(max_line)
        }
    }

    /// What the connection is answered where it sends `input` next. It ends where that ends within a
    /// line.
    pub fn converse(&mut self, input: &[u8]) -> Vec<Expected> {
        let mut answers = Vec::new();
        if self.closed {
            return answers;
        }
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            self.lines += 1;
            let number = self.lines;
            self.closed |= !self.opened && self.is_foreign(line);
            if self.closed {
                answers.push(Expected::Error(number, "malformed"));
                break;
            }
            match line.strip_suffix(b"\n") {
                Some(line) => self.line(number, line, &mut answers),
                None => answers.push(Expected::Error(number, "malformed")),
            }
        }
        answers
    }

    /// Whether another protocol begins so: TLS with its first bytes, HTTP with a line.
    fn is_foreign(&self, line: &[u8]) -> bool {
        if self.lines == 1 && line.starts_with(b"\x16\x03") {
            return true;
        }
        let Some(line) = line.strip_suffix(b"\n") else {
            return false;
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.to_ascii_lowercase().starts_with(b"host:") {
            return true;
        }
        let Some(space) = line.iter().position(|&byte| byte == b' ') else {
            return false;
        };
        let is_method = |&byte: &u8| byte.is_ascii_graphic() && byte != b':';
        line.len() <= self.max_line
            && space > 0
            && line[..space].iter().all(is_method)
            && line[space + 1..].windows(6).any(|six| six == b" HTTP/")
    }

    fn line(&mut self, number: u64, line: &[u8], answers: &mut Vec<Expected>) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.max_line {
            return answers.push(Expected::Error(number, "too-long"));
        }
        let before = answers.len();
        self.command(number, line, answers);
        let no_command = [
            Expected::Error(number, "malformed"),
            Expected::Error(number, "unknown"),
        ];
        let is_one = !answers[before..]
            .iter()
            .any(|answer| no_command.contains(answer));
        self.opened |= !line.is_empty() && is_one;
    }

    fn command(&mut self, number: u64, line: &[u8], answers: &mut Vec<Expected>) {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        // The rest of the line from this field on, colons and all.
        let from = |field: usize| {
            let skipped: usize = fields[..field].iter().map(|field| field.len() + 1).sum();
            line[skipped..].to_vec()
        };
        let has_key = fields.get(1).is_some_and(|key| !key.is_empty());
        let key = || fields[1].to_vec();
        match (fields[0], fields.len()) {
            (b"Put", 3..) if has_key => {
                self.lists.entry(key()).or_default().push(from(2));
                self.tell(fields[1], &[b":put:", &from(1)], answers);
            }
            (b"Get", 2) if has_key => {
                for value in self.lists.get(fields[1]).into_iter().flatten() {
                    answers.push(Expected::Line([fields[1], value].join(&b':')));
                }
            }
            (b"Delete", 2) if has_key => {
                self.lists.remove(fields[1]);
                self.tell(fields[1], &[b":delete:", fields[1]], answers);
            }
            (b"Update", 4..) if has_key => {
                let list = self.lists.entry(key()).or_default();
                match list.iter_mut().find(|value| **value == fields[2]) {
                    Some(value) => *value = from(3),
                    None => list.push(from(3)),
                }
                self.tell(fields[1], &[b":update:", &from(1)], answers);
            }
            (b"Set", 3..) if has_key => {
                self.lists.insert(key(), vec![from(2)]);
                self.tell(fields[1], &[b":set:", &from(1)], answers);
            }
            (b"Remove", 3..) if has_key => {
                if let Some(list) = self.lists.get_mut(fields[1]) {
                    let found = list.iter().position(|value| *value == from(2));
                    found.map(|index| list.remove(index));
                    if list.is_empty() {
                        self.lists.remove(fields[1]);
                    }
                }
                self.tell(fields[1], &[b":remove:", &from(1)], answers);
            }
            (b"GetPrefix", 2) => answers.push(self.walk(fields[1], |key, values| {
                values
                    .iter()
                    .map(|value| [key, value].join(&b':'))
                    .collect()
            })),
            (b"Keys", 2) => answers.push(self.walk(fields[1], |key, values| {
                vec![[key, values.len().to_string().as_bytes()].join(&b':')]
            })),
            (b"Watch", 2) if has_key => self.watch(number, fields[1], false, answers),
            (b"WatchPrefix", 2) => self.watch(number, fields[1], true, answers),
            (b"Unwatch", 2) if has_key => drop(self.keys.remove(fields[1])),
            (b"UnwatchPrefix", 2) => drop(self.prefixes.remove(fields[1])),
            (b"Sync", 1) => answers.push(Expected::Line(b":sync:0:".to_vec())),
            (b"Sync", _) => {
                answers.push(Expected::Line([b":sync:0:", &from(1)[..]].concat()));
            }
            (b"Stats", 1) => answers.push(Expected::Stats(self.counters())),
            (b"Auth", 2..) => {
                if self.secret.is_some_and(|secret| secret != from(1)) {
                    answers.push(Expected::Error(number, "unauthorized"));
                }
            }
            (b"", 1) => {}
            (
                b"Put" | b"Get" | b"Delete" | b"Update" | b"Set" | b"Remove" | b"GetPrefix"
                | b"Keys" | b"Stats" | b"Watch" | b"WatchPrefix" | b"Unwatch" | b"UnwatchPrefix"
                | b"Auth",
                _,
            ) => answers.push(Expected::Error(number, "malformed")),
            _ => answers.push(Expected::Error(number, "unknown")),
        }
    }

    fn walk(&self, prefix: &[u8], lines: impl Fn(&[u8], &[Vec<u8>]) -> Vec<Vec<u8>>) -> Expected {
        let found = self.lists.iter().filter(|(key, _)| key.starts_with(prefix));
        Expected::Walk(
            found
                .map(|(key, values)| (key.clone(), lines(key, values)))
                .collect(),
        )
    }

    fn tell(&self, key: &[u8], line: &[&[u8]], answers: &mut Vec<Expected>) {
        let mut prefixes = self.prefixes.iter();
        if self.keys.contains(key) || prefixes.any(|prefix| key.starts_with(prefix)) {
            answers.push(Expected::Event(line.concat()));
        }
    }

    fn watch(&mut self, number: u64, name: &[u8], prefix: bool, answers: &mut Vec<Expected>) {
        let weight = |name: &[u8]| name.len().div_ceil(64).max(1);
        let watched = self.keys.iter().chain(&self.prefixes);
        let watching: usize = watched.map(|name| weight(name)).sum();
        let (watched, word) = match prefix {
            true => (&mut self.prefixes, &b":watchprefix:"[..]),
            false => (&mut self.keys, &b":watch:"[..]),
        };
        if watching + weight(name) > self.max_watches && !watched.contains(name) {
            return answers.push(Expected::Error(number, "full"));
        }
        watched.insert(name.to_vec());
        answers.push(Expected::Line([word, name].concat()));
    }

    fn counters(&self) -> Vec<String> {
        if !self.alone {
            return Vec::new();
        }
        let values = self.lists.values().flatten();
        let bytes = self.lists.keys().chain(values.clone()).map(Vec::len);
        let figures = [
            ("active", 1),
            ("watching", self.keys.len() + self.prefixes.len()),
            ("keys", self.lists.len()),
            ("values", values.count()),
            ("bytes", bytes.sum()),
        ];
        figures
            .map(|(name, number)| format!("{name}={number}"))
            .to_vec()
    }
}

/// Panics where the output is not what was expected, naming the first line that differs.
pub fn assert_answers(output: &[u8], expected: &[Expected]) {
    let missed = assert_answers_but_missed(output, expected, true);
    assert_eq!(missed, 0, "events were missed");
}

/// As [`assert_answers`], but events may be missed, where a `:missed:N` says so before the next one.
/// Where it does not go on to the end, more was expected than has come. Gives the number of events
/// that were missed.
pub fn assert_answers_but_missed(output: &[u8], expected: &[Expected], to_the_end: bool) -> u64 {
    let mut lines = output.split_inclusive(|&byte| byte == b'\n').peekable();
    let mut expected = expected.iter();
    let mut missed = 0;
    // Events left out that the client was not told of.
    let mut untold = 0;
    // What is left of the walk that is being answered.
    let mut walk = BTreeMap::new();
    let mut at = 0;
    loop {
        if lines.peek().is_none() && !to_the_end {
            return missed;
        }
        let line = lines.peek().copied().unwrap_or_default();
        let text = line.strip_suffix(b"\n");
        at += 1;
        if let Some(number) = text.and_then(|text| text.strip_prefix(b":missed:")) {
            let number: u64 = std::str::from_utf8(number).unwrap().parse().unwrap();
            while untold < number {
                let event = expected.next();
                assert!(
                    matches!(event, Some(Expected::Event(_))),
                    "reply line {at}: {number} missed in place of {untold} and {event:?}",
                );
                untold += 1;
            }
            assert!(
                number > 0 && number == untold,
                "reply line {at}: {number}, not {untold}"
            );
            missed += number;
            untold = 0;
            lines.next();
            continue;
        }
        if !walk.is_empty() {
            if !take_key(&mut walk, &mut lines) {
                assert!(!to_the_end, "reply line {at}: a walk that is not complete");
                return missed;
            }
            continue;
        }
        let Some(next) = expected.next() else {
            break;
        };
        if let Expected::Walk(keys) = next {
            walk = keys.clone();
            continue;
        }
        let fits = match next {
            Expected::Walk(_) => false,
            Expected::Line(expected) => text == Some(expected),
            Expected::Event(expected) => {
                if untold > 0 || text != Some(expected) {
                    untold += 1;
                    continue;
                }
                true
            }
            Expected::Error(number, code) => {
                line.starts_with(format!(":error:{number}:{code}:").as_bytes()) && text.is_some()
            }
            Expected::Stats(figures) => {
                let words = text.and_then(|text| text.strip_prefix(b":stats:"));
                let words: Vec<_> = words.unwrap_or_default().split(|&b| b == b' ').collect();
                words[0].starts_with(b"active=")
                    && figures.iter().all(|word| words.contains(&word.as_bytes()))
            }
        };
        assert!(
            fits,
            "reply line {at}: {:?} is not {next:?}, after {untold} events that did not come",
            String::from_utf8_lossy(line),
        );
        lines.next();
    }
    assert_eq!(untold, 0, "events were lost");
    let more: Vec<_> = lines.map(String::from_utf8_lossy).collect();
    assert!(more.is_empty(), "more replies than expected: {more:?}");
    missed
}

/// Takes the lines of one of these keys, whichever comes. `false` if they end before.
fn take_key<'a>(
    keys: &mut BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    lines: &mut Peekable<impl Iterator<Item = &'a [u8]>>,
) -> bool {
    let Some(first) = lines.peek() else {
        return false;
    };
    let key = first.split(|&byte| byte == b':').next().unwrap_or_default();
    let Some(expected) = keys.remove(key) else {
        let text = String::from_utf8_lossy(first);
        panic!("{text:?} is of no key of the walk that has not come");
    };
    expected.iter().all(|expected| match lines.next() {
        Some(line) => {
            assert_eq!(line.strip_suffix(b"\n"), Some(&expected[..]));
            true
        }
        None => false,
    })
}
