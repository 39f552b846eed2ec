//! TLS around a listener.

#[path = "../common/mod.rs"]
mod common;

mod certificates;
mod connections;
mod handshakes;

use common::TlsServer;
use keywire::tls::rustls::{ClientConnection, pki_types::ServerName};

/// What a client says first.
pub(crate) fn client_hello(served: &TlsServer) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(served.authority.client(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}
