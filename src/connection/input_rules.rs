//! The rules for the input of a connection, without I/O.
//!
//! In: the bytes of each read, the end of the input, permits for the next batch, the shutdown of the
//! server, and the time. Out: messages to the coordinator, and what the input [waits](Wait) for. The
//! rules touch nothing but the [`Environment`]; the driver in `reader.rs` does the rest.
//!
//! With the default limits, an idle connection holds no line and has no deadline. What few connections
//! need is boxed.

use std::time::{Duration, Instant};

use super::{
    authenticator::{AUTH_BYTES, AuthStep, Authenticator},
    idle::IdleTracker,
    linger::Linger,
    message::{InputEnd, Message},
    other_protocol::Opening,
    rate_limiter::RateLimiter,
    reader::READ_BYTES,
};
use crate::{
    clock,
    protocol::{LineBlock, LineDecoder},
    shared::limits::Limits,
};

/// What the rules ask of the connection, and only if it makes a difference: most answers cost a system
/// call or a lock.
pub(crate) trait Environment {
    fn limits(&self) -> &Limits;

    fn now(&self) -> Instant;

    /// An empty buffer with room for so many bytes.
    fn buffer(&self, bytes: usize) -> Vec<u8>;

    /// The bytes in the socket that have not been read, if the system can say that.
    fn unread(&self) -> Option<usize>;

    /// Whether all replies so far are in the socket.
    fn is_delivered(&self) -> bool;

    /// Whether there are no more replies and all are in the socket.
    fn is_finished(&self) -> bool;

    /// The time since the peer's last acknowledgement; `None` if nothing is unacknowledged, or if the
    /// system can't say.
    fn silence(&self) -> Option<Duration>;

    /// Sends a message to the coordinator.
    fn send(&self, message: Message);
}

/// What the input waits for, besides the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Bytes, or the shutdown if there are none.
    Bytes,
    /// The permit of the coordinator, once it has handled what was sent to it.
    Permit,
    /// No bytes: the deadline, or the shutdown.
    Deadline,
    /// The input has ended: that the replies are delivered.
    Delivery,
    /// The input has ended: bytes, which are discarded.
    Discard,
    /// Nothing.
    Done,
    /// Nothing: the connection has to be closed at once.
    TimedOut,
}

pub(crate) struct InputRules {
    pub(super) wait: Wait,
    lines: LineDecoder,
    /// When a line that has begun must have ended; `None` while the client has to wait for the server.
    line_deadline: Option<Instant>,
    opening: Opening,
    /// Why the input ends once the lines that were read are processed.
    end: Option<InputEnd>,
    /// Bytes to be read before the input ends; `None` before the shutdown.
    pub(super) left_to_read: Option<usize>,
    /// Until the client is authenticated.
    authenticator: Option<Box<Authenticator>>,
    pub(super) limiter: Option<Box<RateLimiter>>,
    idle: Option<Box<IdleTracker>>,
    linger: Option<Box<Linger>>,
}

impl InputRules {
    pub(crate) fn new(env: &impl Environment) -> Self {
        let limits = env.limits();
        let (rate, idle) = (limits.max_line_rate, limits.idle_timeout);
        let authenticator = || Box::new(Authenticator::new(env.now()));
        let limiter = || Box::new(RateLimiter::new(rate, env.now()));
        let tracker = || Box::new(IdleTracker::new(idle, env.now()));
        Self {
            wait: Wait::Bytes,
            lines: LineDecoder::new(limits.max_line),
            line_deadline: None,
            opening: Opening::default(),
            end: None,
            left_to_read: None,
            authenticator: limits.secret.is_some().then(authenticator),
            limiter: (rate < u32::MAX).then(limiter),
            idle: (idle < Duration::MAX).then(tracker),
            linger: None,
        }
    }

    /// Of a connection that needs no secret.
    pub(crate) fn authenticated(env: &impl Environment) -> Self {
        Self {
            authenticator: None,
            ..Self::new(env)
        }
    }

    /// Of a connection that was not admitted: it has a short time to read why.
    pub(crate) fn rejected(env: &impl Environment) -> Self {
        let mut inbound = Self::new(env);
        inbound.discard(Linger::with_limit(env.now()));
        inbound
    }

    pub(crate) fn wait(&self) -> Wait {
        self.wait
    }

    /// All replies are delivered after the input has ended.
    pub(crate) fn on_delivered(&mut self) {
        self.finish(Wait::Done);
    }

