//! What every part of a server may use: its limits, its counters, its log, its buffers, and the state that
//! handles, listeners and the coordinator share. Nothing here imports from those parts.

pub(crate) mod buffers;
pub(crate) mod histogram;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod state;
pub(crate) mod stats;
