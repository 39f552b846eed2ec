//! Whether what one client saw agrees with the history, and with what was promised.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use keywire::{
    Overflow, Stats,
    protocol::{Reply, Topic, Write},
};

use crate::{
    Settings, bounds,
    entry::Entry,
    history::{Entry as Applied, Limit, Record, Tag, What, tag_of},
    limits::{self, Still},
    network::{Line, Way},
    sent::Sent,
    world::Moment,
};

/// What stands in the stream of one client, in its order, for the count of what was missed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// A change, by its place in the history.
    Told(usize),
    /// The answer to a command, by that.
    Answered(usize),
    Missed(u64),
    /// Everything has been said of the history so far.
    Settled(usize),
}

/// A moment at which nothing could happen before time passed, and how a client stood then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet {
    pub(crate) at: Moment,
    /// Entries of the history.
    pub(crate) entries: usize,
    pub(crate) drained: bool,
    /// The server has been waiting for it to read, for as long as it waits for anyone.
    pub(crate) stalled: bool,
}

/// One client's part of what is checked, and what it has shown so far.
pub(crate) struct Check<'a> {
    pub(crate) client: usize,
    pub(crate) settings: &'a Settings,
    pub(crate) up: &'a Way,
    pub(crate) down: &'a Way,
    pub(crate) sent: Vec<Sent>,
    pub(crate) entry: Entry,
    pub(crate) entries: &'a [Applied],
    pub(crate) by_tag: &'a HashMap<Tag, usize>,
    /// Where in the history each of this client's commands stands.
    pub(crate) places: HashMap<usize, usize>,
    /// The next line sent that may be answered; what stands before it is handled.
    pub(crate) next: usize,
    /// Reply lines dropped since the last Sync.
    lost: u64,
    /// All of those, with the place of the command.
    pub(crate) losses: Vec<(usize, u64)>,
    /// The place in the history of the last thing seen.
    at: Option<usize>,
    pub(crate) marks: Vec<Mark>,
    /// Lines that were refused.
    pub(crate) refused: HashSet<usize>,
    /// Those of them that came when the server was closing.
    pub(crate) closing: HashSet<usize>,
    /// What it watches.
    topics: HashSet<(Vec<u8>, bool)>,
    /// Which line each control line answers, and each first line of values.
    pub(crate) answers: Vec<Option<usize>>,
    pub(crate) stats: Vec<Seen>,
    /// The server has ended the stream, so that nothing more was on its way.
    pub(crate) clean: bool,
    still: Still,
}

/// A reply to `Stats`.
pub(crate) struct Seen {
    pub(crate) stats: Stats,
    /// The line of the question, and that of the answer.
    pub(crate) asked: usize,
    pub(crate) answer: usize,
    /// Reply lines that this client has lost so far.
    pub(crate) lost: u64,
}

impl<'a> Check<'a> {
    pub(crate) fn new(
        client: usize,
        settings: &'a Settings,
        (down, up): (&'a Way, &'a Way),
        record: &'a Record,
        by_tag: &'a HashMap<Tag, usize>,
    ) -> Self {
        let entries = &record.entries[..];
        let own = entries.iter().enumerate();
        let own = own.filter(|(_, entry)| entry.tag.0 == client);
        let places: HashMap<_, _> = own.map(|(place, entry)| (entry.tag.1, place)).collect();
        let entry = Entry::of(settings, (down, up), !places.is_empty());
        let sent = up.lines.iter().enumerate();
        let slow = limits::slow_line(down).unwrap_or(usize::MAX);
        let sent = sent.map(|(number, line)| match number < slow {
            true => entry.sent(settings, number, &line.text),
            false => Sent::Unheard,
        });
        Self {
            client,
            settings,
            up,
            down,
            sent: sent.collect(),
            entry,
            entries,
            by_tag,
            places,
            next: 0,
            lost: 0,
            losses: Vec::new(),
            at: None,
            marks: Vec::new(),
            refused: HashSet::new(),
            closing: HashSet::new(),
            topics: HashSet::new(),
            answers: Vec::new(),
            stats: Vec::new(),
            clean: false,
            still: Still::default(),
        }
    }

