//! Why a line is rejected.

use std::fmt;

use crate::{
    protocol::{Code, ParseError},
    shared::{limits::Limits, stats::TurnStats},
};

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

    pub(crate) fn count(self, stats: &mut TurnStats) {
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
