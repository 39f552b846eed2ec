//! Walks over a prefix: what the store was asked for them, and what came of it.
//!
//! The prefix of a walk carries the tag of its command, as a key does. The names of keys that the
//! store gives begin with that prefix, as they have to: `k#1.7/k0` is the key `k0` for the walk that
//! is line 7 of client 1.

use std::fmt;

use crate::{
    check::{Check, Mark},
    history::{Tag, What},
    network::Line,
    sent::Sent,
    world::Moment,
};

/// What the store was asked for one walk.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) pages: Vec<Page>,
    /// The places in the history at which its keys were read.
    pub(crate) reads: Vec<usize>,
}

/// A page of names.
pub(crate) struct Page {
    pub(crate) asked: Moment,
    /// Entries of the history by then.
    pub(crate) entries: usize,
    pub(crate) prefix: Vec<u8>,
    /// Where it began, and where the next one begins, if there is one.
    pub(crate) cursor: Vec<u8>,
    pub(crate) next: Vec<u8>,
    pub(crate) names: Vec<Vec<u8>>,
    /// When it was given; never, if it got lost.
    pub(crate) answered: Moment,
    pub(crate) failed: bool,
}

impl Page {
    /// The key behind which it begins; empty for the first.
    pub(crate) fn behind(&self) -> &[u8] {
        let inner = self.cursor.iter().position(|&byte| byte == b'>');
        inner.map_or(b"", |inner| &self.cursor[inner + 1..])
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (asked, answered) = (self.asked.tick, self.answered.tick);
        write!(
            f,
            "{} from {}, next {}: {}, failed {}, at {:?}",
            shown(&self.prefix),
            shown(&self.cursor),
            shown(&self.next),
            shown(&self.names.join(&b' ')),
            self.failed,
            [asked, answered]
        )
    }
}

/// The name of a key for a walk.
pub(crate) fn name(prefix: &[u8], key: &[u8]) -> Vec<u8> {
    [prefix, b"/", key].concat()
}

impl Walk {
    /// Whether it had no more to ask, and all that it asked was answered.
    pub(crate) fn is_complete(&self) -> bool {
        let names: usize = self.pages.iter().map(|page| page.names.len()).sum();
        let ended = self.pages.last().is_some_and(|page| page.next.is_empty());
        ended && !self.has_failed_page() && self.reads.len() == names
    }

    /// A page was not given, or got lost. No other follows it.
    pub(crate) fn has_failed_page(&self) -> bool {
        let failed = |page: &Page| page.failed || page.answered == Moment::NEVER;
        self.pages.last().is_some_and(failed)
    }
}

/// The walk whose lines come just now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Its line.
    pub(crate) index: usize,
    /// How many of its reads have been seen or lost.
    reads: usize,
}

