//! What clients watch, and the store that is asked to subscribe to what nobody has watched before.

use std::collections::HashMap;

use super::{Coordinator, turns::Round};
use crate::{
    protocol::{Command, Topic, push_watch},
    shared::limits::Limits,
    store::{
        Order, Store, Submission, TurnGuard, WatchRequest,
        rejection::Rejection,
        turn::{Turn, TurnState},
    },
    watch::registry::WatchLimit,
};

/// What the store is asked to watch, and the turns that wait for the same. A client has one turn, so
/// there are no more of both than clients.
pub(super) type Subscriptions = HashMap<OwnedTopic, Vec<Box<Turn>>>;

/// The name, and whether it is a prefix.
pub(super) type OwnedTopic = (Vec<u8>, bool);

fn owned(topic: Topic<'_>) -> OwnedTopic {
    match topic {
        Topic::Key(key) => (key.to_vec(), false),
        Topic::Prefix(prefix) => (prefix.to_vec(), true),
    }
}

fn is_long(topic: Topic<'_>, limits: &Limits) -> bool {
    matches!(topic, Topic::Prefix(prefix) if prefix.len() > limits.max_watch_prefix)
}

impl Coordinator {
    /// Answers the `Watch` at which the turn stands, or asks the store first. Gives the turn back if it is
    /// there.
    pub(super) fn watch<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) -> Option<Box<Turn>> {
        let Some(topic) = self.wanted(&turn) else {
            self.answer_watch(&mut turn, &Ok(()), round);
            return Some(turn);
        };
        if S::ORDER != Order::Immediate && !turn.progress.replies.is_empty() {
            // They are not for the store to hold up. The turn comes to this line again.
            turn.progress.state = TurnState::QuotaUsed;
            return Some(turn);
        }
        let key = turn.client;
        let client = self.clients.get_mut(key)?;
        client.watcher = turn.progress.watcher;
        if let Some(waiting) = self.subscriptions.get_mut(&topic) {
            client.at_store = true;
            waiting.push(turn);
            self.end_watcher_turn(key);
            return None;
        }
        // What was watched before.
        self.notify_unwatched(store);
        self.subscriptions.insert(topic, Vec::new());
        round.timer.add_unknown();
        let guard = TurnGuard::new(turn, self.lost_turns::<S>());
        match store.watch(WatchRequest::new(guard)) {
            Submission::Done(request) => {
                let mut turn = self.own_turn(request.into_turn()?, key)?;
                let (topic, result) = self.take_watch_request(&mut turn)?;
                // Nobody waits for what did not wait.
                self.subscriptions.remove(&topic);
                self.answer_watch(&mut turn, &result, round);
                self.settle(topic, &result, store);
                Some(turn)
            }
            Submission::Pending(request) => {
                self.wait_for_store::<S>(key, async { request.await.into_turn() });
                None
            }
        }
    }

    /// A request has come back from the store. The turn is in the round again.
    pub(super) fn on_watch_request<S: Store>(
        &mut self,
        mut turn: Box<Turn>,
        store: &mut S,
        round: &mut Round,
    ) {
        let Some((topic, result)) = self.take_watch_request(&mut turn) else {
            return;
        };
        let waiting = self.subscriptions.remove(&topic).unwrap_or_default();
        self.answer_watch(&mut turn, &result, round);
        self.end_turn(turn, round);
        // All at once: if the first leaves, the subscription is the others'.
        for mut turn in waiting {
            turn.progress.resume();
            self.rejoin(&mut turn, round);
            self.answer_watch(&mut turn, &result, round);
            self.end_turn(turn, round);
        }
        self.settle(topic, &result, store);
    }

    fn take_watch_request(&self, turn: &mut Turn) -> Option<(OwnedTopic, Result<(), String>)> {
        turn.progress.resume();
        let result = turn.on_watch_request();
        Some((owned(turn.watch_line()?), result))
    }

    /// What the turn asks to watch, if the store has to be asked for that.
    fn wanted(&self, turn: &Turn) -> Option<OwnedTopic> {
        let topic = turn.watch_line()?;
        let (progress, limits) = (&turn.progress, &self.server.limits);
        let is_refused = progress.is_closed()
            || is_long(topic, limits)
            || !self.watches.has_room(progress.watcher, topic, limits);
        (!is_refused && !self.watches.is_watched(topic)).then(|| owned(topic))
    }

    /// Answers the `Watch` at which the turn stands.
    fn answer_watch(&mut self, turn: &mut Turn, result: &Result<(), String>, round: &Round) {
        let client = turn.client;
        let Some((Command::Watch(topic), progress)) = turn.take_control_line() else {
            return;
        };
        let limits = &self.server.limits;
        if let Err(error) = result {
            progress.fail_watch(error);
        } else if is_long(topic, limits) {
            progress.refuse(Rejection::LongPrefix);
        } else if !progress.is_closed() {
            let (watcher, turn) = (&mut progress.watcher, round.turns.len());
            match self.watches.watch(watcher, client, turn, topic, limits) {
                Ok(()) => {
                    progress.push_control_line(|replies| push_watch(replies, topic));
                }
                Err(WatchLimit) => progress.refuse(Rejection::FullWatches),
            }
        }
        self.stats.add(&mut progress.stats);
    }

    /// A request is answered. If all clients that asked for it are gone, nobody watches.
    fn settle<S: Store>(
        &mut self,
        (name, is_prefix): OwnedTopic,
        result: &Result<(), String>,
        store: &mut S,
    ) {
        let topic = match is_prefix {
            true => Topic::Prefix(&name),
            false => Topic::Key(&name),
        };
        if result.is_ok() && !self.watches.is_watched(topic) {
            store.unwatch(topic);
        }
    }

    /// Tells the store what nobody watches any more.
    pub(super) fn notify_unwatched<S: Store>(&mut self, store: &mut S) {
        for (name, is_prefix) in self.watches.take_unwatched() {
            store.unwatch(match is_prefix {
                true => Topic::Prefix(&name),
                false => Topic::Key(&name),
            });
        }
    }
}
