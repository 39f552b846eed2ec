//! What each line that came says of the lines that were sent.

use std::time::Duration;

use keywire::{
    Stats,
    protocol::{Reply, Write},
};

use super::{Check, Mark, Seen};
use crate::{
    history::{Limit, What, tag_of, tag_of_write},
    identify::number_of,
    limits,
    network::Line,
    sent::Sent,
    subscribe::{Request, owned},
};

impl Check<'_> {
    /// Takes a line, or all lines of a reply. Says how many.
    pub(super) fn line(&mut self, number: usize, line: &Line) -> usize {
        let client = self.client;
        let text = String::from_utf8_lossy(&line.text).into_owned();
        let reply = Reply::parse(&line.text);
        self.answers.push(None);
        self.places_of_lines.push(None);
        match reply.unwrap_or_else(|_| panic!("client {client}: {text} is no reply")) {
            Reply::Value { key, .. } => {
                let place = self.place_of(key, &line.text, &text);
                let (by, of) = self.entries[place].tag;
                assert_eq!(by, client, "a reply to another's command: {text}");
                if !self.entries[place].is_command() {
                    return self.walked(place, number, &text);
                }
                let index = self.answers_value(of, line, &text);
                let What::Read(lines) = &self.entries[place].what else {
                    panic!("client {client}: {text} answers no Get");
                };
                return self.take_group(number, index, place, lines);
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
                let watched = owned(watched);
                let fits = |sent: &Sent| matches!(sent, Sent::Watch(name, prefix) if (name, *prefix) == (&watched.0, watched.1));
                let index = self.answered(&text, line, fits);
                self.answers[number] = Some(index);
                self.was_requested(&watched, line, true);
                self.topics.insert(watched);
                let most = self.settings.max_watches;
                assert!(
                    self.topics.len() <= most,
                    "client {client} watches too much"
                );
            }
            Reply::Change(change) => self.change(change, line, &text),
            Reply::Missed(missed) => {
                let unknown = self.settings.misses && missed == 0;
                assert!(missed > 0 || unknown, "client {client} missed nothing");
                self.mark(Mark::Missed(missed), line.begun);
            }
            _ => panic!("client {client}: {text} is a new kind of line"),
        }
        1
    }

    /// The store was asked to watch that, and has said whether it does.
    fn was_requested(&self, watched: &(Vec<u8>, bool), line: &Line, done: bool) {
        let mut requests = self.record.requests.iter();
        let fits = |request: &Request| {
            let in_time = request.asked < request.answered && request.answered < line.begun;
            request.watched == *watched && request.done == done && in_time
        };
        let client = self.client;
        let is_late = self.settings.late.is_some();
        assert!(
            !is_late || requests.any(fits),
            "client {client}: {watched:?} was not asked for, or not so"
        );
    }

    /// Where in the history it stands what a line of values answers.
    fn place_of(&self, key: &[u8], line: &[u8], text: &str) -> usize {
        let client = self.client;
        let place = match self.settings.late {
            Some(_) => match number_of(line) {
                Some(number) => self.by_number.get(&number).copied(),
                None => Some(self.place_of_read(None, key, text)),
            },
            None => {
                let (by, of) = tag_of(key).expect("a tag");
                match key.contains(&b'/') {
                    true => Some(self.place_of_read(Some(of), key, text)),
                    false => self.by_tag.get(&(by, of)).copied(),
                }
            }
        };
        place.unwrap_or_else(|| panic!("client {client}: {text} was not read"))
    }

    /// Takes all lines of a reply, which stand together. Says how many.
    pub(crate) fn take_group(
        &mut self,
        number: usize,
        index: usize,
        place: usize,
        lines: &[Vec<u8>],
    ) -> usize {
        let client = self.client;
        let rest = &self.down.lines[number..];
        let seen: Vec<_> = rest.iter().take(lines.len()).map(|l| &l.text).collect();
        assert!(
            seen.iter().copied().eq(lines.iter())
                || (seen.len() < lines.len() && self.down.closed.is_none()),
            "client {client}: the reply to {:?} is not whole: {seen:?}, not {lines:?}",
            self.sent[index],
        );
        self.answers.truncate(number);
        self.places_of_lines.truncate(number);
        self.answers.resize(number + seen.len(), Some(index));
        self.places_of_lines
            .resize(number + seen.len(), Some(place));
        seen.len()
    }

    /// The server says why it ends the connection.
    pub(super) fn ended(&self, code: &str, text: &str, line: &Line) {
        let expected = match code {
            "full" => self.admission.turned_away,
            "unauthorized" => self.admission.late,
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
            let words: [&[u8]; 6] = [
                b"Sync",
                b"Stats",
                b"Watch",
                b"Auth:",
                b"GetPrefix:",
                b"Keys:",
            ];
            words.iter().any(|word| line.text.starts_with(word))
        })
    }

    pub(super) fn change(&mut self, change: Write<'_>, line: &Line, text: &str) {
        let tag = tag_of_write(change);
        let client = self.client;
        let place = self.by_tag.get(&tag);
        let place = *place.unwrap_or_else(|| panic!("client {client}: {text} never was"));
        match &self.entries[place].what {
            What::Written(_, told) => assert_eq!(*told, line.text),
            _ => panic!("client {client}: {text} was not applied"),
        }
        assert!(self.entries[place].answered < line.begun);
        self.see(place, text);
        self.mark(Mark::Told(place), line.begun);
    }

    /// Which Get a value answers.
    pub(super) fn answers_value(&mut self, number: usize, line: &Line, text: &str) -> usize {
        let client = self.client;
        let place = self.places.get(&number);
        let place = *place.unwrap_or_else(|| panic!("client {client}: {text} was not read"));
        let is_it = |sent: &Sent| matches!(sent, Sent::Command(other) if *other == number);
        let index = self.sent.iter().position(is_it).expect("it was sent");
        self.answer(index, text);
        self.see(place, text);
        self.mark(Mark::Answered(place), line.begun);
        self.took_place(index, place, line);
        index
    }

    pub(super) fn error(&mut self, index: usize, code: &str, line: &Line, text: &str) {
        let client = self.client;
        let Some(sent) = self.sent.get(index).cloned() else {
            // A line that never ended.
            let expected = match self.settings.secret && !self.admission.sure {
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
        match sent {
            Sent::Walk { number, .. } => self.walk_failed(number, code, line, text),
            _ => self.answer(index, text),
        }
        assert!(self.up.lines[index].read < Some(line.begun));
        self.refused.insert(index);
        if code == "closing" {
            self.closing.insert(index);
        }
        let stopped = self.settings.stopped;
        match (sent, code) {
            (Sent::Command(number), "store" | "full" | "unconfirmed") => {
                let place = self.places.get(&number);
                let place = *place.unwrap_or_else(|| panic!("client {client}: {text}, untried"));
                let refused = match self.entries[place].what {
                    What::Failed => code == "store",
                    What::Unconfirmed(_) => code == "unconfirmed",
                    What::Full(Limit::Store) => text.contains(":full:the store would hold"),
                    What::Full(Limit::Values) => text.contains(":full:the key has"),
                    _ => false,
                };
                assert!(refused, "client {client}: {text}");
                // Events of later writes in the batch come before it.
                if !self.settings.all_changes {
                    self.see(place, text);
                }
                self.mark(Mark::Answered(place), line.begun);
                self.took_place(index, place, line);
            }
            (Sent::Command(number), "closing") => {
                let applied = self.places.contains_key(&number);
                assert!(!applied, "client {client}: refused and applied: {text}");
                assert!(line.written > stopped, "client {client}: {text} too early");
            }
            (Sent::Walk { .. }, "store") => {}
            (Sent::Watch(name, prefix), "store") => {
                self.was_requested(&(name, prefix), line, false);
                self.failed_watches.insert(index);
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
}
