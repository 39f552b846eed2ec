//! Where the connections of a client come from.
//!
//! In: the number of an address. Out: a transport, or why there is none.

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use futures_lite::future;

use crate::{
    Clock,
    clock::sleep,
    transport::{Transport, connect::connect_tcp},
};

/// An attempt. Dropping it leaves nothing.
pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Transport>>> + Send>>;

pub(super) struct Connector {
    pub(super) targets: Vec<Target>,
    pub(super) timeout: Duration,
    pub(super) clock: Arc<dyn Clock>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<super::tls::TlsOptions>,
}

/// One of the places where the server may be.
pub(super) enum Target {
    /// `HOST:PORT`
    Tcp(String),
    Own(Box<dyn Fn() -> Connecting + Send + Sync>),
}

impl Connector {
    pub(super) fn name(&self, index: usize) -> String {
        match self.targets.get(index) {
            Some(Target::Tcp(address)) => address.clone(),
            _ => "connector".into(),
        }
    }

    /// Whether this is a socket, with nothing around it that keeps bytes back.
    pub(super) fn is_socket(&self, index: usize) -> bool {
        #[cfg(feature = "tls")]
        if self.tls.is_some() {
            return false;
        }
        matches!(self.targets.get(index), Some(Target::Tcp(_)))
    }

    /// Attempts a connection, for as long as one may take.
    pub(super) fn connect(&self, index: usize) -> Connecting {
        let connecting = match self.targets.get(index) {
            Some(Target::Tcp(address)) => self.connect_tcp(address.clone()),
            Some(Target::Own(connect)) => connect(),
            None => Box::pin(async { connect_tcp(&[]).await }),
        };
        let (clock, timeout) = (self.clock.clone(), self.timeout);
        let late = async move {
            sleep(&*clock, timeout).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        Box::pin(future::or(connecting, late))
    }

    fn connect_tcp(&self, address: String) -> Connecting {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let tls = tls.clone();
            return Box::pin(async move {
                let addresses = async_net::resolve(&address[..]).await?;
                tls.connect(&address, connect_tcp(&addresses).await?).await
            });
        }
        Box::pin(async move {
            let addresses = async_net::resolve(&address[..]).await?;
            connect_tcp(&addresses).await
        })
    }
}