impl Check<'_> {
    pub(crate) fn walk_of(&self, number: usize) -> Option<&Walk> {
        let tag: Tag = (self.client, number);
        self.walks.get(&tag)
    }

    /// The places at which the keys of a walk were read.
    pub(crate) fn reads_of(&self, number: usize) -> &[usize] {
        self.walk_of(number)
            .map_or(&[], |walk| walk.reads.as_slice())
    }

    /// Whether a walk had shown all its keys by then.
    pub(crate) fn walk_was_over(&self, number: usize, at: Moment) -> bool {
        let walk = self.walk_of(number).filter(|walk| walk.is_complete());
        walk.is_some_and(|walk| {
            let pages = walk.pages.iter().all(|page| page.answered < at);
            let mut reads = walk.reads.iter();
            pages && reads.all(|place| self.entries[*place].answered < at)
        })
    }

    /// The lines that answer a walk for what it read there.
    pub(crate) fn lines_of_read(&self, number: usize, place: usize) -> Vec<Vec<u8>> {
        let counts = self.sent.iter().any(
            |sent| matches!(sent, Sent::Walk { number: own, counts: true, .. } if *own == number),
        );
        match &self.entries[place].what {
            What::Read(lines) if counts && !lines.is_empty() => {
                let number = lines.len().to_string();
                let name = &self.entries[place].key;
                vec![[&name[..], number.as_bytes()].join(&b':')]
            }
            What::Read(lines) => lines.clone(),
            _ => Vec::new(),
        }
    }

    /// Where the key of a line was read for a walk. In the line of a `Keys`, nothing says so but the key.
    pub(crate) fn place_of_read(&self, number: Option<usize>, key: &[u8], text: &str) -> usize {
        let is_it = |place: &&usize| self.entries[**place].key == key;
        let find = |number: usize| self.reads_of(number).iter().find(is_it).copied();
        let walks = self.sent.iter().enumerate().filter_map(|(index, sent)| {
            let goes_on = self.walk.is_some_and(|walk| walk.index == index);
            match sent {
                Sent::Walk { number: own, .. } if number.is_some_and(|number| *own == number) => {
                    Some(*own)
                }
                Sent::Walk {
                    number: own,
                    counts: true,
                    ..
                } if number.is_none() && (goes_on || index >= self.next) => Some(*own),
                _ => None,
            }
        });
        let place = walks.filter_map(find).next();
        place.unwrap_or_else(|| panic!("client {}: {text} was not read", self.client))
    }

    /// Takes all lines of a key. Says how many.
    pub(crate) fn walked(&mut self, place: usize, at: usize, text: &str) -> usize {
        let client = self.client;
        let line = &self.down.lines[at];
        let number = self.entries[place].tag.1;
        let is_it = |sent: &Sent| matches!(sent, Sent::Walk { number: own, .. } if *own == number);
        let index = self.sent.iter().position(is_it).expect("it was sent");
        let mut progress = self.walk_at(index, text);
        let reads = self.reads_of(number).to_vec();
        loop {
            let Some(&read) = reads.get(progress.reads) else {
                panic!("client {client}: {text} comes late");
            };
            progress.reads += 1;
            let lines = self.lines_of_read(number, read);
            if read != place {
                self.lose_read(read, lines.len());
                continue;
            }
            self.see(place, text);
            self.mark(Mark::Answered(place), line.begun);
            self.took_place(index, place, line);
            self.walk = Some(progress);
            return self.take_group(at, index, place, &lines);
        }
    }

    /// Begins with the lines of a walk, or goes on with them.
    fn walk_at(&mut self, index: usize, text: &str) -> Progress {
        match self.walk {
            Some(progress) if progress.index == index => progress,
            _ => {
                self.answer(index, text);
                Progress { index, reads: 0 }
            }
        }
    }

    fn lose_read(&mut self, place: usize, lines: usize) {
        if lines > 0 {
            self.lose(place, lines as u64);
        }
    }

    /// Whatever of a walk has not come was dropped.
    fn lose_rest(&mut self, progress: Progress, number: usize) {
        for place in self.reads_of(number).to_vec().split_off(progress.reads) {
            let lines = self.lines_of_read(number, place).len();
            self.lose_read(place, lines);
        }
    }

    /// Nothing more comes of the walk whose lines came last.
    pub(crate) fn end_walk(&mut self) {
        if let Some(progress) = self.walk.take() {
            self.pass_walk(progress);
        }
    }

    /// A walk is over that has no lines, or not more than have come.
    pub(crate) fn pass_walk_at(&mut self, index: usize) {
        self.pass_walk(Progress { index, reads: 0 });
    }

    fn pass_walk(&mut self, progress: Progress) {
        let client = self.client;
        let Sent::Walk { number, .. } = self.sent[progress.index] else {
            panic!("client {client}: that is no walk");
        };
        let walk = self.walk_of(number);
        let complete = walk.is_some_and(Walk::is_complete);
        assert!(
            complete,
            "client {client}: {number} has an end too soon: {walk:?}"
        );
        let reads = self.reads_of(number).iter();
        let failed = reads.filter(|place| !matches!(self.entries[**place].what, What::Read(_)));
        assert_eq!(
            failed.count(),
            0,
            "client {client}: the failure of {number} was not told"
        );
        self.lose_rest(progress, number);
    }

    /// A walk ends with an error.
    pub(crate) fn walk_failed(&mut self, number: usize, code: &str, line: &Line, text: &str) {
        let client = self.client;
        let is_it = |sent: &Sent| matches!(sent, Sent::Walk { number: own, .. } if *own == number);
        let index = self.sent.iter().position(is_it).expect("it was sent");
        let progress = self.walk_at(index, text);
        self.walk = None;
        self.lose_rest(progress, number);
        let Some(walk) = self.walk_of(number) else {
            assert_eq!(code, "closing", "client {client}: {text}, untried");
            return;
        };
        let last = walk.reads.last().copied();
        let failed = last.filter(|place| !matches!(self.entries[*place].what, What::Read(_)));
        match code {
            "closing" => assert!(failed.is_none(), "client {client}: {text}: {walk:?}"),
            "store" => {
                let by_page = walk.has_failed_page();
                assert!(
                    by_page || failed.is_some(),
                    "client {client}: {text}: {walk:?}"
                );
                if let Some(place) = failed {
                    self.see(place, text);
                    self.mark(Mark::Answered(place), line.begun);
                    self.took_place(index, place, line);
                }
            }
            _ => panic!("client {client}: {text}: {walk:?}"),
        }
    }

    /// Each page begins where the one before it ended, each key is read once, as it was named, and
    /// nothing is asked any more after a failure.
    pub(crate) fn check_walks(&self) {
        let client = self.client;
        for sent in &self.sent {
            let Sent::Walk { number, .. } = sent else {
                continue;
            };
            let Some(walk) = self.walk_of(*number) else {
                continue;
            };
            let mut cursor = &b""[..];
            let mut before = Moment::default();
            for (index, page) in walk.pages.iter().enumerate() {
                let goes_on = index == 0 || !cursor.is_empty();
                assert!(
                    goes_on && page.cursor == cursor && before < page.asked,
                    "client {client}: {number} asks for {page:?} at {cursor:?}"
                );
                cursor = &page.next;
                before = page.answered;
            }
            let names = walk.pages.iter().flat_map(|page| &page.names);
            let reads = walk.reads.iter().map(|&place| &self.entries[place]);
            for (name, read) in names.clone().zip(reads.clone()) {
                assert_eq!(*name, read.key, "client {client}: {number} left one out");
            }
            assert!(
                walk.reads.len() <= names.count(),
                "client {client}: {number} read more than was named: {walk:?}"
            );
            let failed = reads.take(walk.reads.len().saturating_sub(1));
            let failed = failed.filter(|entry| !matches!(entry.what, What::Read(_)));
            assert_eq!(failed.count(), 0, "client {client}: {number} went on");
        }
    }
}
