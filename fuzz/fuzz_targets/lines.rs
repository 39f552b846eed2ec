//! How the bytes are cut into reads never changes the lines.
//!
//! The input is the limit, four sizes of reads, used in turn, and the bytes.
#![no_main]

#[path = "../reads.rs"]
mod reads;

use keywire::protocol::{LineDecoder, LineTooLong};
use libfuzzer_sys::fuzz_target;

type Found = (Vec<Result<Vec<u8>, LineTooLong>>, bool);

fn cut<'a>(max: usize, reads: impl Iterator<Item = &'a [u8]>) -> Found {
    let mut lines = LineDecoder::new(max);
    let mut found = Vec::new();
    for read in reads {
        let block = lines.push(read);
        found.extend(block.iter().map(|line| line.map(<[u8]>::to_vec)));
    }
    (found, lines.is_partial())
}

fuzz_target!(|input: &[u8]| {
    let [max, a, b, c, d, bytes @ ..] = input else {
        return;
    };
    let max = usize::from(*max);
    let whole = cut(max, std::iter::once(bytes));

    let reads = reads::cut(bytes, &[*a, *b, *c, *d]);
    assert_eq!(cut(max, reads.into_iter()), whole);
    assert_eq!(cut(max, bytes.chunks(1)), whole);

    // And they are the lines that one finds by looking at the whole.
    let plain: Vec<_> = bytes
        .split_inclusive(|&byte| byte == b'\n')
        .filter_map(|line| line.strip_suffix(b"\n"))
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .map(|line| {
            if line.len() > max {
                Err(LineTooLong)
            } else {
                Ok(line.to_vec())
            }
        })
        .collect();
    assert_eq!(whole.0, plain);
});
