//! Turns on their way to the store and back, in the order of keys.

use std::{collections::HashSet, future::Future};

use async_channel::Sender;

use super::{Coordinator, changes::send_turn, key_order::ALL_BATCHES, turns::Round};
use crate::{
    clock,
    protocol::Operation,
    store::{
        Batch, Changes, FromStore, KeyPage, Order, Store, Submission, TurnGuard,
        rejection::Rejection,
        turn::{Turn, TurnState},
    },
};

/// Whether the order of keys is kept here: before batches are submitted, or before their answers are
/// released. If the store makes all changes known, no answer has to wait for the events of another batch.
const fn keeps_key_order<S: Store>() -> bool {
    match S::ORDER {
        Order::None => true,
        Order::Sequential => false,
        _ => matches!(S::CHANGES, Changes::Elsewhere),
    }
}

impl Coordinator {
    /// Settles what the store gets next, in the order of keys, and submits it. Gives the turn back if it
    /// can go on at once.
    pub(super) fn ask<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) -> Option<Box<Turn>> {
        // In the order asked, so that a simulation can repeat what follows from it.
        let mut keys = Vec::new();
        let mut known = HashSet::new();
        let mut is_blocked = false;
        let order = &self.key_order;
        let tells_all = S::CHANGES == Changes::All;
        // The events of a batch's writes come before its replies, and so none behind a `Get`.
        let splits = tells_all && turn.progress.watcher.is_some();
        let mut has_read = false;
        let asked = turn.ask(|operation| {
            match operation {
                Operation::Get { .. } => has_read = true,
                Operation::Write(_) if splits && has_read => return false,
                Operation::Write(_) => {}
            }
            if !keeps_key_order::<S>() {
                return true;
            }
            let key = order.hash(operation.key());
            if S::ORDER != Order::Total && !known.contains(&key) {
                let is_free = order.is_free(key);
                // What is in a batch with a key that is not free would hold up others meanwhile.
                if is_blocked || !(is_free || keys.is_empty()) {
                    return false;
                }
                is_blocked = !is_free;
            }
            if known.insert(key) {
                keys.push(key);
            }
            let is_write = matches!(operation, Operation::Write(_));
            if S::ORDER == Order::Total && is_write && known.insert(ALL_BATCHES) {
                keys.push(ALL_BATCHES);
            }
            true
        });
        if !asked {
            turn.progress.timer = round.timer;
            turn.answer_lines();
            round.timer = turn.progress.timer;
            self.collect(&mut turn, round);
            return Some(turn);
        }
        if turn.progress.aborted || !turn.progress.replies.is_empty() {
            // The store is not to hold up what the client gets, nor its end.
            turn.progress.state = TurnState::QuotaUsed;
            return Some(turn);
        }
        let client = self.clients.get_mut(turn.client)?;
        client.at_store = true;
        client.watcher = turn.progress.watcher;
        turn.progress.watched = !tells_all;
        if keeps_key_order::<S>() {
            self.key_order.enter(turn.client, keys);
        }
        if S::ORDER == Order::None {
            turn = self.wait_for_keys(turn)?;
        }
        self.submit(turn, store, round)
    }

    /// Gives the turn back if it can go on at once.
    pub(super) fn submit<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) -> Option<Box<Turn>> {
        let is_immediate = S::ORDER == Order::Immediate;
        let (key, offset) = (turn.client, turn.progress.cursor.offset);
        if is_immediate {
            turn.progress.timer = round.timer;
        }
        let guard = TurnGuard::new(turn, self.lost_turns::<S>());
        match store.submit(Batch::new(guard)) {
            Submission::Done(batch) if is_immediate => {
                let mut turn = batch.into_turn()?;
                round.timer = turn.progress.timer;
                if turn.progress.cursor.offset == offset
                    && turn.progress.state == TurnState::Running
                {
                    turn.fail_unanswered();
                }
                self.collect(&mut turn, round);
                Some(turn)
            }
            Submission::Done(batch) => {
                round.timer.add_unknown();
                let turn = batch.into_turn()?;
                if self.changes.is_none() && turn.client == key {
                    return self.complete::<S>(turn, round);
                }
                // Changes may have been made known meanwhile, which come first; or this is the batch of
                // another client, which the store has kept.
                send_turn(self.changes.as_deref(), turn, &self.from_store);
                self.end_watcher_turn(key);
                None
            }
            Submission::Pending(batch) => {
                round.timer.add_unknown();
                if S::ORDER == Order::Sequential && S::CHANGES == Changes::Elsewhere {
                    self.key_order.enter(key, vec![ALL_BATCHES]);
                }
                self.wait_for_store::<S>(key, async { batch.await.into_turn() });
                None
            }
        }
    }

    /// Goes on with a walk: ends it, or gets the next page. Gives the turn back if it is there.
    pub(super) fn walk<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) -> Option<Box<Turn>> {
        if self.shutting_down && !turn.is_walk_over() {
            turn.progress.refuse(Rejection::Closing);
            turn.progress.cursor.told_closing = true;
            self.collect(&mut turn, round);
        }
        if turn.is_walk_over() {
            turn.end_walk();
        } else if turn.is_page_done() {
            if S::ORDER != Order::Immediate && !turn.progress.replies.is_empty() {
                // They are not for the store to hold up.
                turn.progress.state = TurnState::QuotaUsed;
                return Some(turn);
            }
            let key = turn.client;
            let guard = TurnGuard::new(turn, self.lost_turns::<S>());
            round.timer.add_unknown();
            match store.keys(KeyPage::new(guard)) {
                Submission::Done(page) => {
                    turn = self.own_turn(page.into_turn()?, key)?;
                    turn.on_page();
                    self.collect(&mut turn, round);
                }
                Submission::Pending(page) => {
                    self.wait_for_store::<S>(key, async { page.await.into_turn() });
                    return None;
                }
            }
        }
        Some(turn)
    }

    /// Gives a turn back that the store was done with at once, if it is this client's. If the store has kept
    /// that one, and gives back another's, the other joins the round later.
    pub(super) fn own_turn(&mut self, turn: Box<Turn>, key: usize) -> Option<Box<Turn>> {
        if turn.client == key {
            return Some(turn);
        }
        self.clients.get_mut(key)?.at_store = true;
        send_turn(self.changes.as_deref(), turn, &self.from_store);
        self.end_watcher_turn(key);
        None
    }

    /// Where turns come back that the store has lost. One that does not wait can't lose any.
    pub(super) fn lost_turns<S: Store>(&self) -> Option<Sender<FromStore>> {
        (S::ORDER != Order::Immediate).then(|| self.from_store.clone())
    }

    /// # Panics
    ///
    /// If the store said that it never waits.
    pub(super) fn wait_for_store<S: Store>(
        &mut self,
        key: usize,
        turn: impl Future<Output = Option<Box<Turn>>> + Send + 'static,
    ) {
        assert!(
            S::ORDER != Order::Immediate,
            "a store whose order is immediate has returned a pending submission"
        );
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        client.at_store = true;
        let (from_store, clock) = (self.from_store.clone(), self.server.clock.clone());
        let changes = self.changes.clone();
        client.store_task = Some(self.executor.spawn(async move {
            let turn = std::pin::pin!(turn);
            if let Some(turn) = clock::deferrable(&clock, turn).await {
                send_turn(changes.as_deref(), turn, &from_store);
            }
        }));
        self.end_watcher_turn(key);
    }

    /// The client has no turn in this round any more.
    pub(super) fn end_watcher_turn(&mut self, key: usize) {
        let client = self.clients.get(key);
        if let Some(watcher) = client.and_then(|client| client.watcher) {
            self.watches.end_turn(watcher);
        }
    }

    /// What has come from the store, in its order.
    pub(super) fn take_store_output<S: Store>(&mut self, store: &mut S, round: &mut Round) {
        let mut returned = std::mem::take(&mut self.returned).into_iter();
        while let Some(it) = returned.next() {
            match it {
                FromStore::Turn(turn) => self.on_returned(turn, store, round),
                // Changes that were made known before come first.
                FromStore::Lost(turn) => {
                    send_turn(self.changes.as_deref(), turn, &self.from_store);
                }
                FromStore::Change(change) => {
                    // Batches that were back before it, and have waited for others.
                    if S::ORDER != Order::None {
                        while let Some(turn) = self.unblocked.pop() {
                            self.on_unblocked(turn, store, round);
                        }
                    }
                    let is_first = self.watches.is_quiet() && round.turns.is_empty();
                    if change.write().is_none() && !is_first {
                        // It is told at once, and so not before what the round has to tell.
                        self.returned.push(FromStore::Change(change));
                        self.returned.extend(returned);
                        return;
                    }
                    self.on_change(&change, &mut returned, round);
                }
            }
            round.timer.add(1);
            if self.is_over(round) {
                self.returned.extend(returned);
                return;
            }
        }
    }

    /// A turn that was not in this round joins it.
    pub(super) fn rejoin(&mut self, turn: &mut Turn, round: &Round) {
        let Some(client) = self.clients.get_mut(turn.client) else {
            return;
        };
        client.store_task = None;
        // Its input may have ended meanwhile, and its watches with it.
        turn.progress.watcher = client.watcher;
        if let Some(watcher) = client.watcher {
            self.watches.set_turn(watcher, round.turns.len());
        }
    }

    /// A turn has come back from the store.
    fn on_returned<S: Store>(&mut self, mut turn: Box<Turn>, store: &mut S, round: &mut Round) {
        self.rejoin(&mut turn, round);
        if turn.has_watch_request() {
            self.on_watch_request(turn, store, round);
        } else if turn.has_page() {
            turn.on_page();
            self.collect(&mut turn, round);
            self.run_turn(turn, store, round);
        } else {
            let changes = std::mem::take(&mut turn.own_changes);
            let mut has_missed = changes.has_missed;
            has_missed |= self.on_own_changes(&turn, &changes.before, 0, round);
            if let Some(mut turn) = self.complete::<S>(turn, round) {
                let replies = turn.progress.replies.len();
                has_missed |= self.on_own_changes(&turn, &changes.behind, replies, round);
                turn.own_changes.has_missed = has_missed;
                self.end_turn(turn, round);
            }
        }
    }

    /// A turn has waited for its keys: to be submitted, or to be released.
    pub(super) fn on_unblocked<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) {
        self.rejoin(&mut turn, round);
        let turn = match S::ORDER {
            Order::None => self.submit(turn, store, round),
            _ => Some(self.release(turn, round)),
        };
        if let Some(turn) = turn {
            self.end_turn(turn, round);
        }
    }

    /// The store is done with a batch. Gives it back if its answers may be released.
    fn complete<S: Store>(&mut self, mut turn: Box<Turn>, round: &mut Round) -> Option<Box<Turn>> {
        turn.fail_unanswered();
        if S::ORDER != Order::None {
            turn = self.wait_for_keys(turn)?;
        }
        Some(self.release(turn, round))
    }

    /// The answers of a batch are released, and other batches may have waited for that.
    fn release(&mut self, mut turn: Box<Turn>, round: &mut Round) -> Box<Turn> {
        let unblocked = &mut self.unblocked;
        self.key_order
            .leave(turn.client, |turn| unblocked.push(turn));
        self.collect(&mut turn, round);
        turn
    }

    /// Gives the turn back if it is the first of all its keys.
    fn wait_for_keys(&mut self, turn: Box<Turn>) -> Option<Box<Turn>> {
        let key = turn.client;
        let first = self.key_order.wait(turn);
        if first.is_none() {
            self.end_watcher_turn(key);
        }
        first
    }
}
