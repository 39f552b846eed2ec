//! What a client says of its connection.

use std::sync::OnceLock;

use crate::{Error, error::ConnectionError, lock::Lock};

/// What the callers see of a session while it is away, or over.
#[derive(Default)]
pub(super) struct Condition {
    /// What ended the last connection.
    pub(super) end: OnceLock<ConnectionError>,
    /// Why there is no connection for now.
    pub(super) away: Lock<Option<ConnectionError>>,
}

/// What has become of the connection of a client that comes back by itself. See
/// [`ClientBuilder::on_connection`](crate::ClientBuilder::on_connection).
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectionState {
    /// There is a connection, and the server has answered on it.
    Connected {
        /// The address as it was given to the builder; `connector` for a
        /// [connector](crate::ClientBuilder::connector).
        address: String,
    },
    /// The connection is lost. Another is attempted while some task waits for one.
    Lost {
        /// Why.
        error: Error,
    },
    /// An attempt has failed. The next follows.
    Failed {
        /// Why.
        error: Error,
    },
    /// The connection is lost, or was not made, and no other is attempted: for instance because the
    /// server refuses the secret. It is not heard after [`Client::close`](crate::Client::close).
    Ended {
        /// Why.
        error: Error,
    },
}
