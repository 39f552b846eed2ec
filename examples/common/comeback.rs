//! What a person is told of a connection that is lost and comes back.

use keywire::ConnectionState;

use crate::say::{reason, say};

/// Says what becomes of the connection to this address, once there was one.
pub(crate) fn announce(address: &str) -> impl FnMut(ConnectionState) + Send + 'static {
    let address = address.to_owned();
    let mut was_lost = false;
    move |state| match state {
        ConnectionState::Lost { error } => {
            was_lost = true;
            let why = reason(&error);
            say(format_args!(
                "{address}: connection lost: {why}; reconnecting"
            ));
        }
        ConnectionState::Connected { .. } if was_lost => {
            was_lost = false;
            say(format_args!("connected again to {address}"));
        }
        _ => {}
    }
}
