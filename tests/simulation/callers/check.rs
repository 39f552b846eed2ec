//! What the callers were told, against the history.

use std::{collections::HashMap, time::Duration};

use keywire::{
    Error, Event, Outcome,
    protocol::{Code, Write},
};

use super::{CallLog, WatchLog};
use crate::{
    history::{Record, Tag, What, line_of},
    network::Direction,
    sent::Sent,
    settings::Settings,
    world::Moment,
};

/// Nothing else can go wrong here.
pub(crate) fn check_error(error: &Error) {
    let known = matches!(
        error,
        Error::Refused { .. } | Error::Unconfirmed { .. } | Error::RepliesDropped { .. }
    );
    assert!(
        known || matches!(error, Error::Disconnected(_) | Error::NotSent(_)),
        "a client was told: {error}"
    );
}

/// Panics where a caller was told what the history does not bear out.
pub(crate) fn check_calls(
    client: usize,
    log: &CallLog,
    record: &Record,
    by_tag: &HashMap<Tag, usize>,
    settings: &Settings,
    up: &Direction,
) {
    for call in log.calls.borrow().iter() {
        let place = call.number.and_then(|number| by_tag.get(&(client, number)));
        let entry = place.map(|&place| &record.entries[place]);
        let what = entry.map(|entry| &entry.what);
        assert!(
            !call.unsent || entry.is_none(),
            "not sent, and applied: {call:?}"
        );
        if let (Some(number), Some(given_up)) = (call.number, call.given_up) {
            // A command that was given up before it was sent is not sent.
            let is_it = |sent| matches!(sent, Sent::Command(other) if other == number);
            let line = up
                .lines
                .iter()
                .find(|line| is_it(Sent::of(&line.text, settings.secret, None)));
            let late = line.is_some_and(|line| line.offered > given_up);
            assert!(!late, "given up, and sent: {call:?}");
        }
        let Some((told, outcome)) = &call.outcome else {
            continue;
        };
        if let Some(entry) = entry {
            // What was under way when the connection broke may be applied later.
            let broke = matches!(outcome, Err(Error::Disconnected(_)));
            assert!(
                call.asked < entry.at && (broke || entry.answered < *told),
                "{call:?}"
            );
        }
        match (outcome, what) {
            (Ok(Outcome::Values(values)), Some(What::Read(lines))) => {
                let value = |line: &'_ [u8]| {
                    let colon = line.iter().position(|&byte| byte == b':');
                    line[colon.unwrap() + 1..].to_vec()
                };
                assert!(
                    values
                        .iter()
                        .cloned()
                        .eq(lines.iter().map(|line| value(line))),
                    "{call:?}, not {lines:?}"
                );
            }
            (Ok(Outcome::Done), Some(What::Written(..))) => {}
            (Ok(_), what) => {
                assert!(
                    call.number.is_none() && what.is_none(),
                    "{call:?}: {what:?}"
                );
            }
            (Err(Error::RepliesDropped { lines, .. }), Some(What::Read(read))) => {
                assert_eq!(*lines, read.len() as u64, "{call:?}");
            }
            (Err(Error::Refused { code, .. }), what) => match code {
                Code::Store => assert!(matches!(what, Some(What::Failed)), "{call:?}: {what:?}"),
                Code::Unconfirmed => {
                    assert!(
                        matches!(what, Some(What::Unconfirmed(_))),
                        "{call:?}: {what:?}"
                    );
                }
                // There was no place for the connection.
                Code::Full if settings.max_clients < usize::MAX && what.is_none() => {}
                Code::Full => assert!(matches!(what, Some(What::Full(_))), "{call:?}: {what:?}"),
                Code::TooLong if settings.is_strict() => {}
                Code::Closing if settings.idle < Duration::MAX => {}
                Code::Closing => {
                    // A read may have come to the store, and its fence not.
                    assert!(
                        matches!(what, None | Some(What::Read(_))) && *told > settings.stopped,
                        "{call:?}: {what:?}"
                    );
                }
                _ => panic!("{call:?}"),
            },
            (Err(Error::Unconfirmed { .. }), _) => {
                let idle = settings.idle < Duration::MAX;
                let by_store = matches!(what, Some(What::Unconfirmed(_)));
                assert!(*told > settings.stopped || settings.is_strict() || idle || by_store);
            }
            (Err(Error::Disconnected(_)), _) | (Err(Error::NotSent(_)), None) => {}
            _ => panic!("{call:?}: {what:?}"),
        }
    }
    // What is missed is missed by all watches of a connection.
    let all_heard = log.heard.borrow();
    for heard in all_heard.iter() {
        check_heard(client, heard, all_heard.len() == 1, record);
        check_left(client, heard, log, up);
    }
}

fn check_heard(client: usize, heard: &WatchLog, alone: bool, record: &Record) {
    let fits = |key: &[u8]| match heard.prefix {
        true => key.starts_with(&heard.name),
        false => *key == heard.name[..],
    };
    let changes = record.entries.iter().filter_map(|entry| match &entry.what {
        What::Written(key, line) if fits(key) => Some((entry, line)),
        _ => None,
    });
    let mut changes = changes.peekable();
    // What was made while the watch began may be told or not.
    let (mut unheard, mut doubtful) = (0, 0);
    let mut missed = 0;
    for event in &heard.events {
        let line = line_of(match event {
            Event::Put { key, value } => Write::Put { key, value },
            Event::Update { key, old, new } => Write::Update { key, old, new },
            Event::Delete { key } => Write::Delete { key },
            Event::Set { key, value } => Write::Set { key, value },
            Event::Remove { key, value } => Write::Remove { key, value },
            Event::Missed(more) => {
                missed += more;
                continue;
            }
            _ => panic!("{event:?}"),
        });
        loop {
            let Some((entry, told)) = changes.next() else {
                panic!("client {client} was told of {event:?}: {heard:?}");
            };
            if *told == line {
                assert!(heard.asked < entry.at);
                break;
            }
            unheard += u64::from(heard.begun.is_some_and(|begun| begun < entry.at));
            doubtful += u64::from(heard.asked < entry.at);
        }
        assert!(
            unheard <= missed && (missed <= doubtful || !alone),
            "client {client} did not hear of {unheard} to {doubtful}, told of {missed}: {heard:?}"
        );
    }
}

/// When the last watcher of its kind has gone, the watch ends before anything else is answered.
fn check_left(client: usize, heard: &WatchLog, log: &CallLog, up: &Direction) {
    let all = log.heard.borrow();
    let same = all
        .iter()
        .filter(|other| (&other.name, other.prefix) == (&heard.name, heard.prefix));
    let left = |heard: &WatchLog| heard.left.unwrap_or(Moment::NEVER);
    let gone = same.clone().map(left).max().unwrap_or(Moment::NEVER);
    let calls = log.calls.borrow();
    let answered = calls.iter().filter(|call| call.asked > gone);
    let answered = answered.filter_map(|call| match call.outcome {
        Some((told, Ok(_))) => Some(told),
        _ => None,
    });
    let Some(answered) = answered.min() else {
        return;
    };
    let last = |word: &[u8]| {
        let kind: &[u8] = if heard.prefix { b"Prefix:" } else { b":" };
        let text = [word, kind, &heard.name[..]].concat();
        let lines = up.lines.iter().filter(|line| line.begun < answered);
        lines
            .filter(|line| line.text == text)
            .map(|line| line.begun)
            .max()
    };
    assert!(
        last(b"Watch") <= last(b"Unwatch"),
        "client {client} still watches: {heard:?}"
    );
}
