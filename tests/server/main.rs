//! The server, by behaviour.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/pipe.rs"]
mod pipe;

mod all_changes;
mod auth;
mod changes;
mod counts;
mod in_process;
mod in_process_lifetime;
mod key_order;
mod late_clients;
mod late_store;
mod limits;
mod listeners;
mod shutdown;
mod slow_store;
mod store;
mod store_shutdown;
mod subscriptions;
mod walks;
mod wire;
