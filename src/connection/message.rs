//! Messages from a connection to the coordinator.

use std::io;

use super::other_protocol::OtherProtocol;
use crate::protocol::LineBlock;

/// A message of one client.
///
/// The channel that carries them has no bound of its own. A session has at most one of each kind
/// on its way, so the number of clients bounds it.
pub(crate) struct FromConnection {
    pub(crate) client: usize,
    pub(crate) message: Message,
}

pub(crate) enum Message {
    /// The lines of one read, or a part of them.
    Lines {
        block: LineBlock,
        /// They had to wait for the client's rate.
        throttled: bool,
    },
    /// The outbox has room again, or the socket refuses bytes.
    OutboxReady,
    /// The client has said the secret, in this line.
    Authenticated { line: u64 },
    /// It has said something else, and may try again.
    AuthFailed(AuthFailed),
    /// The client may send no more.
    InputEnd(InputEnd),
    /// The session is over and the connection closed.
    Disconnected {
        /// What broke it.
        error: Option<io::Error>,
    },
}

/// A line that was not the secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuthFailed {
    pub(crate) line: u64,
    /// It was another secret.
    pub(crate) wrong: bool,
}

impl AuthFailed {
    /// For a person.
    pub(crate) fn message(self) -> &'static str {
        match self.wrong {
            true => "that is not the secret",
            false => "first say Auth:secret",
        }
    }
}

/// Why a client's input ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum InputEnd {
    /// The client sends no more.
    Eof,
    /// The same, within a line.
    IncompleteLine,
    /// The server is closing.
    ShuttingDown,
    /// Nothing moved for too long.
    IdleTimeout,
    /// The same, after the client had ended its input: its replies stand in the way of more words.
    UnreadTimeout,
    /// A line took too long.
    LineTimeout,
    /// The peer speaks another protocol.
    OtherProtocol { protocol: OtherProtocol, line: u64 },
    /// The last chance to say the secret was missed.
    AuthFailed(AuthFailed),
    /// The time for the secret is over.
    AuthTimeout,
}
