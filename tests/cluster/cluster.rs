//! The store on a Redis or Valkey Cluster: what it promises on a real one, whose nodes are killed and
//! stopped, and whose slots move.

// They want processes and signals of this system.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mixed.rs"]
mod mixed;
#[macro_use]
#[allow(dead_code)]
#[path = "../common/executor.rs"]
mod executor;

mod executors;
mod failover;
mod hangs;
mod layout;
mod limits;
mod linear;
mod load;
mod model;
mod moves;
mod nodes;
mod order;
mod outage;
mod program;
mod resharding;
mod resp;
mod servers;
mod subscriptions;
mod tls;
mod walks;
mod watchers;
