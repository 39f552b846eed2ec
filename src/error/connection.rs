//! What ends a connection of a client.

use std::{io, sync::Arc};

use super::Error;
use crate::protocol::Code;

/// What ended a client's connection. Every call that waits gets a copy.
#[derive(Clone, Debug)]
pub(crate) enum ConnectionError {
    /// No connection could be made.
    Connect(Arc<io::Error>),
    Refused {
        code: Code,
        message: String,
    },
    Disconnected(Option<Arc<io::Error>>),
    Protocol(&'static str),
}

impl ConnectionError {
    /// For a command that was sent: a refusal is not one of the command itself, but of the fence
    /// behind it, or of everything that follows.
    pub(crate) fn unconfirmed(self) -> Error {
        match self {
            ConnectionError::Refused { code, message } => Error::Unconfirmed { code, message },
            other => other.into(),
        }
    }
}

impl Error {
    /// The reason why something was never sent.
    pub(crate) fn not_sent(self) -> Self {
        match self {
            reason if reason.may_be_applied() => Error::NotSent(reason.into()),
            reason => reason,
        }
    }
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        // TLS without its `close_notify` is an end of the stream like any other, since lines are framed.
        let cause = (error.kind() != io::ErrorKind::UnexpectedEof).then(|| Arc::new(error));
        ConnectionError::Disconnected(cause)
    }
}

impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Self {
        match error {
            // It says itself that the command may be applied.
            error @ ConnectionError::Refused {
                code: Code::Unconfirmed,
                ..
            } => error.unconfirmed(),
            ConnectionError::Refused { code, message } => Error::Refused { code, message },
            ConnectionError::Connect(source) => Error::Connect(match source.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(source.kind(), source),
            }),
            ConnectionError::Disconnected(source) => Error::Disconnected(source),
            ConnectionError::Protocol(reason) => Error::Protocol(reason),
        }
    }
}
