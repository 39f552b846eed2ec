//! The example server as a process.
//!
//! `cargo test --release --test process -- --nocapture` prints the memory that each fault cost.

#![cfg(target_os = "linux")]

#[allow(dead_code)]
#[path = "../../examples/common/address.rs"]
mod address;
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../../examples/server/listen.rs"]
mod listen;
#[allow(dead_code)]
#[path = "../../examples/server/output.rs"]
mod printer;
#[allow(dead_code)]
#[path = "../../examples/server/unix_socket.rs"]
mod unix_socket;

mod environment;
mod faults;
mod limits;
mod limits_store;
mod listening;
mod logs;
mod options;
mod output;
mod programs;
mod service;
mod stopped_clients;
mod stops;