    /// Panics where the client saw what the history does not explain.
    pub(crate) fn run(&mut self, quiet: &[Quiet]) {
        self.order();
        let mut quiet = quiet.iter().peekable();
        let mut index = 0;
        while let Some(line) = self.down.lines.get(index) {
            while let Some(quiet) = quiet.next_if(|quiet| quiet.at < line.begun) {
                self.settle(quiet);
            }
            index += self.line(index, line);
        }
        quiet.for_each(|quiet| self.settle(quiet));
        let stopped = self.settings.stopped;
        if let Some(closed) = self.down.closed {
            let idle = limits::was_idle(self.down);
            // What had come by then is handled.
            let handled = match closed < stopped {
                // Replies to what it had sent find the way ended.
                _ if idle => self.next,
                true => self.sent.len(),
                false => {
                    let read = self.up.read_before(stopped);
                    self.applied().max(self.entry.heard(read, Moment::NEVER))
                }
            };
            self.skip_to(handled);
            if !idle {
                self.refused_aloud();
                self.clean = true;
            }
        } else {
            self.was_broken();
        }
        self.all_applied();
        self.no_read_ahead();
    }

    /// A client's commands are applied in the order sent.
    fn order(&self) {
        let mut last = None;
        let is_it = |number: usize| move |sent: &Sent| matches!(sent, Sent::Command(other) if *other == number);
        for &number in self.places.keys() {
            let heard = self.sent.iter().any(is_it(number));
            assert!(heard, "client {}: {number} was applied", self.client);
        }
        for sent in &self.sent {
            if let Sent::Command(number) = sent {
                let place = self.places.get(number).copied();
                let client = self.client;
                assert!(
                    place.is_none() || place > last,
                    "client {client}: {number} was applied out of order"
                );
                last = place.or(last);
            }
        }
    }

    /// Takes a line, or all lines of a reply. Says how many.
    fn line(&mut self, number: usize, line: &Line) -> usize {
        let client = self.client;
        let text = String::from_utf8_lossy(&line.text).into_owned();
        let reply = Reply::parse(&line.text);
        self.answers.push(None);
        match reply.unwrap_or_else(|_| panic!("client {client}: {text} is no reply")) {
            Reply::Value { key, .. } => {
                let index = self.answers_value(key, line, &text);
                self.answers[number] = Some(index);
                let Sent::Command(command) = self.sent[index] else {
                    panic!("client {client}: {text} answers no command");
                };
                let What::Read(lines) = &self.entries[self.places[&command]].what else {
                    panic!("client {client}: {text} answers no Get");
                };
                let rest = &self.down.lines[number..];
                let seen: Vec<_> = rest.iter().take(lines.len()).map(|l| &l.text).collect();
                assert!(
                    seen.iter().copied().eq(lines.iter())
                        || (seen.len() < lines.len() && self.down.closed.is_none()),
                    "client {client}: the reply to {command} is not whole: {seen:?}, not {lines:?}",
                );
                self.answers.resize(number + seen.len(), Some(index));
                return seen.len();
            }
            Reply::Sync { dropped, token } => {
                let fits = |sent: &Sent| matches!(sent, Sent::Sync(own) if own == token);
                let index = self.answered(&text, line, fits);
                self.answers[number] = Some(index);
                assert_eq!(dropped, self.lost, "client {client}: lost lines at {text}");
                self.lost = 0;
            }
            Reply::Stats(counters) => {
                let index = self.answered(&text, line, |sent| matches!(sent, Sent::Stats));
                self.answers[number] = Some(index);
                self.stats.push(Seen {
                    stats: Stats::parse(counters).expect("counters"),
                    asked: index,
                    answer: number,
                    lost: self.losses.iter().map(|(_, lines)| lines).sum(),
                });
            }
            Reply::Error { line: 0, code, .. } => {
                self.ended(code.as_str(), &text, line);
                let last = number + 1 == self.down.lines.len();
                assert!(last, "client {client}: more behind {text}");
            }
            Reply::Error { .. } if limits::slow(&line.text).is_some() => {
                self.skip_to(limits::slow(&line.text).unwrap_or_default());
            }
            Reply::Error { line: at, code, .. } => {
                let index = at as usize - 1;
                self.answers[number] = Some(index);
                self.error(index, code.as_str(), line, &text);
            }
            Reply::Watch(watched) => {
                let watched = match watched {
                    Topic::Key(key) => (key.to_vec(), false),
                    Topic::Prefix(prefix) => (prefix.to_vec(), true),
                };
                let fits = |sent: &Sent| matches!(sent, Sent::Watch(name, prefix) if (name, *prefix) == (&watched.0, watched.1));
                let index = self.answered(&text, line, fits);
                self.answers[number] = Some(index);
                self.topics.insert(watched);
                let most = self.settings.max_watches;
                assert!(
                    self.topics.len() <= most,
                    "client {client} watches too much"
                );
            }
            Reply::Change(change) => self.change(change, line, &text),
            Reply::Missed(missed) => {
                assert!(missed > 0, "client {client} missed nothing");
                self.marks.push(Mark::Missed(missed));
            }
            _ => panic!("client {client}: {text} is a new kind of line"),
        }
        1
    }

