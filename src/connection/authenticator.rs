//! What a connection may say before it is let in: the secret, and little else.

use std::{future::poll_fn, io, sync::atomic::Ordering, task::Poll, time::Duration};

use futures_lite::future;
use memchr::memchr;

use super::{
    Reader, Session,
    message::{AuthFailed, InputEnd, Message},
    other_protocol::{Opening, OtherProtocol},
    reader::poll_read,
};
use crate::Secret;

/// What is read at a time, and the longest line. A secret has half of it.
const AUTH_BYTES: usize = 1024;

/// How long a connection may take to say the secret.
pub(crate) const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it waits for the answer to a line that is not the secret, so that guessing takes time.
const AUTH_DELAY: Duration = Duration::from_secs(1);

/// How many such lines are answered. After the last, the connection is closed.
const AUTH_TRIES: u32 = 3;

/// The lines so far. It never holds more than a line and a read.
struct Authenticator<'a> {
    secret: &'a Secret,
    buffer: Vec<u8>,
    lines: u64,
    failures: u32,
    opening: Opening,
}

enum AuthStep {
    /// More has to be read.
    NeedMore,
    /// The secret was said. What follows is for the server.
    Authenticated { rest: Vec<u8> },
    /// A line was something else.
    Rejected {
        /// Another secret, that is.
        wrong: bool,
        /// The connection has had its chance.
        last: bool,
    },
    /// The peer speaks another protocol.
    OtherProtocol { protocol: OtherProtocol, line: u64 },
}

impl<'a> Authenticator<'a> {
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

    /// Takes the bytes of a read, of at most [`AUTH_BYTES`].
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Looks at the next line that is not blank.
    fn next(&mut self) -> AuthStep {
        if let Some(protocol) = self.opening.first_bytes(&self.buffer) {
            return AuthStep::OtherProtocol { protocol, line: 1 };
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
                return AuthStep::Authenticated { rest };
            } else if let Some(protocol) = OtherProtocol::of_line(&line) {
                let line = self.lines;
                return AuthStep::OtherProtocol { protocol, line };
            } else if !line.is_empty() {
                self.failures += 1;
                return AuthStep::Rejected {
                    wrong: guess.is_some(),
                    last: self.failures == AUTH_TRIES,
                };
            }
        }
        if self.buffer.len() > AUTH_BYTES {
            self.lines += 1;
            return AuthStep::Rejected {
                wrong: false,
                last: true,
            };
        }
        AuthStep::NeedMore
    }
}

impl Session {
    /// Lets the client in where it says the secret in time, and gives what it has sent behind it.
    pub(crate) async fn authenticate_within(
        &self,
        reader: &mut Reader,
        secret: &Secret,
    ) -> io::Result<Result<Vec<u8>, InputEnd>> {
        let late = async {
            self.context.sleep(AUTH_TIMEOUT).await;
            Ok(Err(InputEnd::AuthTimeout))
        };
        future::or(self.authenticate(reader, secret), late).await
    }

    async fn authenticate(
        &self,
        reader: &mut Reader,
        secret: &Secret,
    ) -> io::Result<Result<Vec<u8>, InputEnd>> {
        let mut authenticator = Authenticator::new(secret);
        let mut has_read = false;
        loop {
            let step = authenticator.next();
            let line = authenticator.lines();
            match step {
                AuthStep::Authenticated { rest } => {
                    self.send_message(Message::Authenticated { line });
                    return Ok(Ok(rest));
                }
                AuthStep::Rejected { wrong, last } => {
                    self.awaiting_server.store(true, Ordering::Relaxed);
                    self.context.sleep(AUTH_DELAY).await;
                    self.awaiting_server.store(false, Ordering::Relaxed);
                    self.touch();
                    let refused = AuthFailed { line, wrong };
                    if last {
                        return Ok(Err(InputEnd::AuthFailed(refused)));
                    }
                    self.send_message(Message::AuthFailed(refused));
                    if poll_fn(|cx| self.outbox.poll_read_permit(cx)).await? {
                        return Ok(Err(InputEnd::ShuttingDown));
                    }
                }
                AuthStep::OtherProtocol { protocol, line } => {
                    return Ok(Err(InputEnd::OtherProtocol { protocol, line }));
                }
                AuthStep::NeedMore => {
                    // Others get their turn, and the clock is looked at, also where there is always
                    // more to read. What was read has been looked at by now: the coordinator has
                    // it, or nothing of it is for it.
                    if has_read {
                        future::yield_now().await;
                    }
                    has_read = true;
                    let read = poll_fn(|cx| {
                        let read =
                            poll_read(reader, cx, AUTH_BYTES, |bytes| authenticator.push(bytes));
                        match read {
                            Poll::Ready(read) => Poll::Ready(read.map(Some)),
                            Poll::Pending => self.outbox.poll_closing(cx).map(|()| Ok(None)),
                        }
                    });
                    match read.await? {
                        Some(0) if authenticator.is_partial() => {
                            let (line, wrong) = (line + 1, false);
                            return Ok(Err(InputEnd::AuthFailed(AuthFailed { line, wrong })));
                        }
                        Some(0) => return Ok(Err(InputEnd::Eof)),
                        Some(_) => self.on_read(),
                        None => return Ok(Err(InputEnd::ShuttingDown)),
                    }
                }
            }
        }
    }
}
