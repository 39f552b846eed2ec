//! The example client, top and chat as processes.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../examples/common/say.rs"]
mod say;

mod arguments;
mod client;
mod completion;
mod history;
mod lines;
mod terminal;
mod walk;
