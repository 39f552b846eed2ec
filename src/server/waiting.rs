//! Lines of a batch that have been read and not been answered yet.

use std::{collections::VecDeque, fmt};

use super::{Limits, Stats};
use crate::protocol::{Code, ParseError, Topic};

/// A line, and whose it is.
#[derive(Clone, Copy)]
pub(super) struct Waiting<'a> {
    pub(super) turn: usize,
    pub(super) line: u64,
    pub(super) what: What<'a>,
}

/// What has to be answered.
#[derive(Clone, Copy)]
pub(super) enum What<'a> {
    Get {
        key: &'a [u8],
    },
    /// Kept as its line, which is smaller than what it says and seldom looked at again.
    Write {
        line: &'a [u8],
    },
    Sync {
        token: &'a [u8],
    },
    Stats,
    Watch(Topic<'a>),
    Unwatch(Topic<'a>),
    Refused(Refusal),
    /// `Auth`, with the right secret.
    LetIn,
}

/// Why a line was refused. Some say it by a limit, which is looked up when it is said.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
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

impl Refusal {
    pub(super) fn code(self) -> Code {
        match self {
            Refusal::Parse(error) => error.code(),
            Refusal::WrongSecret => Code::Unauthorized,
            Refusal::LongLine | Refusal::LongReply | Refusal::LongPrefix => Code::TooLong,
            Refusal::FullWatches | Refusal::FullStore | Refusal::FullValues => Code::Full,
            Refusal::Closing => Code::Closing,
        }
    }

    pub(super) fn count(self, stats: &mut Stats) {
        match self {
            Refusal::Parse(_) | Refusal::Closing => {}
            Refusal::WrongSecret => stats.unauthorized += 1,
            Refusal::LongLine => stats.long_lines += 1,
            Refusal::LongReply => stats.long_replies += 1,
            Refusal::LongPrefix => stats.long_prefixes += 1,
            Refusal::FullWatches => stats.full_watches += 1,
            Refusal::FullStore => stats.full_store += 1,
            Refusal::FullValues => stats.full_values += 1,
        }
    }

    /// For a person.
    pub(super) fn message(self, limits: &Limits) -> Message<'_> {
        Message(self, limits)
    }
}

pub(super) struct Message<'a>(Refusal, &'a Limits);

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Message(refusal, limits) = self;
        match refusal {
            Refusal::Parse(error) => error.fmt(f),
            Refusal::WrongSecret => f.write_str("that is not the secret"),
            Refusal::LongLine => write!(f, "the line is longer than {} bytes", limits.max_line),
            Refusal::LongReply => write!(f, "the reply is longer than {} bytes", limits.max_reply),
            Refusal::LongPrefix => write!(
                f,
                "the prefix is longer than {} bytes",
                limits.max_watch_prefix
            ),
            Refusal::FullWatches => write!(
                f,
                "this connection may watch {} keys and prefixes, long names counting more",
                limits.max_watches
            ),
            Refusal::FullStore => write!(
                f,
                "the store would hold more than {} bytes",
                limits.max_store
            ),
            Refusal::FullValues => write!(
                f,
                "the key has {} values, as many as it may",
                limits.max_values
            ),
            Refusal::Closing => f.write_str("the server is shutting down"),
        }
    }
}

/// A queue whose first place is at hand: most stores answer a command before they take another.
pub(super) struct Queue<T> {
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
    pub(super) fn push_back(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.push_back(item);
        }
    }

    pub(super) fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(super) fn pop_front(&mut self) -> Option<T> {
        std::mem::replace(&mut self.first, self.rest.pop_front())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }
}
