//! Connections on their way to the coordinator.

use std::{net::IpAddr, sync::Arc};

use async_channel::{Receiver, Sender};

use crate::{
    Error,
    connection::{Transport, epoll::Reactor, peer::Peer},
};

/// Connections that have been accepted and not yet received by the coordinator. Beyond this, they
/// wait in the system's backlog.
const INCOMING_CAPACITY: usize = 64;

/// A connection that has been accepted.
pub(crate) struct Incoming {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) peer: Option<Arc<Peer>>,
    pub(crate) address: Option<IpAddr>,
    /// It needs no secret: it is the program's own.
    pub(crate) authenticated: bool,
}

/// Where listeners and handles put connections.
#[derive(Clone)]
pub(crate) struct IncomingSender {
    sender: Sender<Incoming>,
    reactor: Arc<Reactor>,
}

impl IncomingSender {
    pub(crate) fn new(reactor: Arc<Reactor>) -> (Self, Receiver<Incoming>) {
        let (sender, receiver) = async_channel::bounded(INCOMING_CAPACITY);
        (Self { sender, reactor }, receiver)
    }

    /// A connection from elsewhere. Waits while the queue is full.
    pub(crate) async fn send<T: Transport + 'static>(
        &self,
        transport: T,
        address: Option<IpAddr>,
    ) -> Result<(), Error> {
        let peer = self.reactor.peers.register(&transport);
        let transport = self.reactor.register(transport);
        self.enqueue(Incoming {
            transport,
            address,
            peer,
            authenticated: false,
        })
        .await
    }

    /// Waits while the queue is full.
    pub(crate) async fn enqueue(&self, incoming: Incoming) -> Result<(), Error> {
        let sent = self.sender.send(incoming);
        sent.await.map_err(|_| Error::Closed)
    }
}
