//! What a late store is asked to watch, and the changes that it makes known of that.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    task::Waker,
};

use keywire::{
    protocol::{Topic, Write},
    store::Change,
};

use crate::world::{Action, Moment, World, lock};

/// The name, and whether it is a prefix.
pub(crate) type Watched = (Vec<u8>, bool);

pub(crate) fn owned(topic: Topic<'_>) -> Watched {
    match topic {
        Topic::Key(key) => (key.to_vec(), false),
        Topic::Prefix(prefix) => (prefix.to_vec(), true),
        _ => panic!("{topic:?} is new"),
    }
}

/// Shared by the store, its futures, and the stream by which the server gets changes.
#[derive(Clone, Default)]
pub(crate) struct Subscriptions(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    asked: Vec<Watched>,
    subscribed: Vec<Watched>,
    /// Changes that the server has not got.
    changes: VecDeque<Change>,
    waker: Option<Waker>,
}

impl Subscriptions {
    /// The store is asked for it.
    pub(crate) fn ask(&self, watched: Watched) {
        let mut state = lock(&self.0);
        let known = state.asked.contains(&watched) || state.subscribed.contains(&watched);
        assert!(!known, "{watched:?} is asked for twice");
        state.asked.push(watched);
    }

    /// It is subscribed to, or it is not.
    pub(crate) fn settle(&self, watched: &Watched, subscribed: bool) {
        let mut state = lock(&self.0);
        state.asked.retain(|other| other != watched);
        if subscribed {
            state.subscribed.push(watched.clone());
        }
    }

    pub(crate) fn end(&self, watched: &Watched) {
        let mut state = lock(&self.0);
        let place = state.subscribed.iter().position(|other| other == watched);
        let place = place.unwrap_or_else(|| panic!("{watched:?} is not watched"));
        state.subscribed.swap_remove(place);
    }

    /// What was not told to have ended.
    pub(crate) fn left(&self) -> usize {
        lock(&self.0).subscribed.len()
    }

    /// A change was made. If it is watched, it is made known, or is missed. Gives whether it is missed.
    pub(crate) fn tell(&self, write: Write<'_>, misses: bool, world: &World) -> bool {
        let mut state = lock(&self.0);
        let key = write.key().to_vec();
        let fits = |(name, is_prefix): &Watched| match is_prefix {
            true => key.starts_with(name),
            false => key == *name,
        };
        if !state.subscribed.iter().any(fits) {
            return false;
        }
        let change = match misses.then(|| world.random(|rng| rng.u8(..16))) {
            Some(0) => Err(Change::missed()),
            Some(1) => Err(Change::missed_of(move |other| other == key)),
            _ => Ok(Change::from(write)),
        };
        let is_missed = change.is_err();
        state.changes.push_back(change.unwrap_or_else(|it| it));
        if let Some(waker) = state.waker.take() {
            world.act(Action::Wake(waker));
        }
        is_missed
    }

    /// The next change.
    pub(crate) fn next(&self, waker: &Waker) -> Option<Change> {
        let mut state = lock(&self.0);
        state.waker = Some(waker.clone());
        state.changes.pop_front()
    }
}

/// What came of a request to watch.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) watched: Watched,
    pub(crate) asked: Moment,
    pub(crate) answered: Moment,
    pub(crate) done: bool,
}