    /// The server says why it ends the connection.
    fn ended(&self, code: &str, text: &str, line: &Line) {
        let expected = match code {
            "full" => self.entry.turned_away,
            "unauthorized" => self.entry.late,
            "closing" if limits::is_idle(text.as_bytes()) => self.settings.idle < Duration::MAX,
            "closing" => {
                line.text == limits::END
                    && line.written > self.settings.stopped
                    && self.closing.is_empty()
                    && self.knows_control_lines()
            }
            _ => false,
        };
        let client = self.client;
        assert!(expected, "client {client}: {text}");
    }

    /// It has sent a command that is answered by control lines.
    pub(crate) fn knows_control_lines(&self) -> bool {
        self.up.lines.iter().any(|line| {
            let words: [&[u8]; 4] = [b"Sync", b"Stats", b"Watch", b"Auth:"];
            words.iter().any(|word| line.text.starts_with(word))
        })
    }

    fn change(&mut self, change: Write<'_>, line: &Line, text: &str) {
        let value = match change {
            Write::Put { value, .. } => value,
            Write::Update { new, .. } => new,
            Write::Delete { key } => key,
        };
        let tag = tag_of(change.key())
            .or_else(|| tag_of(value))
            .expect("a tag");
        let client = self.client;
        let place = self.by_tag.get(&tag);
        let place = *place.unwrap_or_else(|| panic!("client {client}: {text} never was"));
        match &self.entries[place].what {
            What::Written(_, told) => assert_eq!(*told, line.text),
            _ => panic!("client {client}: {text} was not applied"),
        }
        assert!(self.entries[place].answered < line.begun);
        self.see(place, text);
        self.marks.push(Mark::Told(place));
    }

    /// Which Get a value answers.
    fn answers_value(&mut self, key: &[u8], line: &Line, text: &str) -> usize {
        let client = self.client;
        let (by, number) = tag_of(key).expect("a tag");
        assert_eq!(by, client, "a reply to another's command: {text}");
        let place = self.places.get(&number);
        let place = *place.unwrap_or_else(|| panic!("client {client}: {text} was not read"));
        let is_it = |sent: &Sent| matches!(sent, Sent::Command(other) if *other == number);
        let index = self.sent.iter().position(is_it).expect("it was sent");
        self.answer(index, text);
        self.see(place, text);
        self.marks.push(Mark::Answered(place));
        self.took_place(index, place, line);
        index
    }

