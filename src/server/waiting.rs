//! Lines of a batch that have been read and not been answered yet.

use std::{collections::VecDeque, fmt};

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
}

/// Why a line is not for the store.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    Parse(ParseError),
    TooLong { max: usize },
    TooManyWatches { max: usize },
    Closing,
}

impl Refusal {
    pub(super) fn code(self) -> Code {
        match self {
            Refusal::Parse(error) => error.code(),
            Refusal::TooLong { .. } => Code::TooLong,
            Refusal::TooManyWatches { .. } => Code::Full,
            Refusal::Closing => Code::Closing,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Parse(error) => error.fmt(f),
            Refusal::TooLong { max } => write!(f, "the line is longer than {max} bytes"),
            Refusal::TooManyWatches { max } => {
                write!(
                    f,
                    "this connection watches {max} keys and prefixes, as many as it may"
                )
            }
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
