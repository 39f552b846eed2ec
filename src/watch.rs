//! Changes → events for the clients that watch.
//!
//! In: topics to watch or unwatch, each write that was applied, and at the end of a round a watcher's
//! replies and the status of its outbox. Out: chunks with the events in their places among the replies,
//! the line that counts missed events, or that the watcher must be disconnected. The [`registry`] has
//! the watchers of each topic; [`events`] holds the events of a round, which are encoded once and shared
//! by all watchers of the same, and decides which are missed. Both touch the counters; neither touches
//! the store, a socket, or an outbox itself.

pub(crate) mod events;
pub(crate) mod registry;
