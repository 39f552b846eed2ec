//! Where the connections of a client come from.
//!
//! In: the number of an address. Out: a transport, or why there is none.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

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
        let (clock, timeout) = (self.clock.clone(), self.timeout);
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let tls = tls.clone();
            return Box::pin(async move {
                let resolved = async_net::resolve(&address[..]).await?;
                let connect = |one| {
                    let (tls, address) = (&tls, &address[..]);
                    async move { tls.connect(address, connect_tcp(&[one]).await?).await }
                };
                first_of(&resolved, &*clock, timeout, connect).await
            });
        }
        Box::pin(async move {
            let resolved = async_net::resolve(&address[..]).await?;
            let connect = |one| async move { connect_tcp(&[one]).await };
            first_of(&resolved, &*clock, timeout, connect).await
        })
    }
}

/// Tries what a name stands for, each for its share of the time, so that a machine that is gone leaves
/// some to the others.
async fn first_of<F>(
    addresses: &[SocketAddr],
    clock: &dyn Clock,
    time: Duration,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<Box<dyn Transport>>
where
    F: Future<Output = io::Result<Box<dyn Transport>>>,
{
    let share = time / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut failure = io::ErrorKind::NotFound.into();
    for &address in addresses {
        let late = async {
            sleep(clock, share).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        match future::or(connect(address), late).await {
            Ok(transport) => return Ok(transport),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_machine_that_is_gone_leaves_time_for_the_others() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let gone = SocketAddr::from(([127, 0, 0, 1], 1));
        let connect = |address| async move {
            if address == gone {
                future::pending::<()>().await;
            }
            connect_tcp(&[address]).await
        };
        let time = Duration::from_millis(500);
        let addresses = [gone, there];
        let first = first_of(&addresses, &SystemClock, time, connect);
        let late = async {
            sleep(&SystemClock, time).await;
            panic!("the time is over");
        };
        future::block_on(future::or(first, late)).unwrap();
    }
}
