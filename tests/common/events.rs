//! What a watcher of the client hears.

use futures_lite::StreamExt as _;
use keywire::{Event, Watcher};

pub fn put(key: &str, value: impl ToString) -> Event {
    Event::Put {
        key: key.into(),
        value: value.to_string().into(),
    }
}

pub fn set(key: &str, value: &str) -> Event {
    Event::Set {
        key: key.into(),
        value: value.into(),
    }
}

pub fn remove(key: &str, value: &str) -> Event {
    Event::Remove {
        key: key.into(),
        value: value.into(),
    }
}

pub fn delete(key: &str) -> Event {
    Event::Delete { key: key.into() }
}

pub fn update(key: &str, old: &str, new: &str) -> Event {
    Event::Update {
        key: key.into(),
        old: old.into(),
        new: new.into(),
    }
}

pub async fn next(watcher: &mut Watcher) -> Event {
    watcher.next().await.expect("an event").unwrap()
}
