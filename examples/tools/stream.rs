//! How the client reaches its server.

use std::{
    io::{self, ErrorKind},
    time::Duration,
};

use futures_lite::future;
use keywire::Client;
use smol::{
    Timer,
    net::{TcpStream, unix::UnixStream},
};

/// A connection, whatever it is made of.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(crate) fn client(self) -> Client {
        match self {
            Stream::Tcp(stream) => Client::over(stream),
            Stream::Unix(stream) => Client::over(stream),
        }
    }
}

pub(crate) async fn connect(address: &str, limit: Option<Duration>) -> Result<Stream, String> {
    let connecting = async {
        match address.strip_prefix("unix:") {
            Some("") => Err(io::Error::new(ErrorKind::InvalidInput, "the path is empty")),
            Some(path) => UnixStream::connect(path).await.map(Stream::Unix),
            None => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    };
    let over = async {
        match limit {
            Some(limit) => Timer::after(limit).await,
            None => future::pending().await,
        };
        Err(ErrorKind::TimedOut.into())
    };
    let connected = future::or(connecting, over).await;
    connected.map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => {
            format!("can't connect to {address:?}: {error}; expected HOST:PORT or unix:PATH")
        }
        _ => format!("can't connect to {address}: {error}"),
    })
}
