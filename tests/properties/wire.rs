//! Other protocols are told from commands.

use keywire::Server;
use proptest::prelude::*;

use crate::{
    model::{Model, assert_answers},
    script::converse,
};

/// Pieces of lines that may be a command, or show another protocol.
fn opening() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&[u8]] = &[
        b"Put:k:v",
        b"Get:k",
        b"Sync",
        b"Watch:k",
        b"GET ",
        b"/",
        b" HTTP/",
        b"1.1",
        b"hOst",
        b"Host:",
        b"\x16",
        b"\x03",
        b":",
        b" ",
        b"\n",
        b"\n",
        b"\r\n",
        b"0123456789",
    ];
    let word = prop::sample::select(WORDS);
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

proptest! {
    /// However it is cut into reads, with and without a rate.
    #[test]
    fn other_protocols_are_told_from_commands_as_the_model_tells_them(
        input in opening(), max_line in 0..24usize, size in 1..20usize, throttled: bool,
    ) {
        let rate = if throttled { 1_000_000 } else { u32::MAX };
        let server = Server::builder().max_line(max_line).max_line_rate(rate).build();
        let mut model = Model::alone(max_line, 1000);
        let expected = model.converse(&input);
        let (output, store) = converse(server, input.chunks(size));
        assert_answers(&output, &expected);
        prop_assert_eq!(store.iter().count(), model.lists.values().filter(|list| !list.is_empty()).count());
    }
}
