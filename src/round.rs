//! A round: the commands of many clients, each in its turn, on their way to the store and back.
//!
//! A round gives up to 256 clients one *turn* each. A turn works through its client's *block*, the lines
//! of one read. The store gets the commands of all turns as one [`Batch`](batch::Batch), or several.
//!
//! In: blocks, and the answers of the store. Out: commands for the store, and in each turn the encoded
//! replies. [`overflow`] decides whether a reply is queued or dropped, or its client disconnected.
//! A round touches the counters and the watches; of an outbox it reads the status.

pub(crate) mod batch;
mod overflow;
pub(crate) mod rejection;
mod replies;
pub(crate) mod timer;
pub(crate) mod turn;
