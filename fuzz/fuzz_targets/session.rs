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
use model::{Model, assert_answers};

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
    // The client reads, so however small the outbox and whatever the policy, nothing is lost.
    let server = Server::builder()
        .max_line(max_line)
        .outbox_lines(usize::from(*outbox_lines))
        .outbox_bytes(usize::from(*outbox_bytes))
        .overflow(POLICIES[usize::from(*policy) % POLICIES.len()])
        .build();

    let mut model = Model::new(max_line);
    let expected = model.converse(bytes);
    let (output, store) = script::converse(server, reads::cut(bytes, &[*a, *b, *c, *d]));
    assert_answers(&output, &expected);
    for (key, values) in store.iter() {
        assert!(values.eq(model.lists.remove(key).unwrap_or_default()));
    }
    assert!(model.lists.values().all(Vec::is_empty));
});
