//! Clients that come back when their connection is lost, and what a person is told of it.

use keywire::{Client, ClientBuilder, ConnectionState, Error, Secret};

use crate::{say::reason, stream::Dialer};

/// A client of this server. By default it comes back.
pub(crate) fn builder(dialer: Dialer, secret: Option<Secret>) -> ClientBuilder {
    let builder = Client::builder().connector(move || dialer.clone().dial());
    match secret {
        Some(secret) => builder.secret(secret),
        None => builder,
    }
}

/// Tells what becomes of the connection to this address, once there was one.
pub(crate) fn announce(
    address: &str,
    mut tell: impl FnMut(String) + Send + 'static,
) -> impl FnMut(ConnectionState) + Send + 'static {
    let address = address.to_owned();
    // Why the last attempt failed, once the connection was lost. The same is not told again.
    let mut failure = None;
    move |state| match state {
        ConnectionState::Lost { error } => {
            failure = Some(String::new());
            let why = reason(&error);
            tell(format!("{address}: connection lost: {why}; reconnecting"));
        }
        ConnectionState::Failed { error } => {
            let why = reason(&error);
            if failure.as_ref().is_some_and(|last| *last != why) {
                tell(format!("{address}: {why}; trying again"));
                failure = Some(why);
            }
        }
        ConnectionState::Connected { .. } if failure.take().is_some() => {
            tell(format!("connected again to {address}"));
        }
        _ => {}
    }
}

/// An error of a client of this address, for a person.
pub(crate) fn explain(error: Error, address: &str) -> String {
    match error {
        // It says what is wrong with the arguments; there was one command only.
        Error::InvalidArgument { reason, .. } => reason.to_string(),
        Error::Connect(error) => format!("can't connect to {address}: {error}"),
        error => format!("{address}: {}", reason(&error)),
    }
}