    fn error(&mut self, index: usize, code: &str, line: &Line, text: &str) {
        let client = self.client;
        let Some(sent) = self.sent.get(index).cloned() else {
            // A line that never ended.
            let expected = match self.settings.secret && !self.entry.sure {
                true => "unauthorized",
                false => "malformed",
            };
            assert_eq!(
                (index, code, self.up.rest.is_empty()),
                (self.sent.len(), expected, false),
                "client {client}: {text}"
            );
            self.skip_to(index);
            return;
        };
        self.answer(index, text);
        assert!(self.up.lines[index].read < Some(line.begun));
        self.refused.insert(index);
        if code == "closing" {
            self.closing.insert(index);
        }
        let stopped = self.settings.stopped;
        match (sent, code) {
            (Sent::Command(number), "store" | "full") => {
                let place = self.places.get(&number);
                let place = *place.unwrap_or_else(|| panic!("client {client}: {text}, untried"));
                let refused = match self.entries[place].what {
                    What::Failed => code == "store",
                    What::Full(Limit::Store) => text.contains(":full:the store would hold"),
                    What::Full(Limit::Values) => text.contains(":full:the key has"),
                    _ => false,
                };
                assert!(refused, "client {client}: {text}");
                self.see(place, text);
                self.marks.push(Mark::Answered(place));
                self.took_place(index, place, line);
            }
            (Sent::Command(number), "closing") => {
                let applied = self.places.contains_key(&number);
                assert!(!applied, "client {client}: refused and applied: {text}");
                assert!(line.written > stopped, "client {client}: {text} too early");
            }
            (Sent::Blank, _) => panic!("client {client}: an error for a blank line"),
            (_, "closing") => {
                assert!(line.written > stopped, "client {client}: {text} too early");
            }
            (Sent::Wrong(expected), code) => assert_eq!(expected, code, "client {client}"),
            (Sent::Watch(name, prefix), "full") => {
                let known = self.topics.contains(&(name, prefix));
                let full = self.topics.len() == self.settings.max_watches;
                assert!(
                    full && !known,
                    "client {client}: {text} with {:?}",
                    self.topics
                );
            }
            (sent, _) => panic!("client {client}: {text} for {sent:?}"),
        }
    }

    /// The line behind the last one that was applied.
    fn applied(&self) -> usize {
        let applied =
            |sent: &Sent| matches!(sent, Sent::Command(number) if self.places.contains_key(number));
        self.sent
            .iter()
            .rposition(applied)
            .map_or(0, |last| last + 1)
    }

    /// What is seen follows the history.
    fn see(&mut self, place: usize, text: &str) {
        let client = self.client;
        assert!(self.at < Some(place), "client {client}: {text} comes late");
        self.at = Some(place);
    }

    /// It happened between the question and the answer.
    fn took_place(&self, index: usize, place: usize, line: &Line) {
        let entry = &self.entries[place];
        let read = self.up.lines[index].read.expect("it was read");
        assert!(read < entry.at && entry.answered < line.begun);
    }

    /// The next line sent that this answers, with nothing left out on the way.
    fn answered(&mut self, text: &str, line: &Line, fits: impl Fn(&Sent) -> bool) -> usize {
        let ahead = self.sent[self.next..].iter().position(fits);
        let client = self.client;
        let index =
            self.next + ahead.unwrap_or_else(|| panic!("client {client}: {text} answers nothing"));
        self.answer(index, text);
        assert!(
            self.up.lines[index].read < Some(line.begun),
            "client {client}: {text} came before its question"
        );
        index
    }

    fn answer(&mut self, index: usize, text: &str) {
        let client = self.client;
        assert!(index >= self.next, "client {client}: {text} comes late");
        self.skip_to(index);
        self.next = index + 1;
    }

    /// The lines before this one have no answer, or it was dropped.
    fn skip_to(&mut self, index: usize) {
        let client = self.client;
        for at in self.next.min(index)..index {
            match &self.sent[at] {
                Sent::Command(number) => {
                    let Some(&place) = self.places.get(number) else {
                        panic!("client {client}: {number} is lost")
                    };
                    match &self.entries[place].what {
                        What::Read(lines) if !lines.is_empty() => {
                            self.lose(place, lines.len() as u64);
                        }
                        What::Read(_) | What::Written(..) => {}
                        What::Failed | What::Full(_) => {
                            panic!("client {client}: the failure of {number} was not told")
                        }
                    }
                }
                Sent::Unwatch(name, prefix) => {
                    self.topics.remove(&(name.clone(), *prefix));
                }
                Sent::Blank | Sent::Auth | Sent::Unheard => {}
                other => panic!("client {client}: no answer to {other:?}"),
            }
        }
        self.next = self.next.max(index);
    }

    /// A reply was dropped. That may be only where the client took nothing for the stall time.
    fn lose(&mut self, place: usize, lines: u64) {
        self.lost += lines;
        self.losses.push((place, lines));
        let answered = self.entries[place].answered;
        let taken = self.down.last_write_before(answered);
        let Settings {
            overflow, stall, ..
        } = *self.settings;
        assert!(
            overflow == Overflow::Drop && answered.now - taken.now >= stall,
            "client {}: a reply was dropped under {overflow:?}, {:?} after bytes were taken, {stall:?}",
            self.client,
            answered.now - taken.now,
        );
    }

