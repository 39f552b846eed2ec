//! How the tools reach their server.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use futures_lite::{AsyncRead, AsyncWrite, future};
use keywire::Secret;
use smol::{
    Timer,
    net::{TcpStream, unix::UnixStream},
};
use socket2::{SockRef, TcpKeepalive};

use crate::{
    address::{Address, Kind},
    say::reason,
};

#[path = "plain.rs"]
mod plain;
#[path = "tls.rs"]
mod tls;

use plain::Plain;

/// How long a server may be silent before the system asks for a sign of life, and how it asks: one
/// whose machine is gone is found out after two minutes.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4)
}

/// A connection, whatever it is made of. Closed, it says that no more commands will come; replies
/// still do.
pub(crate) type Stream = Box<dyn Connection>;

pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Where the server is.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// The server: HOST:PORT, PORT on this machine, or unix:PATH
    #[arg(
        long = "connect",
        value_name = "ADDR",
        default_value = "127.0.0.1:9999",
        global = true
    )]
    pub(crate) address: Address,
    /// Speak TLS with a server for which an authority in this PEM file vouches
    #[arg(long, value_name = "FILE", global = true)]
    tls_ca: Option<PathBuf>,
    /// The name in the server's certificate [default: the host of --connect]
    #[arg(long, value_name = "NAME", global = true)]
    tls_name: Option<String>,
    /// The certificate to show to the server, a PEM file
    // A server's own certificate is in the variable that the name would give.
    #[arg(
        long,
        value_name = "FILE",
        env = "KEYWIRE_CLIENT_TLS_CERT",
        global = true
    )]
    tls_cert: Option<PathBuf>,
    /// The key that belongs to this certificate, a PEM file
    #[arg(
        long,
        value_name = "FILE",
        env = "KEYWIRE_CLIENT_TLS_KEY",
        global = true
    )]
    tls_key: Option<PathBuf>,
    /// A file with the secret that the server requires
    #[arg(long, value_name = "FILE", global = true)]
    secret_file: Option<PathBuf>,
}

impl Target {
    /// The secret that the server requires.
    pub(crate) fn secret(&self) -> Result<Option<Secret>, String> {
        let secret = self.secret_file.as_ref().map(Secret::from_file).transpose();
        secret.map_err(|error| reason(&error))
    }
}

/// Makes connections to a server, one after the other.
#[derive(Clone)]
pub(crate) struct Dialer {
    address: Address,
    tls: Option<tls::Tls>,
}

impl Dialer {
    /// Fails if the options make no sense, whether there is a server or not.
    pub(crate) fn new(target: &Target) -> Result<Self, String> {
        Ok(Self {
            address: target.address.clone(),
            tls: tls::Tls::new(target)?,
        })
    }

    pub(crate) async fn dial(self) -> io::Result<Stream> {
        let stream: Stream = match &self.address.kind {
            Kind::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Kind::Tcp(host, port) => {
                let host = host.as_deref().unwrap_or("localhost");
                let stream = TcpStream::connect((host, *port)).await?;
                stream.set_nodelay(true)?;
                SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
                Box::new(stream)
            }
        };
        match self.tls {
            Some(tls) => tls.over(stream).await,
            None => Ok(Box::new(Plain::new(stream))),
        }
    }

    /// The same, for as long as it may take.
    pub(crate) async fn dial_within(&self, limit: Option<Duration>) -> Result<Stream, String> {
        let over = async {
            match limit {
                Some(limit) => Timer::after(limit).await,
                None => future::pending().await,
            };
            Err(ErrorKind::TimedOut.into())
        };
        let connected = future::or(self.clone().dial(), over).await;
        connected.map_err(|error| format!("can't connect to {}: {error}", self.address))
    }
}
