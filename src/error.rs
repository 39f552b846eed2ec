#[cfg(feature = "client")]
mod connection;

use std::{error::Error as StdError, fmt, io, sync::Arc};

use crate::protocol::Code;

#[cfg(feature = "client")]
pub(crate) use connection::ConnectionError;

/// What can go wrong in this crate.
///
/// On the server's side, a client's mistakes are no errors of this kind: they are answered on its
/// connection, and [`Client`](crate::Client) makes errors of these answers.
///
/// `Display` is one line that contains the cause. `source()` returns the cause of that cause, so a
/// printed chain says nothing twice. The cause itself is in the variant.
///
/// ```
/// use std::error::Error as _;
///
/// let error = keywire::Error::store("the disk is full");
/// assert_eq!(error.to_string(), "the store failed: the disk is full");
/// assert!(error.source().is_none());
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A listening socket could not be made.
    Listen(io::Error),
    /// The server has shut down, or is doing so.
    Closed,
    /// The store failed to apply a command.
    Store(Box<dyn StdError + Send + Sync>),
    /// A secret that no line could carry, or that could not be read.
    Secret(
        /// What is wrong with it.
        String,
    ),
    /// A client could not reach its server.
    Connect(io::Error),
    /// A client got an argument that no line can carry. Nothing was sent.
    #[non_exhaustive]
    InvalidArgument {
        /// The index of the command in the pipeline, from 0; 0 for a call on its own.
        command: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server refused a client's command, and did not apply it. Or it refused the whole
    /// connection; then every command that waited has this error, and the connection is over.
    #[non_exhaustive]
    Refused {
        /// What kind of refusal it is.
        code: Code,
        /// The server's message.
        message: String,
    },
    /// The server took a client's command and does not say that it is applied: it may or may not
    /// be. With [`Code::Unconfirmed`], the store itself does not know, and the connection goes on.
    /// With any other code, the server refused the fence behind the command, as it may at its
    /// shutdown.
    #[non_exhaustive]
    Unconfirmed {
        /// What kind of refusal it is.
        code: Code,
        /// The server's message.
        message: String,
    },
    /// The server dropped replies to a client that did not read in time, so this read has no
    /// answer. That says nothing of the key. Of a [`Walk`](crate::Walk) that was not polled in time,
    /// the client drops lines too.
    #[non_exhaustive]
    RepliesDropped {
        /// How many lines were dropped.
        lines: u64,
    },
    /// A snapshot is not the state of the store: changes of its keys were lost, because this
    /// connection did not keep up with them. It has to be read again.
    #[non_exhaustive]
    ChangesMissed {
        /// How many changes were lost; 0 if that is unknown. If the connection did not keep up, this
        /// counts the changes of everything that it watches.
        changes: u64,
    },
    /// A client's connection is over, or was lost under this call. What was sent may or may not have been
    /// applied.
    Disconnected(
        /// The transport's own error, if there was one.
        Option<Arc<io::Error>>,
    ),
    /// A client's call failed before anything of it was sent, for this reason. It is not applied, and
    /// may be repeated. (A refusal says by itself that a command is not applied, and stands alone.)
    NotSent(
        /// Why it was not sent.
        Box<Error>,
    ),
    /// The server sent a line that no keywire server sends here. The connection is over: the lines
    /// that follow can't be matched to commands any more.
    Protocol(
        /// The kind of line.
        &'static str,
    ),
    /// A client's call took longer than its [time limit](crate::Client::with_timeout). It may or may not
    /// be applied.
    TimedOut,
    /// A certificate or a key is of no use.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[non_exhaustive]
    Tls {
        /// Which: the name of its [`Pem`](crate::tls::Pem).
        what: String,
        /// What is wrong with it.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    /// A failure of a store, from a message or from any other error.
    ///
    /// ```
    /// let error = keywire::Error::store("the disk is full");
    /// assert!(matches!(error, keywire::Error::Store(_)));
    /// ```
    ///
    /// The text of `reason` goes to the client whose command failed, so it must hold nothing that a
    /// client must not see.
    pub fn store(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Error::Store(reason.into())
    }

    /// Whether the connection of the client is over, or about to be because the server is shutting
    /// down. Every later call on this client fails as well, so it takes a new one; unless the client
    /// [comes back](crate::ClientBuilder#a-client-that-comes-back) by itself.
    ///
    /// `false` is no promise. A server may also end a connection with another refusal, such as the third
    /// wrong secret; the next call on that client fails with the same refusal.
    ///
    /// ```
    /// assert!(keywire::Error::Disconnected(None).is_disconnected());
    /// assert!(!keywire::Error::TimedOut.is_disconnected());
    /// ```
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        match self {
            Error::Disconnected(_) | Error::Protocol(_) => true,
            Error::Refused { code, .. } | Error::Unconfirmed { code, .. } => *code == Code::Closing,
            Error::NotSent(reason) => reason.is_disconnected(),
            _ => false,
        }
    }

    /// Whether a write that failed so may have been applied all the same. If not, it may be repeated
    /// without the risk that it is applied twice.
    ///
    /// ```
    /// assert!(keywire::Error::TimedOut.may_be_applied());
    /// let never = keywire::Error::NotSent(keywire::Error::TimedOut.into());
    /// assert!(!never.may_be_applied());
    /// ```
    #[must_use]
    pub fn may_be_applied(&self) -> bool {
        match self {
            Error::Unconfirmed { .. }
            | Error::Disconnected(_)
            | Error::Protocol(_)
            | Error::TimedOut => true,
            Error::Refused { code, .. } => *code == Code::Unconfirmed,
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Listen(source) => write!(f, "can't listen: {source}"),
            Error::Closed => f.write_str("the server is closed"),
            Error::Store(source) => write!(f, "the store failed: {source}"),
            Error::Secret(reason) => write!(f, "no secret: {reason}"),
            Error::Connect(source) => write!(f, "can't connect: {source}"),
            Error::InvalidArgument { command, reason } => {
                write!(f, "command {command} can't be sent: {reason}")
            }
            Error::Refused { code, message } => write!(f, "the server refused ({code}): {message}"),
            Error::Unconfirmed { code, message } => write!(
                f,
                "the server did not confirm it ({code}): {message}; it may or may not be applied"
            ),
            Error::RepliesDropped { lines } => {
                write!(
                    f,
                    "{lines} lines of the reply were dropped, because nobody read them in time"
                )
            }
            Error::ChangesMissed { changes: 0 } => {
                f.write_str("changes were missed, so the snapshot has to be read again")
            }
            Error::ChangesMissed { changes } => {
                write!(
                    f,
                    "{changes} changes were missed, so the snapshot has to be read again"
                )
            }
            Error::Disconnected(None) => f.write_str("the connection is over"),
            Error::Disconnected(Some(source)) => write!(f, "the connection is over: {source}"),
            Error::NotSent(reason) => write!(f, "nothing was sent: {reason}"),
            Error::Protocol(what) => write!(f, "the server broke the protocol: {what}"),
            Error::TimedOut => f.write_str("the time limit is over"),
            #[cfg(feature = "tls")]
            Error::Tls { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl StdError for Error {
    /// The cause of the cause that `Display` shows.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Listen(cause) | Error::Connect(cause) => cause.source(),
            Error::Store(cause) => cause.source(),
            Error::Disconnected(Some(cause)) => cause.source(),
            Error::NotSent(reason) => reason.source(),
            #[cfg(feature = "tls")]
            Error::Tls { source, .. } => source.source(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a cause, each of which says only its own part.
    #[derive(Debug)]
    struct Level(&'static str, Option<Box<Level>>);

    impl fmt::Display for Level {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl StdError for Level {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    /// As one prints it for a person, with everything that is behind it.
    fn chain(error: &Error) -> String {
        let mut all = vec![error.to_string()];
        let mut next = error.source();
        while let Some(error) = next {
            all.push(error.to_string());
            next = error.source();
        }
        all.join(": ")
    }

    #[test]
    fn a_printed_chain_says_everything_once() {
        let cause = || Level("upper", Some(Box::new(Level("lower", None))));
        let io = || io::Error::other(cause());
        let errors = [
            (Error::Listen(io()), "can't listen: upper: lower"),
            (Error::Connect(io()), "can't connect: upper: lower"),
            (Error::store(cause()), "the store failed: upper: lower"),
            (
                Error::Disconnected(Some(Arc::new(io()))),
                "the connection is over: upper: lower",
            ),
            #[cfg(feature = "tls")]
            (
                Error::Tls {
                    what: "a key".into(),
                    source: Box::new(cause()),
                },
                "a key: upper: lower",
            ),
            (Error::Closed, "the server is closed"),
        ];
        for (error, expected) in errors {
            assert_eq!(chain(&error), expected);
        }
        let plain = io::Error::from(io::ErrorKind::AddrInUse);
        let message = plain.to_string();
        assert_eq!(
            chain(&Error::Listen(plain)),
            format!("can't listen: {message}")
        );
    }
}
