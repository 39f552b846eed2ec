//! Bytes through a real server, on an in-memory connection, against the model.
//!
//! The input is the limits, four sizes of reads, used in turn, and the bytes.
#![no_main]

#[path = "../../tests/common/model.rs"]
mod model;
#[path = "../reads.rs"]
mod reads;
#[path = "../../tests/common/script.rs"]
mod script;

use keywire::{Overflow, Server};
use libfuzzer_sys::fuzz_target;
use model::{Model, assert_answers, assert_answers_but_missed};

const POLICIES: [Overflow; 3] = [Overflow::Drop, Overflow::Disconnect, Overflow::Wait];

fuzz_target!(|input: &[u8]| {
    let [
        max_line,
        outbox_lines,
        outbox_bytes,
        policy,
        a,
        b,
        c,
        d,
        bytes @ ..,
    ] = input
    else {
        return;
    };
    let max_line = usize::from(*max_line);
    // The number of watches that are allowed comes with the policy, in one byte.
    let max_watches = usize::from(*policy) / POLICIES.len();
    let policy = POLICIES[usize::from(*policy) % POLICIES.len()];
    // The client reads, so however small the outbox and whatever the policy, no reply is lost. But
    // nobody waits for a watcher: an event may be.
    let outbox_bytes = match (*outbox_bytes, policy) {
        (255, _) | (_, Overflow::Disconnect) => usize::MAX,
        (bytes, _) => usize::from(bytes),
    };
    let server = Server::builder()
        .max_line(max_line)
        .outbox_lines(usize::from(*outbox_lines))
        .outbox_bytes(outbox_bytes)
        .overflow(policy)
        .max_watches(max_watches)
        .build();
    let handle = server.handle();

    let mut model = Model::alone(max_line, max_watches);
    let expected = model.converse(bytes);
    let (output, store) = script::converse(server, reads::cut(bytes, &[*a, *b, *c, *d]));
    if outbox_bytes == usize::MAX {
        assert_answers(&output, &expected);
    } else {
        let missed = assert_answers_but_missed(&output, &expected, true);
        assert_eq!(missed, handle.stats().missed);
    }
    for (key, values) in store.iter() {
        assert!(values.eq(model.lists.remove(key).unwrap_or_default()));
    }
    assert!(model.lists.values().all(Vec::is_empty));
});
