//! What a connection may say before it is let in: the secret, and little else.

use std::time::Duration;

use memchr::memchr;

use crate::Secret;

/// What is read at a time, and the longest line. A secret has half of it.
pub(super) const ENTRY_BYTES: usize = 1024;

/// How long a connection may take to say the secret.
pub(super) const ENTRY_TIME: Duration = Duration::from_secs(10);

/// How long it waits for the answer to a line that is not the secret, so that guessing takes time.
pub(super) const ENTRY_DELAY: Duration = Duration::from_secs(1);

/// How many such lines are answered. After the last, the connection is closed.
const ENTRY_TRIES: u32 = 3;

/// The lines so far. It never holds more than a line and a read.
pub(super) struct Entry<'a> {
    secret: &'a Secret,
    held: Vec<u8>,
    lines: u64,
    failures: u32,
}

pub(super) enum Verdict {
    /// More has to be read.
    Unknown,
    /// The secret was said. What follows is for the server.
    LetIn { rest: Vec<u8> },
    /// A line was something else.
    Refused {
        /// Another secret, that is.
        wrong: bool,
        /// The connection has had its chance.
        last: bool,
    },
}

impl<'a> Entry<'a> {
    pub(super) fn new(secret: &'a Secret) -> Self {
        Self {
            secret,
            held: Vec::new(),
            lines: 0,
            failures: 0,
        }
    }

    /// The number of lines looked at.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    pub(super) fn is_partial(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes the bytes of a read, of at most [`ENTRY_BYTES`].
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Looks at the next line that is not blank.
    pub(super) fn next(&mut self) -> Verdict {
        while let Some(end) = memchr(b'\n', &self.held) {
            let mut line: Vec<u8> = self.held.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            self.lines += 1;
            let guess = line.strip_prefix(b"Auth:");
            if guess.is_some_and(|guess| self.secret.is(guess)) {
                let rest = std::mem::take(&mut self.held);
                return Verdict::LetIn { rest };
            } else if !line.is_empty() {
                self.failures += 1;
                return Verdict::Refused {
                    wrong: guess.is_some(),
                    last: self.failures == ENTRY_TRIES,
                };
            }
        }
        if self.held.len() > ENTRY_BYTES {
            self.lines += 1;
            return Verdict::Refused {
                wrong: false,
                last: true,
            };
        }
        Verdict::Unknown
    }
}
