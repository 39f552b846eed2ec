//! What a person is told of a connection that is lost and comes back.

use keywire::ConnectionState;

use crate::say::{reason, say};

/// Says what becomes of the connection to this address, once there was one.
pub(crate) fn announce(address: &str) -> impl FnMut(ConnectionState) + Send + 'static {
    let address = address.to_owned();
    // Why the last attempt failed, once the connection was lost. The same is not said again.
    let mut failure = None;
    move |state| match state {
        ConnectionState::Lost { error } => {
            failure = Some(String::new());
            let why = reason(&error);
            say(format_args!(
                "{address}: connection lost: {why}; reconnecting"
            ));
        }
        ConnectionState::Failed { error } => {
            let why = reason(&error);
            if failure.as_ref().is_some_and(|last| *last != why) {
                say(format_args!("{address}: {why}; trying again"));
                failure = Some(why);
            }
        }
        ConnectionState::Connected { .. } if failure.take().is_some() => {
            say(format_args!("connected again to {address}"));
        }
        _ => {}
    }
}
