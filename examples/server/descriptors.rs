//! File descriptors, without which a start fails in places that can't say what is missing.

use std::{io, os::fd::AsFd as _};

/// async-io panics if it can't open these.
const WAITING: usize = 3;
/// A pair of sockets, and one for each of three signals.
const SIGNALS: usize = 2 + 3;
/// The epoll of the clients, and a client.
const CLIENTS: usize = 2;

/// Whether a server that listens in so many places can open what it needs.
pub(crate) fn check(listeners: usize) -> Result<(), String> {
    let needed = WAITING + SIGNALS + CLIENTS + listeners;
    let mut open = Vec::new();
    while open.len() < needed {
        match io::stdin().as_fd().try_clone_to_owned() {
            Ok(descriptor) => open.push(descriptor),
            Err(error) => {
                let got = open.len();
                drop(open);
                return Err(format!(
                    "the server needs {needed} more file descriptors and can open {got}: \
                     {WAITING} to wait for sockets and timers, {SIGNALS} for signals, \
                     {listeners} to listen, {CLIENTS} for clients: {error}"
                ));
            }
        }
    }
    Ok(())
}
