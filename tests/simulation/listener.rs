//! A listener that brings connections in, and fails to now and then.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    sync::{Arc, Mutex},
    task::{Poll, Waker},
};

use crate::{
    network::End,
    world::{Action, World, lock},
};

/// A door that brings connections in, and fails to now and then.
pub(crate) struct Door {
    world: World,
    porch: Arc<Mutex<Porch>>,
}

/// Where connections wait to be accepted.
#[derive(Default)]
pub(crate) struct Porch {
    waiting: VecDeque<End>,
    waker: Option<Waker>,
    closed: bool,
    /// Connections that were not accepted in time.
    late: u64,
    errors: u64,
}

impl Door {
    pub(crate) fn new(world: &World) -> (Self, Arc<Mutex<Porch>>) {
        let porch = Arc::<Mutex<Porch>>::default();
        let door = Door {
            world: world.clone(),
            porch: porch.clone(),
        };
        (door, porch)
    }
}

impl Porch {
    /// Says whether the door was open.
    pub(crate) fn knock(porch: &Mutex<Self>, end: End, world: &World) -> bool {
        let mut porch = lock(porch);
        if porch.closed {
            drop(porch);
            drop(end);
            return false;
        }
        porch.waiting.push_back(end);
        if let Some(waker) = porch.waker.take() {
            world.act(Action::Wake(waker));
        }
        true
    }

    pub(crate) fn waiting(porch: &Mutex<Self>) -> usize {
        lock(porch).waiting.len()
    }

    /// Connections that came and were not accepted.
    pub(crate) fn late(porch: &Mutex<Self>) -> u64 {
        lock(porch).late
    }

    /// How often the door has failed.
    pub(crate) fn errors(porch: &Mutex<Self>) -> u64 {
        lock(porch).errors
    }
}

impl keywire::Listener for Door {
    type Connection = End;

    async fn accept(&mut self) -> io::Result<(End, Option<std::net::IpAddr>)> {
        poll_fn(|cx| {
            let fails = self.world.once_in(8);
            let mut porch = lock(&self.porch);
            if fails {
                porch.errors += 1;
                return Poll::Ready(Err(io::Error::other("no descriptor")));
            }
            if let Some(end) = porch.waiting.pop_front() {
                return Poll::Ready(Ok((end, None)));
            }
            porch.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut porch = lock(&self.porch);
        porch.closed = true;
        porch.waker = None;
        let waiting = std::mem::take(&mut porch.waiting);
        porch.late = waiting.len() as u64;
        drop(porch);
        drop(waiting);
    }
}
