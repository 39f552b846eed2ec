//! What sessions tell the coordinator.

use std::io;

use super::session::Foreign;
use crate::protocol::LineBlock;

/// News of one client for the coordinator.
///
/// The channel that carries them has no bound of its own. A session has at most one of each kind
/// on its way, so the number of clients bounds it.
pub(super) struct Event {
    pub(super) client: usize,
    pub(super) message: Message,
}

pub(super) enum Message {
    /// The lines of one read, or a part of them.
    Lines {
        block: LineBlock,
        /// They had to wait for the client's rate.
        throttled: bool,
    },
    /// The outbox has room again, or the socket refuses bytes.
    Resume,
    /// The client has said the secret, in this line.
    LetIn { line: u64 },
    /// It has said something else, and may try again.
    NotLetIn(NotLetIn),
    /// The client may send no more.
    End(End),
    /// The session is over and the connection closed.
    Left {
        /// What broke it.
        error: Option<io::Error>,
    },
}

/// A line that was not the secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotLetIn {
    pub(super) line: u64,
    /// It was another secret.
    pub(super) wrong: bool,
}

impl NotLetIn {
    /// For a person.
    pub(super) fn message(self) -> &'static str {
        match self.wrong {
            true => "that is not the secret",
            false => "first say Auth:secret",
        }
    }
}

/// Why a client's input ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// The client sends no more.
    Eof,
    /// The same, within a line.
    Partial,
    /// The server is closing.
    Closing,
    /// Nothing moved for too long.
    Idle,
    /// The same, after the client had ended its input: its replies stand in the way of more words.
    Unread,
    /// A line took too long.
    SlowLine,
    /// The peer speaks another protocol.
    Foreign { foreign: Foreign, line: u64 },
    /// The last chance to say the secret was missed.
    NotLetIn(NotLetIn),
    /// The time for the secret is over.
    Late,
}
