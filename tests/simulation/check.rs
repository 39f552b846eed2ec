//! Whether what one client saw agrees with the history, and with what was promised.

mod replies;

mod ending;

use std::collections::{HashMap, HashSet};

use keywire::{Overflow, Stats};

use crate::{
    admission::Admission,
    history::{Entry, Record, Tag, What},
    limits::{self, Still},
    network::{Direction, Line},
    sent::Sent,
    settings::Settings,
    walks::{Progress, Walk},
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

impl Mark {
    /// The change that it tells of.
    pub(crate) fn told(&self) -> Option<usize> {
        match self {
            Mark::Told(place) => Some(*place),
            _ => None,
        }
    }
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
    /// What the store has not answered, among the flights of the history.
    pub(crate) flight: Option<usize>,
}

/// One client's part of what is checked, and what it has shown so far.
pub(crate) struct Check<'a> {
    pub(crate) client: usize,
    pub(crate) settings: &'a Settings,
    pub(crate) up: &'a Direction,
    pub(crate) down: &'a Direction,
    pub(crate) sent: Vec<Sent>,
    pub(crate) admission: Admission,
    pub(crate) record: &'a Record,
    pub(crate) entries: &'a [Entry],
    pub(crate) by_tag: &'a HashMap<Tag, usize>,
    /// Where in the history each one stands, if they have numbers.
    pub(crate) by_number: HashMap<usize, usize>,
    /// What the store was asked for walks, of all clients.
    pub(crate) walks: &'a HashMap<Tag, Walk>,
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
    /// The time of each.
    pub(crate) mark_times: Vec<Moment>,
    /// Lines that were refused.
    pub(crate) refused: HashSet<usize>,
    /// Those of them that came when the server was closing.
    pub(crate) closing: HashSet<usize>,
    /// Those that the store could not watch.
    pub(crate) failed_watches: HashSet<usize>,
    /// What it watches.
    topics: HashSet<(Vec<u8>, bool)>,
    /// Which line each control line answers, and each first line of values.
    pub(crate) answers: Vec<Option<usize>>,
    /// Where in the history the command of a line of values stands, or the read of a walk.
    pub(crate) places_of_lines: Vec<Option<usize>>,
    /// The walk whose lines came last, if nothing of a later command has come.
    pub(crate) walk: Option<Progress>,
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
        (down, up): (&'a Direction, &'a Direction),
        record: &'a Record,
        by_tag: &'a HashMap<Tag, usize>,
    ) -> Self {
        let entries = &record.entries[..];
        let numbers = entries.iter().enumerate();
        let numbers = numbers.filter(|(_, entry)| entry.number > 0);
        let numbers = numbers.map(|(place, entry)| (entry.number, place));
        let own = entries.iter().enumerate();
        let own = own.filter(|(_, entry)| entry.tag.0 == client && entry.is_command());
        let places: HashMap<_, _> = own.map(|(place, entry)| (entry.tag.1, place)).collect();
        let admission = Admission::of(settings, (down, up), !places.is_empty());
        let sent = up.lines.iter().enumerate();
        let slow = limits::slow_line(down).unwrap_or(usize::MAX);
        let sent = sent.map(|(number, line)| match number < slow {
            true => admission.sent(settings, number, &line.text),
            false => Sent::Unheard,
        });
        Self {
            client,
            settings,
            up,
            down,
            sent: sent.collect(),
            admission,
            record,
            entries,
            by_tag,
            by_number: numbers.collect(),
            walks: &record.walks,
            places,
            next: 0,
            lost: 0,
            losses: Vec::new(),
            at: None,
            marks: Vec::new(),
            mark_times: Vec::new(),
            refused: HashSet::new(),
            closing: HashSet::new(),
            failed_watches: HashSet::new(),
            topics: HashSet::new(),
            answers: Vec::new(),
            places_of_lines: Vec::new(),
            walk: None,
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
            if idle {
                // That may be within a walk.
                self.walk = None;
            }
            // What had come by then is handled.
            let handled = match closed < stopped {
                // Replies to what it had sent find the way ended.
                _ if idle => self.next,
                true => self.sent.len(),
                false => {
                    let read = self.up.read_before(stopped);
                    self.applied()
                        .max(self.admission.heard(read, Moment::NEVER))
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
        self.check_walks();
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

    /// When the server had answered a command, at the latest. Where the store is late, it may take its
    /// time until all comes to rest.
    pub(crate) fn latest(&self, entry: &Entry, quiet: &[Quiet]) -> Moment {
        if self.settings.late.is_none() {
            return entry.answered;
        }
        let next = quiet.partition_point(|quiet| quiet.at < entry.answered);
        quiet.get(next).map_or(Moment::NEVER, |quiet| quiet.at)
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
    pub(crate) fn see(&mut self, place: usize, text: &str) {
        let client = self.client;
        assert!(self.at < Some(place), "client {client}: {text} comes late");
        self.at = Some(place);
    }

    pub(crate) fn mark(&mut self, mark: Mark, at: Moment) {
        self.marks.push(mark);
        self.mark_times.push(at);
    }

    /// It happened between the question and the answer.
    pub(crate) fn took_place(&self, index: usize, place: usize, line: &Line) {
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

    pub(crate) fn answer(&mut self, index: usize, text: &str) {
        let client = self.client;
        assert!(index >= self.next, "client {client}: {text} comes late");
        self.skip_to(index);
        self.next = index + 1;
    }

    /// The lines before this one have no answer, or it was dropped.
    fn skip_to(&mut self, index: usize) {
        let client = self.client;
        if index > self.walk.map_or(index, |walk| walk.index) {
            self.end_walk();
        }
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
                        What::Failed | What::Unconfirmed(_) | What::Full(_) => {
                            panic!("client {client}: the failure of {number} was not told")
                        }
                    }
                }
                Sent::Unwatch(name, prefix) => {
                    self.topics.remove(&(name.clone(), *prefix));
                }
                Sent::Walk { .. } => self.pass_walk_at(at),
                Sent::Blank | Sent::Auth | Sent::Unheard => {}
                other => panic!("client {client}: no answer to {other:?}"),
            }
        }
        self.next = self.next.max(index);
    }

    /// A reply was dropped. That may be only where the client took nothing for the stall time.
    pub(crate) fn lose(&mut self, place: usize, lines: u64) {
        self.lost += lines;
        self.losses.push((place, lines));
        let answered = self.entries[place].decided;
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
}
