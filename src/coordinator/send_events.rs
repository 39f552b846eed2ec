//! Events for watchers that have no turn in the round, and the count of those that were missed.

use super::Coordinator;
use crate::{
    connection::outbox::{Chunk, Chunks, Next, OutboxSender, Size, Usage},
    watch::events::{MustDisconnect, RoundEvents},
};

impl Coordinator {
    /// Sends a watcher the events of a round in which it had no turn.
    pub(super) fn send_events(&mut self, watcher: usize, events: &RoundEvents) {
        let client = self.watches.pending_client(watcher);
        let Some(client) = client.and_then(|key| self.clients.get(key)) else {
            return;
        };
        let limits = &self.server.limits;
        let status = (client.outbox.status(), limits);
        let mut usage = Usage::default();
        let stats = &mut self.stats;
        let missed = stats.missed;
        let interleaved =
            self.watches
                .interleave(watcher, events, Vec::new(), &mut usage, status, stats);
        self.log
            .events_missed(client.id, self.stats.missed - missed);
        let (chunks, then) = match interleaved {
            Ok(chunks) => (chunks, Next::Continue),
            Err(MustDisconnect) => {
                self.log.cut_off(client.id);
                (Chunks::new(), Next::Abort)
            }
        };
        let sent = client.outbox.try_send(chunks, usage, then);
        self.fullest = self.fullest.max(sent.size);
        if self.watches.has_missed(watcher) {
            client.outbox.request_capacity();
        }
    }

    /// Sends a watcher the number of events that it has missed, if there is room.
    pub(super) fn send_missed_count(&mut self, key: usize) {
        let Some(client) = self.clients.get(key) else {
            return;
        };
        let Some(watcher) = client.watcher.filter(|&id| self.watches.has_missed(id)) else {
            return;
        };
        let limits = &self.server.limits;
        if !client.outbox.status().accepts_events(limits) {
            return client.outbox.request_capacity();
        }
        let outbox = client.outbox.clone();
        if let Some(line) = self.watches.take_missed(watcher) {
            self.send_missed(&outbox, line);
        }
    }

    pub(super) fn send_missed(&self, outbox: &OutboxSender, line: Vec<u8>) {
        let size = Size {
            lines: 1,
            bytes: line.len(),
        };
        let usage = Usage {
            all: size,
            ..Usage::default()
        };
        let chunks = Chunks::from_iter([Chunk::Own(line)]);
        outbox.try_send(chunks, usage, Next::Continue);
    }
}
