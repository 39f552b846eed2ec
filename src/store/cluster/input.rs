//! What was read from a node and is not handled yet.

use super::resp::{Malformed, Scanner};

/// Bytes read at a time.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Something that a node has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    Reply(&'a [u8]),
    /// A reply that is too long to be kept. It is over.
    TooLong,
}

pub(super) struct Input {
    /// What is behind `end` is free.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    scanner: Scanner,
    /// The longest reply that is kept.
    longest: usize,
    /// A longer one is passing by.
    skips: bool,
}

impl Input {
    pub(super) fn new(longest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            end: 0,
            scanner: Scanner::default(),
            longest,
            skips: false,
        }
    }

    /// Where the next bytes are to be put. [`on_read`](Self::on_read) follows.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > 4 * READ_BYTES {
                // After a long reply.
                self.bytes = Vec::new();
            }
        }
        if self.bytes.len() - self.end < READ_BYTES / 4 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.bytes.len() - self.end < READ_BYTES / 2 {
                let length = (2 * self.bytes.len()).min(self.longest + READ_BYTES);
                self.bytes.resize(length.max(self.end + READ_BYTES), 0);
            }
        }
        let end = self.bytes.len().min(self.end + READ_BYTES);
        &mut self.bytes[self.end..end]
    }

    pub(super) fn on_read(&mut self, bytes: usize) {
        self.end += bytes;
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// The next that is whole.
    pub(super) fn next(&mut self) -> Result<Option<Item<'_>>, Malformed> {
        if !self.skips && self.start < self.end {
            let bytes = &self.bytes[self.start..self.end];
            if let Some(length) = self.scanner.scan(bytes)? {
                self.start += length;
                return Ok(Some(Item::Reply(&bytes[..length])));
            }
            self.skips = bytes.len() > self.longest;
        }
        if self.skips {
            let (length, is_over) = self.scanner.skip(&self.bytes[self.start..self.end])?;
            self.start += length;
            if is_over {
                self.skips = false;
                return Ok(Some(Item::TooLong));
            }
            if self.end - self.start > READ_BYTES {
                // A line that does not end.
                return Err(Malformed);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of these bytes, which come so many at a time, and the most memory that it took.
    fn items(mut bytes: &[u8], piece: usize, longest: usize) -> (Vec<Option<Vec<u8>>>, usize) {
        let mut input = Input::new(longest);
        let (mut items, mut most) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let space = input.space();
            let length = piece.min(space.len()).min(bytes.len());
            space[..length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            input.on_read(length);
            most = most.max(input.bytes.capacity());
            while let Some(item) = input.next().unwrap() {
                items.push(match item {
                    Item::Reply(reply) => Some(reply.to_vec()),
                    Item::TooLong => None,
                });
            }
        }
        (items, most)
    }

    #[test]
    fn a_reply_that_is_too_long_passes_by_and_the_next_ones_are_read() {
        const LONGEST: usize = 4 * READ_BYTES;
        let value = [b"$100000\r\n", &[b'\r'; 100_000][..], b"\r\n"].concat();
        let long = [b"*3\r\n:1\r\n*200\r\n", &value.repeat(200)[..], b"+OK\r\n"].concat();
        let (first, last) = (&b":1\r\n"[..], &b"*2\r\n:2\r\n$-1\r\n"[..]);
        let one_value = [b"$10000000\r\n", &[b'x'; 10_000_000][..], b"\r\n"].concat();
        for long in [&long, &one_value] {
            let bytes = [first, long, last, &value, long, first].concat();
            for piece in [1000, 65_537, usize::MAX] {
                let (items, most) = items(&bytes, piece, LONGEST);
                let kept = |reply: &[u8]| Some(reply.to_vec());
                let expected = [
                    kept(first),
                    None,
                    kept(last),
                    kept(&value),
                    None,
                    kept(first),
                ];
                assert!(items == expected, "{piece}");
                assert!(most <= 2 * LONGEST, "{most}");
            }
        }
    }

    #[test]
    fn a_line_that_does_not_end_is_malformed() {
        let mut input = Input::new(READ_BYTES);
        let mut read = || {
            let space = input.space();
            space.fill(b'+');
            let length = space.len();
            input.on_read(length);
            input.next().map(|_| ())
        };
        assert!((0..10).any(|_| read() == Err(Malformed)));
    }
}
