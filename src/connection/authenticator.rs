//! What a connection may send before it is authenticated: the secret, and little else.

use std::time::{Duration, Instant};

use memchr::memchr;

use super::{
    message::{AuthFailed, InputEnd},
    other_protocol::{Opening, OtherProtocol},
};
use crate::Secret;

/// What is read at a time, and the longest line. A secret has half of it.
pub(crate) const AUTH_BYTES: usize = 1024;

/// How long a connection may take to authenticate.
pub(crate) const AUTH_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the answer to a line that is not the secret takes, so that guessing takes time.
const AUTH_DELAY: Duration = Duration::from_secs(1);

/// How many such lines are answered. After the last, the connection is closed.
const AUTH_TRIES: u32 = 3;

/// The lines so far. It never holds more than a line and a read.
pub(crate) struct Authenticator {
    buffer: Vec<u8>,
    /// The number of lines that have ended.
    lines: u64,
    failures: u32,
    /// When the time to authenticate is over.
    deadline: Instant,
    /// A failure that has not been answered, and when it is.
    failure: Option<(AuthFailed, Instant)>,
}

pub(crate) enum AuthStep {
    /// More has to be read.
    NeedMore,
    /// The client is authenticated. The rest is for the server.
    Authenticated {
        line: u64,
        rest: Vec<u8>,
    },
    /// A line was something else.
    Rejected(AuthFailed),
    End(InputEnd),
}

impl Authenticator {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            buffer: Vec::new(),
            lines: 0,
            failures: 0,
            deadline: now + AUTH_TIMEOUT,
            failure: None,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        let answer = self.failure.map(|(_, at)| at);
        answer.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// Takes the bytes of a read, of at most [`AUTH_BYTES`].
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Examines the next line that is not blank.
    pub(crate) fn next(&mut self, secret: &Secret, opening: &mut Opening) -> AuthStep {
        if let Some(end) = opening.on_bytes(&self.buffer) {
            return AuthStep::End(end);
        }
        while let Some(end) = memchr(b'\n', &self.buffer) {
            let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            self.lines += 1;
            let guess = line.strip_prefix(b"Auth:");
            if guess.is_some_and(|guess| secret.is(guess)) {
                let (line, rest) = (self.lines, std::mem::take(&mut self.buffer));
                return AuthStep::Authenticated { line, rest };
            } else if let Some(protocol) = OtherProtocol::of_line(&line) {
                let line = self.lines;
                return AuthStep::End(InputEnd::OtherProtocol { protocol, line });
            } else if !line.is_empty() {
                self.failures += 1;
                return self.reject(guess.is_some());
            }
        }
        if self.buffer.len() > AUTH_BYTES {
            self.lines += 1;
            self.failures = AUTH_TRIES;
            return self.reject(false);
        }
        AuthStep::NeedMore
    }

    fn reject(&self, wrong: bool) -> AuthStep {
        let line = self.lines;
        AuthStep::Rejected(AuthFailed { line, wrong })
    }

    /// The answer to a failure comes later.
    pub(crate) fn delay(&mut self, failed: AuthFailed, now: Instant) {
        self.failure = Some((failed, now + AUTH_DELAY));
    }

    /// The failure that is to be answered by now, and whether it was the last one.
    pub(crate) fn take_failure(&mut self, now: Instant) -> Option<(AuthFailed, bool)> {
        let (failed, _) = self.failure.take_if(|(_, at)| *at <= now)?;
        Some((failed, self.failures == AUTH_TRIES))
    }

    /// Why the input ends if the client sends no more.
    pub(crate) fn on_eof(&self) -> InputEnd {
        match self.buffer.is_empty() {
            true => InputEnd::Eof,
            false => InputEnd::AuthFailed(AuthFailed {
                line: self.lines + 1,
                wrong: false,
            }),
        }
    }
}
