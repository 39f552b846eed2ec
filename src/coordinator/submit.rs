//! Turns on their way to the store and back, in the order of keys.

use std::{collections::HashSet, future::Future};

use async_channel::Sender;

use super::{Coordinator, key_order::ALL_WRITES, turns::Round};
use crate::{
    clock,
    protocol::Operation,
    store::{
        Batch, KeyPage, Order, Store, Submission, TurnGuard,
        rejection::Rejection,
        timer::RoundTimer,
        turn::{Turn, TurnState},
    },
};

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
        let asked = turn.ask(|operation| {
            let key = order.hash(operation.key());
            if S::ORDER == Order::None && !known.contains(&key) {
                let is_free = order.is_free(key);
                // What is behind a key that is not free would hold up others meanwhile.
                if is_blocked || !(is_free || keys.is_empty()) {
                    return false;
                }
                is_blocked = !is_free;
            }
            if known.insert(key) {
                keys.push(key);
            }
            let is_write = matches!(operation, Operation::Write(_));
            if S::ORDER == Order::Total && is_write && known.insert(ALL_WRITES) {
                keys.push(ALL_WRITES);
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
        if !turn.progress.replies.is_empty() {
            // They are not for the store to hold up.
            turn.progress.state = TurnState::QuotaUsed;
            return Some(turn);
        }
        let client = self.clients.get_mut(turn.client)?;
        client.at_store = true;
        client.watcher = turn.progress.watcher;
        turn.progress.watched = true;
        self.key_order.enter(turn.client, keys);
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
        turn.progress.timer = match is_immediate {
            true => round.timer,
            false => RoundTimer::start(self.server.clock.now()),
        };
        let guard = TurnGuard::new(turn, self.lost_turns::<S>());
        match store.submit(Batch::new(guard)) {
            Submission::Done(batch) if is_immediate => {
                let mut turn = batch.into_turn()?;
                round.timer = turn.progress.timer;
                if turn.progress.cursor.offset == offset
                    && turn.progress.state == TurnState::Running
                {
                    turn.fail_lines();
                }
                self.collect(&mut turn, round);
                Some(turn)
            }
            Submission::Done(batch) => {
                round.timer.add_unknown();
                self.complete::<S>(batch.into_turn()?, round)
            }
            Submission::Pending(batch) => {
                round.timer.add_unknown();
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
            turn.progress.cursor.knows_control_lines = false;
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
                    turn = page.into_turn()?;
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

    /// Where turns come back that the store has lost. One that does not wait can't lose any.
    fn lost_turns<S: Store>(&self) -> Option<Sender<Box<Turn>>> {
        (S::ORDER != Order::Immediate).then(|| self.from_store.clone())
    }

    /// # Panics
    ///
    /// If the store said that it never waits.
    fn wait_for_store<S: Store>(
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
        if let Some(watcher) = client.watcher {
            self.watches.end_turn(watcher);
        }
        let (from_store, clock) = (self.from_store.clone(), self.server.clock.clone());
        client.store_task = Some(self.executor.spawn(async move {
            let turn = std::pin::pin!(turn);
            if let Some(turn) = clock::deferrable(&clock, turn).await {
                // This fails only if the coordinator is gone.
                let _ = from_store.try_send(turn);
            }
        }));
    }

    /// A turn that was not in this round joins it. `None` if its client is gone.
    fn rejoin(&mut self, turn: &mut Turn, round: &Round) -> Option<()> {
        let client = self.clients.get_mut(turn.client)?;
        client.store_task = None;
        // Its input may have ended meanwhile, and its watches with it.
        turn.progress.watcher = client.watcher;
        if let Some(watcher) = client.watcher {
            self.watches.set_turn(watcher, round.turns.len());
        }
        Some(())
    }

    /// A turn has come back from the store.
    pub(super) fn on_returned<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) -> Option<()> {
        self.rejoin(&mut turn, round)?;
        if turn.has_page() {
            turn.on_page();
            self.collect(&mut turn, round);
            self.run_turn(turn, store, round);
        } else {
            let turn = self.complete::<S>(turn, round)?;
            self.end_turn(turn, round);
        }
        Some(())
    }

    /// A turn has waited for its keys: its batch can be submitted, or its answers released.
    pub(super) fn on_unblocked<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) -> Option<()> {
        self.rejoin(&mut turn, round)?;
        let turn = match S::ORDER {
            Order::None => self.submit(turn, store, round)?,
            _ => self.release(turn, round),
        };
        self.end_turn(turn, round);
        Some(())
    }

    /// The store is done with a batch. Gives it back if its answers may be released.
    fn complete<S: Store>(&mut self, mut turn: Box<Turn>, round: &mut Round) -> Option<Box<Turn>> {
        turn.end_batch();
        if S::ORDER != Order::None {
            turn = self.wait_for_keys(turn)?;
        }
        Some(self.release(turn, round))
    }

    /// Releases the answers of a batch, and its keys.
    fn release(&mut self, mut turn: Box<Turn>, round: &mut Round) -> Box<Turn> {
        let unblocked = &mut self.unblocked;
        self.key_order
            .leave(turn.client, |turn| unblocked.push(turn));
        self.collect(&mut turn, round);
        if turn.walk.is_some() && turn.progress.state == TurnState::Done {
            // That was a page. What follows it comes next.
            turn.progress.state = TurnState::Running;
        }
        turn
    }

    /// Gives the turn back if it is the first of all its keys.
    fn wait_for_keys(&mut self, turn: Box<Turn>) -> Option<Box<Turn>> {
        let watcher = turn.progress.watcher;
        let first = self.key_order.wait(turn);
        if let (None, Some(watcher)) = (&first, watcher) {
            // It has no turn in this round any more.
            self.watches.end_turn(watcher);
        }
        first
    }
}