    /// Nothing can happen before time passes: what could be done is done.
    fn settle(&mut self, quiet: &Quiet) {
        if quiet.at > self.settings.stopped {
            return;
        }
        let read = self.up.read_before(quiet.at);
        if quiet.drained {
            let handled = self.entry.settle(quiet, read, self.up.looked);
            // Those who have to keep to a rate have lines that wait, for as long as it takes.
            if !self.settings.is_paced() {
                self.skip_to(handled);
                let limits = (self.settings.line_time, self.settings.idle);
                if self.entry.is_in(handled) {
                    self.still.settle((self.down, self.up), quiet, limits);
                }
            }
            self.marks.push(Mark::Settled(quiet.entries));
        }
        if quiet.stalled && !self.settings.is_strict() && !self.settings.is_paced() {
            for sent in &self.sent[..self.entry.heard(read, quiet.at)] {
                if let Sent::Command(number) = sent {
                    let applied = self.places.get(number).is_some_and(|p| *p < quiet.entries);
                    let client = self.client;
                    assert!(
                        applied,
                        "client {client}: {number} waits for a stalled client"
                    );
                }
            }
        }
    }

    /// What the server had read before it was told to stop is applied, even if the client has gone.
    fn all_applied(&self) {
        let applied = !self.places.is_empty();
        let strict = self.settings.is_strict() && !self.clean;
        if !self.settings.is_patient() || !self.entry.is_prompt(applied) || strict {
            return;
        }
        if self.settings.is_paced() {
            return;
        }
        let read = self.up.read_before(self.settings.stopped);
        for sent in &self.sent[..read] {
            if let Sent::Command(number) = sent {
                let applied = self.places.contains_key(number);
                let client = self.client;
                assert!(
                    applied,
                    "client {client}: {number} was read and not applied"
                );
            }
        }
    }

    /// No more is read before all that was read is handled: a client's commands wait in its own
    /// socket, and not in the server.
    fn no_read_ahead(&self) {
        if !self.entry.sure || self.settings.is_strict() {
            return;
        }
        let reads = &self.up.reads;
        for (read, next) in reads.iter().zip(&reads[1.min(reads.len())..]) {
            // At the end, it is read to be thrown away.
            if next.at > self.settings.stopped {
                break;
            }
            for sent in &self.sent[..read.lines] {
                if let Sent::Command(number) = sent {
                    let place = self.places.get(number);
                    let handled = place.is_some_and(|&p| self.entries[p].answered < next.at);
                    let client = self.client;
                    assert!(
                        handled,
                        "client {client}: {number} waited and more was read"
                    );
                }
            }
        }
    }

    /// What came just then, at shutdown, is refused and not passed over. Where the session found
    /// nothing to read after the server was told to stop, it may have been done with reading.
    fn refused_aloud(&mut self) {
        let stopped = self.settings.stopped;
        let mut reads = self.up.reads.iter();
        let Some(read) = reads.find(|read| read.at > stopped) else {
            return;
        };
        let had_lines = read.lines > self.up.read_before(stopped);
        if had_lines && read.waited.is_none_or(|waited| waited < stopped) {
            self.skip_to(self.entry.heard(read.lines, Moment::NEVER));
        }
    }

    /// The server hung up without a word, for which it needs a reason.
    fn was_broken(&self) {
        let Settings {
            overflow,
            stall,
            stopped,
            ..
        } = *self.settings;
        let Some(over) = self.down.over else { return };
        let by_client = self.down.reset || self.up.over.is_some_and(|other| other < over);
        // Who is not let in is not waited for, nor is who took too long.
        if !self.entry.sure || self.settings.is_strict() {
            return;
        }
        // It may have been turned away at the door.
        let stopping = over > stopped && (self.up.reads.is_empty() || !self.settings.is_patient());
        if by_client || stopping {
            return;
        }
        // A slow store may have given it time to read again.
        let writes = self.down.writes.iter();
        let takes = writes.clone().skip(1).chain([&over]);
        let stalled = writes
            .zip(takes)
            .any(|(at, next)| next.now - at.now >= stall);
        let client = self.client;
        let reason = match overflow {
            Overflow::Disconnect => true,
            Overflow::Drop => stalled && bounds::control_may_fill(self),
            Overflow::Wait => false,
        };
        assert!(reason, "client {client} was cut off");
    }
}
