//! The server, by behaviour.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/pipe.rs"]
mod pipe;

mod auth;
mod changes;
mod counts;
mod key_order;
mod limits;
mod listeners;
mod shutdown;
mod slow_store;
mod store;
mod walks;
mod wire;
