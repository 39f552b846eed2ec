//! TLS: configurations for both sides, and a listener around another listener.
//!
//! [`TlsListener`] takes connections from any [`Listener`](crate::Listener) and makes TLS streams of them.
//! [`server_config`] and [`client_config`] make what rustls needs out of [`Pem`] files. The
//! cryptography is ring's, always: what else the program chose for rustls makes no difference.
//!
//! ```no_run
//! use keywire::tls::{Pem, TlsListener, server_config};
//!
//! # futures_lite::future::block_on(async {
//! let (certificate, key) = (Pem::from_file("cert.pem")?, Pem::from_file("key.pem")?);
//! let config = server_config(&certificate, &key, None)?;
//! let listener = TlsListener::new(keywire::bind("localhost:9999").await?, config);
//! let server = keywire::Server::builder().listen(listener).build();
//! # drop(server);
//! # Ok::<(), keywire::Error>(())
//! # }).unwrap();
//! ```
//!
//! And a client:
//!
//! ```no_run
//! use keywire::{Client, tls};
//!
//! # futures_lite::future::block_on(async {
//! let config = tls::client_config(&tls::Pem::from_file("ca.pem")?, None)?;
//! let client = Client::builder().address("localhost:9999").tls(config).connect().await?;
//! client.put("user", "alice").await?;
//! # Ok::<(), keywire::Error>(())
//! # }).unwrap();
//! ```
//!
//! # The handshake
//!
//! The client's own connection task does the handshake, not the listener, so a slow handshake delays
//! nobody. A client in its handshake is a client like any other: it counts as active, and as dropped
//! when it goes. A handshake that takes longer than the
//! [handshake timeout](TlsListener::handshake_timeout) ends the connection. While
//! [the most that may be](TlsListener::max_handshakes) are under way, the next connections wait in the
//! system's backlog.
//!
//! A client whose first byte is text speaks no TLS. It gets a line that it can read,
//! `:error:0:malformed:this port speaks TLS`, and nothing that it sends is applied.
//!
//! # The end of the input
//!
//! TLS distinguishes the end of a client's input from a connection that broke: the client sends
//! `close_notify` first. This server takes an end of input without it for an end like any other,
//! and still sends all replies. Many clients leave it out, and nothing is won by refusing them:
//! commands are whole lines, and were applied when they came; a line that was cut off is not.
//!
//! In the other direction it matters, so the server always sends `close_notify` behind the last
//! reply. If a client did not get it, replies may be missing: the connection broke, the server cut it
//! off, or [`Server::run`](crate::Server::run) was dropped.
//!
//! # A client that does not read
//!
//! Bytes that TLS has encrypted and the socket has not taken are at most one record, 16 KiB. So
//! a socket counts as refusing bytes here when it has not taken the rest of a record for the
//! [stall time](crate::Builder::stall_timeout).

#[cfg(feature = "server")]
mod listener;
mod pem;
#[cfg(feature = "server")]
mod stream;

pub use futures_rustls::{self, TlsConnector, rustls};
pub use pem::{Pem, client_config, server_config};
#[cfg(feature = "server")]
pub use {listener::TlsListener, stream::TlsStream};
