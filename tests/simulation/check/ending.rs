//! What has to be handled when nothing more happens, or nothing more comes.

use keywire::{Overflow, store::Order};

use super::{Check, Mark, Quiet};
use crate::{bounds, sent::Sent, settings::Settings, world::Moment};

impl Check<'_> {
    /// Nothing can happen before time passes: what could be done is done.
    pub(super) fn settle(&mut self, quiet: &Quiet) {
        if quiet.drained {
            self.skip_to(self.answered_before(quiet.at));
        }
        if quiet.at > self.settings.stopped {
            return;
        }
        let read = self.up.read_before(quiet.at);
        if quiet.drained {
            let handled = self.admission.settle(quiet, read, self.up.looked);
            // Those who have to keep to a rate have lines that wait, for as long as it takes.
            if !self.settings.is_throttled() && !self.waits(quiet) {
                self.skip_to(handled);
                let limits = (self.settings.line_timeout, self.settings.idle);
                if self.admission.is_in(handled) {
                    self.still.settle((self.down, self.up), quiet, limits);
                }
            }
            self.mark(Mark::Settled(quiet.entries), quiet.at);
        }
        let lax = self.settings.is_strict() || self.settings.is_throttled();
        if quiet.stalled && !lax && !self.waits(quiet) {
            for sent in &self.sent[..self.admission.heard(read, quiet.at)] {
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

    /// The line behind the last one that the store had answered. Whoever has read everything by then
    /// has seen all that was not dropped, even if a later command is still with the store.
    fn answered_before(&self, at: Moment) -> usize {
        let before = |place: &usize| self.entries[*place].answered < at;
        let answered = |sent: &Sent| match sent {
            Sent::Command(number) => self.places.get(number).is_some_and(before),
            Sent::Walk { number, .. } => self.walk_was_over(*number, at),
            _ => false,
        };
        let last = self.sent.iter().rposition(answered);
        last.map_or(0, |last| last + 1)
    }

    /// Whether it is the store that the client waits for: for an answer of its own, or for one to
    /// another's command of the same key.
    pub(crate) fn waits(&self, quiet: &Quiet) -> bool {
        let Some(flight) = quiet.flight else {
            return false;
        };
        let flight = &self.record.flights[flight];
        let batches = || flight.batches.iter().map(|id| &self.record.batches[*id]);
        let clients = &self.record.clients;
        let is_own = |client: Option<&usize>| client.is_none_or(|client| *client == self.client);
        if batches().any(|batch| is_own(clients.get(&batch.connection))) {
            return true;
        }
        let blocks = |is: &dyn Fn(&[u8]) -> bool| {
            let gates = self.settings.late == Some(Order::None);
            gates && batches().any(|batch| batch.keys.iter().any(|key| is(key)))
        };
        let is_done = |number: &usize| {
            let place = self.places.get(number);
            place.is_some_and(|place| self.entries[*place].answered < quiet.at)
        };
        // From the last command that was answered to the first that was not.
        for (sent, line) in self.sent.iter().zip(&self.up.lines).rev() {
            match sent {
                Sent::Command(number) if is_done(number) => break,
                Sent::Command(_) => {
                    let key = line.text.split(|&byte| byte == b':').nth(1);
                    let key = key.unwrap_or_default();
                    let key = key.strip_suffix(b"\r").unwrap_or(key);
                    if blocks(&|other| other == key) {
                        return true;
                    }
                }
                Sent::Walk { prefix, .. } => {
                    let is_page = flight.pages.contains(prefix);
                    if is_page || blocks(&|key| key.starts_with(prefix)) {
                        return true;
                    }
                }
                Sent::Watch(name, prefix) => {
                    let mut requests = flight.requests.iter();
                    if requests.any(|(other, is_prefix)| (other, is_prefix) == (name, prefix)) {
                        return true;
                    }
                }
                _ => {}
            }
        }
        false
    }

    /// What the server had read before it was told to stop is applied, even if the client has gone.
    pub(super) fn all_applied(&self) {
        let applied = !self.places.is_empty();
        let strict = self.settings.is_strict() && !self.clean;
        if !self.settings.is_patient() || !self.admission.is_prompt(applied) || strict {
            return;
        }
        if self.settings.is_throttled() {
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
    pub(super) fn no_read_ahead(&self) {
        if !self.admission.sure || self.settings.is_strict() {
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
    pub(super) fn refused_aloud(&mut self) {
        let stopped = self.settings.stopped;
        let mut reads = self.up.reads.iter();
        let Some(read) = reads.find(|read| read.at > stopped) else {
            return;
        };
        let had_lines = read.lines > self.up.read_before(stopped);
        if had_lines && read.waited.is_none_or(|waited| waited < stopped) {
            self.skip_to(self.admission.heard(read.lines, Moment::NEVER));
        }
    }

    /// The server hung up without a word, for which it needs a reason.
    pub(super) fn was_broken(&self) {
        let Settings {
            overflow,
            stall,
            stopped,
            ..
        } = *self.settings;
        let Some(over) = self.down.over else { return };
        let by_client = self.down.reset || self.up.over.is_some_and(|other| other < over);
        // Who is not let in is not waited for, nor is who took too long.
        if !self.admission.sure || self.settings.is_strict() {
            return;
        }
        // It may have been turned away at the listener.
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
            _ => false,
        };
        assert!(reason, "client {client} was cut off");
    }
}
