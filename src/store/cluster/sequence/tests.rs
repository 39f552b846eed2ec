//! The order of changes and batches, case by case.

use std::time::Instant;

use super::{HOLD_TIME, Numbers, Output, Sequencer, ticket::MAX_KEPT};
use crate::store::OwnChanges;

fn at(number: u64) -> Option<Numbers> {
    Some(Numbers {
        last: number,
        shown: number,
    })
}

fn change(line: &[u8], except: &[usize]) -> Output<&'static str> {
    Output::Change {
        line: line.into(),
        except: except.into(),
    }
}

fn own_changes(before: &[&[u8]], behind: &[&[u8]], has_missed: bool) -> OwnChanges {
    let lines = |lines: &[&[u8]]| lines.iter().map(|&line| line.into()).collect();
    OwnChanges {
        before: lines(before),
        behind: lines(behind),
        has_missed,
    }
}

fn batch(name: &'static str) -> Output<&'static str> {
    Output::Batch(name, OwnChanges::default())
}

fn live(buckets: u16) -> Sequencer<&'static str> {
    let mut sequencer = Sequencer::new(buckets);
    for bucket in 0..buckets {
        sequencer.watch(bucket);
        sequencer.on_number(bucket, 0, false);
    }
    sequencer
}

/// A change that comes before the reply to a `Get` is told at once, but to the client of the `Get`: what the
/// `Get` shows before it, and the rest behind it.
#[test]
fn a_change_waits_for_nobody_but_a_client_that_reads() {
    let now = Instant::now();
    let mut sequencer = live(2);
    let get = sequencer
        .begin(7, [(0, true), (1, true)].into_iter())
        .unwrap();
    let put = sequencer.begin(8, [(0, false)].into_iter()).unwrap();
    sequencer.answer(put, "put", |_| at(2), now);
    sequencer.on_change(0, 1, b"1");
    sequencer.on_change(0, 2, b"2");
    let expected = [change(b"1", &[7]), change(b"2", &[7]), batch("put")];
    assert_eq!(sequencer.out.make_contiguous(), expected);
    sequencer.out.clear();
    // Its other bucket's change has not come: what does meanwhile is kept as well.
    sequencer.answer(get, "get", |_| at(1), now);
    sequencer.on_change(0, 3, b"3");
    sequencer.on_change(1, 1, b"one");
    let own = own_changes(&[b"1", b"one"], &[b"2", b"3"], false);
    let expected = [
        change(b"3", &[7]),
        change(b"one", &[7]),
        Output::Batch("get", own),
    ];
    assert_eq!(sequencer.out.make_contiguous(), expected);
    sequencer.out.clear();
    sequencer.on_change(0, 4, b"4");
    assert_eq!(sequencer.out, [change(b"4", &[])]);
}

/// Nothing waits for ever for changes that are lost. A batch that is not answered holds up nobody.
#[test]
fn what_does_not_come_is_missed() {
    let now = Instant::now();
    let mut sequencer = live(2);
    let late = sequencer
        .begin(7, [(0, true), (1, true)].into_iter())
        .unwrap();
    let put = sequencer.begin(8, [(0, false)].into_iter()).unwrap();
    sequencer.answer(put, "put", |_| at(1), now);
    assert_eq!(sequencer.deadline(), Some(now + HOLD_TIME));
    assert!(sequencer.on_time(now + HOLD_TIME / 2).is_empty());
    assert!(sequencer.out.is_empty());
    assert_eq!(sequencer.on_time(now + HOLD_TIME), [0]);
    assert_eq!(sequencer.out, [Output::Missed(0), batch("put")]);
    sequencer.out.clear();
    assert_eq!(sequencer.deadline(), None);
    sequencer.on_change(1, 1, b"1");
    assert!(sequencer.on_time(now + 10 * HOLD_TIME).is_empty());
    assert_eq!(sequencer.out, [change(b"1", &[7])]);
    sequencer.out.clear();
    // Behind the Gets, since they may show what was before.
    sequencer.answer(late, "late", |_| at(0), now);
    let own = own_changes(&[], &[b"1"], true);
    assert_eq!(sequencer.out, [Output::Batch("late", own)]);
}

/// What is kept for a client has a bound. Beyond that, it alone has missed something, of that bucket.
#[test]
fn too_much_is_not_kept() {
    let mut sequencer = live(2);
    let get = sequencer
        .begin(7, [(0, true), (1, true)].into_iter())
        .unwrap();
    sequencer.on_change(0, 1, b"1");
    let line = vec![b'x'; MAX_KEPT / 4];
    (1..9).for_each(|number| sequencer.on_change(1, number, &line));
    sequencer.answer(get, "get", |_| at(0), Instant::now());
    let is_missed = sequencer.out.contains(&Output::Missed(1));
    let own = own_changes(&[], &[b"1"], true);
    assert_eq!(sequencer.out.pop_back(), Some(Output::Batch("get", own)));
    assert!(!is_missed && sequencer.out.len() == 9);
}

/// A batch that is not answered at all has kept changes for its client.
#[test]
fn a_batch_that_is_lost_has_missed_what_was_kept_for_it() {
    let mut sequencer = live(1);
    let get = sequencer.begin(7, [(0, true)].into_iter()).unwrap();
    sequencer.on_change(0, 1, b"1");
    sequencer.cancel(get);
    sequencer.on_change(0, 2, b"2");
    let expected = [change(b"1", &[7]), Output::Missed(0), change(b"2", &[])];
    assert_eq!(sequencer.out, expected);
}
