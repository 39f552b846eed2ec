//! Without epoll, each transport waits in its own way.

use std::any::Any;

use super::Transport;

pub(crate) struct Reactor {
    pub(crate) peers: Peers,
}

impl Reactor {
    pub(crate) fn new() -> Self {
        Self { peers: Peers }
    }

    pub(crate) fn register<T: Transport + 'static>(&self, transport: T) -> Box<dyn Transport> {
        Box::new(transport)
    }

    pub(crate) async fn run(&self) {
        std::future::pending().await
    }

    pub(crate) fn poll_all_events(&self) {}
}

pub(crate) struct Peers;

impl Peers {
    pub(crate) fn register(&self, _: &dyn Any) -> Option<std::sync::Arc<super::peer::Peer>> {
        None
    }
}
