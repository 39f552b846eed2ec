//! Changes → events for the clients that watch.
//!
//! In: `Watch` and `Unwatch` commands, and each change that was applied. Out: for each watcher, the
//! bytes of its events, in their place among its replies. The [`registry`] knows who watches what;
//! [`events`] holds the events of a round, which are encoded once and shared by all who watch the
//! same. Neither knows of the store or of sockets; of an outbox they see its status only.

pub(crate) mod events;
pub(crate) mod registry;
