//! What holds for any input.

#[allow(dead_code, unreachable_pub)]
#[path = "../common/model.rs"]
mod model;
#[allow(unreachable_pub)]
#[path = "../common/script.rs"]
mod script;
#[allow(dead_code, unreachable_pub)]
#[path = "../common/scripted.rs"]
mod scripted;

mod client;
mod protocol;
mod snapshot;
mod squarer;
mod wire;
