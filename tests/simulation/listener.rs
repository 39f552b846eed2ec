//! A listener that brings connections in, and fails to now and then.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use crate::{
    network::Endpoint,
    world::{Action, World, lock},
};

/// A listener that brings connections in, and fails to now and then.
pub(crate) struct FailingListener {
    world: World,
    queue: Arc<Mutex<AcceptQueue>>,
}

/// Where connections wait to be accepted.
#[derive(Default)]
pub(crate) struct AcceptQueue {
    waiting: VecDeque<Endpoint>,
    waker: Option<Waker>,
    closed: bool,
    /// Connections that were not accepted in time.
    late: u64,
    errors: u64,
}

impl FailingListener {
    pub(crate) fn new(world: &World) -> (Self, Arc<Mutex<AcceptQueue>>) {
        let queue = Arc::<Mutex<AcceptQueue>>::default();
        let listener = FailingListener {
            world: world.clone(),
            queue: queue.clone(),
        };
        (listener, queue)
    }
}

impl AcceptQueue {
    /// Says whether the listener was open.
    pub(crate) fn push(queue: &Mutex<Self>, end: Endpoint, world: &World) -> bool {
        let mut queue = lock(queue);
        if queue.closed {
            drop(queue);
            drop(end);
            return false;
        }
        queue.waiting.push_back(end);
        if let Some(waker) = queue.waker.take() {
            world.act(Action::Wake(waker));
        }
        true
    }

    pub(crate) fn waiting(queue: &Mutex<Self>) -> usize {
        lock(queue).waiting.len()
    }

    /// Connections that came and were not accepted.
    pub(crate) fn late(queue: &Mutex<Self>) -> u64 {
        lock(queue).late
    }

    /// How often the listener has failed.
    pub(crate) fn errors(queue: &Mutex<Self>) -> u64 {
        lock(queue).errors
    }
}

impl keywire::Listener for FailingListener {
    type Connection = Endpoint;

    async fn accept(&mut self) -> io::Result<(Endpoint, Option<std::net::IpAddr>)> {
        poll_fn(|cx| {
            let fails = self.world.once_in(8);
            let mut queue = lock(&self.queue);
            if fails {
                queue.errors += 1;
                return Poll::Ready(Err(io::Error::other("no descriptor")));
            }
            if let Some(end) = queue.waiting.pop_front() {
                return Poll::Ready(Ok((end, None)));
            }
            queue.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for FailingListener {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.waker = None;
        let waiting = std::mem::take(&mut queue.waiting);
        queue.late = waiting.len() as u64;
        drop(queue);
        drop(waiting);
    }
}
