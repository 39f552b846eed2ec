//! The client.

#[path = "../common/mod.rs"]
mod common;

mod attempts;
mod calls;
mod comes_back;
mod connection;
mod framing;
mod in_doubt;
mod mirror;
mod prefix;
mod protocol_errors;
mod restarts;
mod sharing;
mod snapshot;
mod walk;
mod watch;
mod watch_server;

use common::{
    DEADLINE, TestServer,
    scripted::{self, ScriptedServer},
};
use keywire::{Client, store::Store};

async fn connect<S: Store>(server: &TestServer<S>) -> Client {
    let client = Client::connect(server.address).await.unwrap();
    client.with_timeout(DEADLINE)
}

/// A client whose server answers the first `Sync`, whatever came before it, with these lines.
/// TOKEN stands for its token.
fn with_fences(lines: &'static str) -> (Client, ScriptedServer) {
    let mut spent = false;
    let (stream, server) = scripted::pair(move |line, out| {
        if let Some(token) = line.strip_prefix("Sync:").filter(|_| !spent) {
            spent = true;
            *out += &lines.replace("TOKEN", token);
        }
    });
    (Client::from_stream(stream), server)
}
