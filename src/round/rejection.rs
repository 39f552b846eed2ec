//! Lines of a batch that wait for their answers, and why a line is rejected.

use std::{collections::VecDeque, fmt};

use crate::{
    protocol::{Code, ParseError, Topic},
    shared::{limits::Limits, stats::Stats},
};

/// A line, and whose it is.
#[derive(Clone, Copy)]
pub(crate) struct Waiting<'a> {
    pub(crate) turn: usize,
    pub(crate) line: u64,
    pub(crate) what: What<'a>,
}

/// What has to be answered.
#[derive(Clone, Copy)]
pub(crate) enum What<'a> {
    Get {
        key: &'a [u8],
    },
    /// Only the line is kept: it is smaller than the parsed command, and is parsed again only for
    /// watchers.
    Write {
        line: &'a [u8],
    },
    Sync {
        token: &'a [u8],
    },
    Stats,
    Watch(Topic<'a>),
    Unwatch(Topic<'a>),
    Refused(Rejection),
    /// `Auth`, with the right secret.
    Authenticated,
}

/// Why a line was rejected. Limits in the message are looked up when it is written.
#[derive(Clone, Copy)]
pub(crate) enum Rejection {
    Parse(ParseError),
    WrongSecret,
    LongLine,
    LongReply,
    LongPrefix,
    FullWatches,
    FullStore,
    FullValues,
    Closing,
}

impl Rejection {
    pub(crate) fn code(self) -> Code {
        match self {
            Rejection::Parse(error) => error.code(),
            Rejection::WrongSecret => Code::Unauthorized,
            Rejection::LongLine | Rejection::LongReply | Rejection::LongPrefix => Code::TooLong,
            Rejection::FullWatches | Rejection::FullStore | Rejection::FullValues => Code::Full,
            Rejection::Closing => Code::Closing,
        }
    }

    pub(crate) fn count(self, stats: &mut Stats) {
        match self {
            Rejection::Parse(_) | Rejection::Closing => {}
            Rejection::WrongSecret => stats.unauthorized += 1,
            Rejection::LongLine => stats.long_lines += 1,
            Rejection::LongReply => stats.long_replies += 1,
            Rejection::LongPrefix => stats.long_prefixes += 1,
            Rejection::FullWatches => stats.full_watches += 1,
            Rejection::FullStore => stats.full_store += 1,
            Rejection::FullValues => stats.full_values += 1,
        }
    }

    /// For a person.
    pub(crate) fn message(self, limits: &Limits) -> RejectionMessage<'_> {
        RejectionMessage(self, limits)
    }
}

pub(crate) struct RejectionMessage<'a>(Rejection, &'a Limits);

impl fmt::Display for RejectionMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &RejectionMessage(rejection, limits) = self;
        match rejection {
            Rejection::Parse(error) => error.fmt(f),
            Rejection::WrongSecret => f.write_str("that is not the secret"),
            Rejection::LongLine => write!(f, "the line is longer than {} bytes", limits.max_line),
            Rejection::LongReply => {
                write!(f, "the reply is longer than {} bytes", limits.max_reply)
            }
            Rejection::LongPrefix => write!(
                f,
                "the prefix is longer than {} bytes",
                limits.max_watch_prefix
            ),
            Rejection::FullWatches => write!(
                f,
                "this connection may watch {} keys and prefixes, long names counting more",
                limits.max_watches
            ),
            Rejection::FullStore => write!(
                f,
                "the store would hold more than {} bytes",
                limits.max_store
            ),
            Rejection::FullValues => write!(
                f,
                "the key has {} values, as many as it may",
                limits.max_values
            ),
            Rejection::Closing => f.write_str("the server is shutting down"),
        }
    }
}

/// A queue that keeps its first item inline. Most stores answer a command before they take another, so
/// it seldom allocates.
pub(crate) struct Queue<T> {
    first: Option<T>,
    /// Empty where there is no first.
    rest: VecDeque<T>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            first: None,
            rest: VecDeque::new(),
        }
    }
}

impl<T> Queue<T> {
    pub(crate) fn push_back(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.push_back(item);
        }
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        std::mem::replace(&mut self.first, self.rest.pop_front())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }
}
