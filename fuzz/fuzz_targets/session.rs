//! Bytes through a real server, on an in-memory connection, against the model.
//!
//! The input is the limits, four sizes of reads, used in turn, and the bytes. In half of the cases
//! the server wants a secret, and is told it.
#![no_main]

#[path = "../../tests/common/model.rs"]
mod model;
#[path = "../reads.rs"]
mod reads;
#[path = "../../tests/common/script.rs"]
mod script;

use keywire::{Overflow, Secret, Server};
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
    // So does whether the server wants a secret with the lines of an outbox. The client says it in
    // its first line, for which the model must have room, too.
    let auth = &b"Auth:s\n"[..];
    let wants_secret = *outbox_lines >= 128 && max_line >= auth.len();
    let mut builder = Server::builder();
    let mut said = Vec::new();
    if wants_secret {
        builder = builder.secret(Secret::new("s").unwrap());
        said.extend_from_slice(auth);
    }
    said.extend_from_slice(bytes);
    let server = builder
        .max_line(max_line)
        .outbox_lines(usize::from(*outbox_lines % 128))
        .outbox_bytes(outbox_bytes)
        .overflow(policy)
        .max_watches(max_watches)
        .build();
    let handle = server.handle();

    let mut model = Model::alone(max_line, max_watches);
    model.secret = wants_secret.then_some(b"s");
    let expected = model.converse(&said);
    let (output, store) = script::converse(server, reads::cut(&said, &[*a, *b, *c, *d]));
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