    pub(crate) fn waits_for_bytes(&self) -> bool {
        matches!(self.wait, Wait::Bytes | Wait::Discard)
    }

    /// The most that a read may bring.
    pub(crate) fn read_bytes(&self) -> usize {
        self.authenticator
            .as_ref()
            .map_or(READ_BYTES, |_| AUTH_BYTES)
    }

    /// When [`on_timeout`](Self::on_timeout) has to be called, if nothing else comes before.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let authentication = self.authenticator.as_ref().map(|it| it.deadline());
        let rate = self.limiter.as_ref().and_then(|it| it.until());
        let idle = self.idle.as_ref().map(|it| it.deadline());
        let linger = self.linger.as_ref().map(|it| it.deadline());
        let deadlines = [self.line_deadline, authentication, rate, idle, linger];
        deadlines.into_iter().flatten().min()
    }

    /// A read has brought these bytes. If the input waits for bytes after that, other tasks run before
    /// the next read.
    pub(crate) fn on_bytes(&mut self, bytes: &[u8], env: &impl Environment) {
        if let Some(linger) = &mut self.linger {
            return linger.on_bytes(env.now());
        }
        self.touch(env);
        if let Some(left) = &mut self.left_to_read {
            *left = left.saturating_sub(bytes.len());
        }
        if let Some(authenticator) = &mut self.authenticator {
            authenticator.push(bytes);
            return self.authenticate(env);
        }
        let mut block = self.lines.push_into(bytes, |bytes| env.buffer(bytes));
        if !block.is_empty() {
            self.end = self.opening.on_lines(&mut block);
            self.deliver(block, env);
        } else if let Some(end) = self.opening.on_bytes(self.lines.partial()) {
            self.end(end, env);
        } else if self.left_to_read == Some(0) {
            self.end(InputEnd::ShuttingDown, env);
        } else if self.line_deadline.is_none() {
            self.start_line(env);
        }
    }

    /// The client sends no more.
    pub(crate) fn on_eof(&mut self, env: &impl Environment) {
        if self.linger.is_some() {
            return self.finish(Wait::Done);
        }
        let end = match &self.authenticator {
            Some(authenticator) => authenticator.on_eof(),
            None if self.lines.is_partial() => InputEnd::IncompleteLine,
            None => InputEnd::Eof,
        };
        self.end(end, env);
    }

    /// The coordinator has handled what was sent to it.
    pub(crate) fn on_permit(&mut self, shutting_down: bool, env: &impl Environment) {
        if self.authenticator.is_some() {
            return match shutting_down {
                true => self.end(InputEnd::ShuttingDown, env),
                false => self.authenticate(env),
            };
        }
        if let Some(limiter) = &mut self.limiter {
            if shutting_down {
                limiter.lift();
            }
            if limiter.is_holding() {
                return self.deliver_limited(env);
            }
        }
        match self.left_to_read {
            Some(0) => self.end = self.end.or(Some(InputEnd::ShuttingDown)),
            None if shutting_down => self.begin_shutdown(env),
            _ => {}
        }
        self.on_processed(env);
    }

    /// A deadline of the connection has come. Acts on those of the input that are past.
    pub(crate) fn on_timeout(&mut self, env: &impl Environment) {
        let now = env.now();
        let is_past = |deadline: Option<Instant>| deadline.is_some_and(|it| it <= now);
        if let Some(linger) = &mut self.linger {
            match linger.on_timeout(now, env) {
                Some(true) => self.finish(Wait::Done),
                Some(false) => self.finish(Wait::TimedOut),
                None => {}
            }
        } else if is_past(self.authenticator.as_ref().map(|it| it.deadline())) {
            self.on_authentication_timeout(now, env);
        } else if is_past(self.limiter.as_ref().and_then(|it| it.until())) {
            self.deliver_limited(env);
        } else if is_past(self.line_deadline) {
            self.end(InputEnd::LineTimeout, env);
        } else if is_past(self.idle.as_ref().map(|it| it.deadline())) {
            self.on_idle(now, env);
        }
    }

    fn on_authentication_timeout(&mut self, now: Instant, env: &impl Environment) {
        let authenticator = self.authenticator.as_mut();
        match authenticator.and_then(|it| it.take_failure(now)) {
            None => self.end(InputEnd::AuthTimeout, env),
            Some((failed, true)) => self.end(InputEnd::AuthFailed(failed), env),
            Some((failed, false)) => {
                self.touch(env);
                self.wait = Wait::Permit;
                env.send(Message::AuthFailed(failed));
            }
        }
    }

    /// Nothing has moved for the limit: ends the input, unless the client waits for the server, or has
    /// acknowledged bytes since.
    fn on_idle(&mut self, now: Instant, env: &impl Environment) {
        let awaits_server = matches!(self.wait, Wait::Permit | Wait::Deadline);
        let Some(idle) = &mut self.idle else {
            return;
        };
        if awaits_server && env.is_delivered() {
            idle.touch(now);
        } else if !idle.update_acknowledged(now, env) {
            let end = match self.wait {
                Wait::Delivery => InputEnd::UnreadTimeout,
                _ => InputEnd::IdleTimeout,
            };
            self.end(end, env);
        }
    }

    /// The transport has taken bytes. If the system knows what a peer acknowledges, bytes count
    /// as activity once they are acknowledged: the system takes bytes for a peer that is gone, too.
    pub(crate) fn on_write(&mut self, is_acknowledged: bool, env: &impl Environment) {
        match &mut self.idle {
            Some(idle) if is_acknowledged => idle.touch(env.now()),
            Some(idle) => idle.on_write(env.now()),
            None => {}
        }
    }

    fn touch(&mut self, env: &impl Environment) {
        if let Some(idle) = &mut self.idle {
            idle.touch(env.now());
        }
    }

    fn start_line(&mut self, env: &impl Environment) {
        let limit = env.limits().line_timeout;
        if limit < Duration::MAX {
            self.line_deadline = Some(clock::later(env.now(), limit));
        }
    }

    fn authenticate(&mut self, env: &impl Environment) {
        let (Some(authenticator), Some(secret)) = (&mut self.authenticator, &env.limits().secret)
        else {
            return;
        };
        match authenticator.next(secret, &mut self.opening) {
            AuthStep::NeedMore => self.wait = Wait::Bytes,
            AuthStep::Rejected(failed) => {
                authenticator.delay(failed, env.now());
                self.wait = Wait::Deadline;
            }
            AuthStep::End(end) => self.end(end, env),
            AuthStep::Authenticated { line, rest } => {
                env.send(Message::Authenticated { line });
                self.authenticator = None;
                // The secret was a valid command.
                self.opening.pass();
                let block = self.lines.push(&rest);
                self.deliver(block, env);
            }
        }
    }

    fn deliver(&mut self, block: LineBlock, env: &impl Environment) {
        self.line_deadline = None;
        if block.is_empty() {
            self.on_processed(env);
        } else if let Some(limiter) = &mut self.limiter {
            limiter.hold(block);
            self.deliver_limited(env);
        } else {
            self.wait = Wait::Permit;
            let throttled = false;
            env.send(Message::Lines { block, throttled });
        }
    }

    /// Sends as many of the held lines as the rate allows; if none, it waits for the deadline.
    pub(super) fn deliver_limited(&mut self, env: &impl Environment) {
        let lines = self.limiter.as_mut().and_then(|it| it.next(env.now()));
        self.wait = Wait::Deadline;
        if let Some(lines) = lines {
            self.wait = Wait::Permit;
            env.send(lines);
        }
    }

    /// The coordinator has handled all lines that were read.
    fn on_processed(&mut self, env: &impl Environment) {
        self.touch(env);
        if let Some(end) = self.end {
            return self.end(end, env);
        }
        self.wait = Wait::Bytes;
        if self.lines.is_partial() {
            self.start_line(env);
        }
    }

    pub(super) fn end(&mut self, end: InputEnd, env: &impl Environment) {
        env.send(Message::InputEnd(end));
        self.authenticator = None;
        self.line_deadline = None;
        match end {
            InputEnd::UnreadTimeout => self.finish(Wait::TimedOut),
            InputEnd::ShuttingDown => self.discard(Linger::new(env.now())),
            InputEnd::Eof | InputEnd::IncompleteLine if self.idle.is_some() => {
                self.wait = Wait::Delivery;
            }
            InputEnd::Eof | InputEnd::IncompleteLine => self.finish(Wait::Done),
            _ => self.discard(Linger::with_limit(env.now())),
        }
    }

    fn discard(&mut self, linger: Linger) {
        self.finish(Wait::Discard);
        self.linger = Some(Box::new(linger));
    }

    /// The input has ended: no deadline of it counts any more.
    fn finish(&mut self, wait: Wait) {
        self.wait = wait;
        self.authenticator = None;
        self.limiter = None;
        self.idle = None;
        self.linger = None;
    }
}

#[cfg(test)]
mod tests;
