//! What a connection may say before it is let in: the secret, and little else.

use std::{future::poll_fn, io, sync::atomic::Ordering, task::Poll, time::Duration};

use futures_lite::future;
use memchr::memchr;

use super::{Foreign, Reader, Session, foreign::Opening, reader::poll_read};
use crate::{
    Secret,
    server::event::{End, Message, NotLetIn},
};

/// What is read at a time, and the longest line. A secret has half of it.
const ENTRY_BYTES: usize = 1024;

/// How long a connection may take to say the secret.
pub(in crate::server) const ENTRY_TIME: Duration = Duration::from_secs(10);

/// How long it waits for the answer to a line that is not the secret, so that guessing takes time.
const ENTRY_DELAY: Duration = Duration::from_secs(1);

/// How many such lines are answered. After the last, the connection is closed.
const ENTRY_TRIES: u32 = 3;

/// The lines so far. It never holds more than a line and a read.
struct Entry<'a> {
    secret: &'a Secret,
    buffer: Vec<u8>,
    lines: u64,
    failures: u32,
    opening: Opening,
}

enum Verdict {
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
    /// The peer speaks another protocol.
    Foreign { foreign: Foreign, line: u64 },
}

impl<'a> Entry<'a> {
    fn new(secret: &'a Secret) -> Self {
        Self {
            secret,
            buffer: Vec::new(),
            lines: 0,
            failures: 0,
            opening: Opening::default(),
        }
    }

    /// The number of lines looked at.
    fn lines(&self) -> u64 {
        self.lines
    }

    fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Takes the bytes of a read, of at most [`ENTRY_BYTES`].
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Looks at the next line that is not blank.
    fn next(&mut self) -> Verdict {
        if let Some(foreign) = self.opening.first_bytes(&self.buffer) {
            return Verdict::Foreign { foreign, line: 1 };
        }
        while let Some(end) = memchr(b'\n', &self.buffer) {
            let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            self.lines += 1;
            let guess = line.strip_prefix(b"Auth:");
            if guess.is_some_and(|guess| self.secret.is(guess)) {
                let rest = std::mem::take(&mut self.buffer);
                return Verdict::LetIn { rest };
            } else if let Some(foreign) = Foreign::of_line(&line) {
                let line = self.lines;
                return Verdict::Foreign { foreign, line };
            } else if !line.is_empty() {
                self.failures += 1;
                return Verdict::Refused {
                    wrong: guess.is_some(),
                    last: self.failures == ENTRY_TRIES,
                };
            }
        }
        if self.buffer.len() > ENTRY_BYTES {
            self.lines += 1;
            return Verdict::Refused {
                wrong: false,
                last: true,
            };
        }
        Verdict::Unknown
    }
}

impl Session {
    /// Lets the client in where it says the secret in time, and gives what it has sent behind it.
    pub(super) async fn let_in_time(
        &self,
        reader: &mut Reader,
        secret: &Secret,
    ) -> io::Result<Result<Vec<u8>, End>> {
        let late = async {
            self.surroundings.sleep(ENTRY_TIME).await;
            Ok(Err(End::Late))
        };
        future::or(self.let_in(reader, secret), late).await
    }

    async fn let_in(
        &self,
        reader: &mut Reader,
        secret: &Secret,
    ) -> io::Result<Result<Vec<u8>, End>> {
        let mut entry = Entry::new(secret);
        let mut has_read = false;
        loop {
            let verdict = entry.next();
            let line = entry.lines();
            match verdict {
                Verdict::LetIn { rest } => {
                    self.tell(Message::LetIn { line });
                    return Ok(Ok(rest));
                }
                Verdict::Refused { wrong, last } => {
                    self.waits.store(true, Ordering::Relaxed);
                    self.surroundings.sleep(ENTRY_DELAY).await;
                    self.waits.store(false, Ordering::Relaxed);
                    self.note_move();
                    let refused = NotLetIn { line, wrong };
                    if last {
                        return Ok(Err(End::NotLetIn(refused)));
                    }
                    self.tell(Message::NotLetIn(refused));
                    if poll_fn(|cx| self.outbox.poll_next_batch(cx)).await? {
                        return Ok(Err(End::Closing));
                    }
                }
                Verdict::Foreign { foreign, line } => {
                    return Ok(Err(End::Foreign { foreign, line }));
                }
                Verdict::Unknown => {
                    // Others get their turn, and the clock is looked at, also where there is always
                    // more to read. What was read has been looked at by now: the coordinator has
                    // it, or nothing of it is for it.
                    if has_read {
                        future::yield_now().await;
                    }
                    has_read = true;
                    let read = poll_fn(|cx| {
                        let read = poll_read(reader, cx, ENTRY_BYTES, |bytes| entry.push(bytes));
                        match read {
                            Poll::Ready(read) => Poll::Ready(read.map(Some)),
                            Poll::Pending => self.outbox.poll_closing(cx).map(|()| Ok(None)),
                        }
                    });
                    match read.await? {
                        Some(0) if entry.is_partial() => {
                            let (line, wrong) = (line + 1, false);
                            return Ok(Err(End::NotLetIn(NotLetIn { line, wrong })));
                        }
                        Some(0) => return Ok(Err(End::Eof)),
                        Some(_) => self.note_read(),
                        None => return Ok(Err(End::Closing)),
                    }
                }
            }
        }
    }
}
