//! The server, by behaviour.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/pipe.rs"]
mod pipe;

mod auth;
mod counts;
mod in_process;
mod in_process_lifetime;
mod limits;
mod listeners;
mod shutdown;
mod slow_store;
mod store;
mod wire;
