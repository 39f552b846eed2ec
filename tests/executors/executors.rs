//! The library on smol, async-std, tokio and nothing but `block_on`, polled by one thread and by three.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mixed.rs"]
mod mixed;
#[path = "../common/pipe.rs"]
mod pipe;
#[macro_use]
#[path = "../common/executor.rs"]
mod executor;

mod client;
mod client_watch;
mod counts;
mod model;
mod resets;
mod shutdown;
mod slow;
mod squarer;
mod transports;
mod watch;
mod watch_history;
mod watch_slow;
