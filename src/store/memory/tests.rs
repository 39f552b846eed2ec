//! That no value forges a line, however it came into the store.

use std::sync::Arc;

use super::*;
use crate::{
    clock::SystemClock,
    protocol::LineDecoder,
    shared::limits::Limits,
    store::{batch::TurnGuard, turn::Turn},
};

const FORGED: &[u8] = b"x\n:sync:0:";
const REFUSED: &str = ":error:1:store:a value holds a line feed, which no line can carry\n";

/// The store's replies to these lines.
fn replies(store: &mut Memory, lines: &[u8]) -> String {
    let limits = Arc::new(Limits::default());
    let mut turn = Box::new(Turn::new(limits, Arc::default(), Arc::new(SystemClock)));
    turn.block = LineDecoder::new(100).push(lines);
    let Submission::Done(batch) = store.submit(Batch::new(TurnGuard::new(turn, None))) else {
        panic!("it waits");
    };
    let turn = batch.into_turn().unwrap();
    String::from_utf8(turn.progress.replies.clone()).unwrap()
}

/// Answers one operation as a store does that has this one inside and makes the operation itself.
fn apply(store: &mut Memory, write: Write<'_>) {
    let limits = Arc::new(Limits::default());
    let mut turn = Box::new(Turn::new(limits, Arc::default(), Arc::new(SystemClock)));
    turn.block = LineDecoder::new(100).push(b"Delete:other\n");
    let mut batch = Batch::new(TurnGuard::new(turn, None));
    let limits = store.limits(&batch);
    batch.each(|_, answer| store.apply(write.into(), answer, limits));
}

#[test]
fn a_value_with_a_line_feed_is_not_sent_however_it_came_in() {
    type BringIn = fn(&mut Memory);
    const KEY: &[u8] = b"k";
    let ways: [BringIn; 7] = [
        |store| store.put(KEY, FORGED),
        |store| store.set(KEY, FORGED),
        |store| store.update(KEY, b"", FORGED),
        |store| {
            store.put(KEY, b"old");
            store.update(KEY, b"old", FORGED);
        },
        |store| {
            let (key, value) = (KEY, FORGED);
            apply(store, Write::Put { key, value });
        },
        |store| {
            let (key, value) = (KEY, FORGED);
            apply(store, Write::Set { key, value });
        },
        |store| {
            let (key, old, new) = (KEY, &b""[..], FORGED);
            apply(store, Write::Update { key, old, new });
        },
    ];
    for (way, bring_in) in ways.into_iter().enumerate() {
        let mut store = Memory::new();
        store.put(b"other", b"1");
        bring_in(&mut store);
        assert_eq!(replies(&mut store, b"Get:k\n"), REFUSED, "{way}");
        assert_eq!(replies(&mut store, b"Get:other\n"), "other:1\n", "{way}");
    }
}
