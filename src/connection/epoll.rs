//! Sockets on Linux: one edge-triggered epoll for all clients of a server.
//!
//! In: the sockets of new clients, and the events of the system. Out: a [`Transport`] for each socket,
//! whose task is woken by its events. Nothing else of the server is touched.
//!
//! async-io registers a socket anew for every wait, which is a system call a request; and if its own
//! thread has the events, waking the server is a change of threads a request. Here a socket is
//! registered once, for its whole life. The epoll is itself something to wait for, so the server
//! waits with async-io for events of all its sockets at once, and only when it has nothing else to do.

use std::{
    any::Any,
    io::{self, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, MutexGuard, OnceLock},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_io::{Async, Timer};
use async_net::{TcpStream, unix::UnixStream};
use event_listener::Event as Notify;
use futures_lite::{AsyncRead, AsyncWrite, future};
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, EventData, EventFlags},
};
use slab::Slab;
use socket2::SockRef;

use super::{Transport, peer::Peers};
use crate::lock::Lock;

/// Sockets that one poll brings events of.
const EVENTS_PER_POLL: usize = 256;

/// The time to the next poll if async-io can't wait, such as for want of memory.
const FALLBACK_INTERVAL: Duration = Duration::from_millis(5);

pub(crate) struct Reactor {
    pub(crate) peers: Peers,
    /// Made for the first socket.
    epoll: OnceLock<Async<OwnedFd>>,
    created: Notify,
    sockets: Lock<Slab<Readiness>>,
}

/// What is known of one socket.
#[derive(Default)]
struct Readiness {
    /// A read may find something. An event sets it, and a reader clears it *before* it reads, so that
    /// an event during the read is not lost.
    readable: bool,
    /// A short read may not have been the last there was: the peer has hung up, after which there are
    /// no more events, or it has sent urgent data, at which a read stops.
    read_to_end: bool,
    /// A write has found no room.
    write_blocked: bool,
    /// The one task that reads and writes.
    waker: Option<Waker>,
}

impl Readiness {
    /// Says whether the task has to be woken.
    fn on_event(&mut self, flags: EventFlags) -> bool {
        let over = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        let urgent = flags.contains(EventFlags::PRI);
        let readable = over || urgent || flags.contains(EventFlags::IN);
        let room = self.write_blocked && (over || flags.contains(EventFlags::OUT));
        self.read_to_end |= over || urgent;
        self.readable |= readable;
        self.write_blocked &= !room;
        readable || room
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &self.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => self.waker = Some(cx.waker().clone()),
        }
    }
}

impl Reactor {
    pub(crate) fn new() -> Self {
        Self {
            peers: Peers::default(),
            epoll: OnceLock::new(),
            created: Notify::new(),
            sockets: Lock::default(),
        }
    }

    fn sockets(&self) -> MutexGuard<'_, Slab<Readiness>> {
        self.sockets.lock()
    }

    /// The transport of a new client. A plain socket is waited for here, anything else in its own way.
    pub(crate) fn register<T>(self: &Arc<Self>, transport: T) -> Box<dyn Transport>
    where
        T: Transport + 'static,
    {
        let any: &dyn Any = &transport;
        let socket = if let Some(stream) = any.downcast_ref::<TcpStream>() {
            self.register_fd::<std::net::TcpStream>(stream.clone().into())
        } else if let Some(stream) = any.downcast_ref::<UnixStream>() {
            self.register_fd::<std::os::unix::net::UnixStream>(stream.clone().into())
        } else {
            None
        };
        socket.unwrap_or_else(|| Box::new(transport))
    }

    /// `None` if the system has no room for it, or if it is registered already.
    fn register_fd<T>(self: &Arc<Self>, stream: Arc<Async<T>>) -> Option<Box<dyn Transport>>
    where
        T: AsFd + Send + Sync + 'static,
        for<'a> &'a T: Read + Write,
    {
        if self.epoll.get().is_none() {
            let epoll = epoll::create(CreateFlags::CLOEXEC).ok()?;
            // If another thread was faster, its epoll is the one.
            let _ = self.epoll.set(Async::new_nonblocking(epoll).ok()?);
            self.created.notify(usize::MAX);
        }
        let epoll = self.epoll.get()?;
        let key = self.sockets().insert(Readiness::default());
        let events =
            EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(key as u64);
        if epoll::add(epoll, stream.get_ref(), data, events).is_err() {
            self.sockets().remove(key);
            return None;
        }
        Some(Box::new(Socket {
            stream,
            reactor: self.clone(),
            key,
        }))
    }

    /// Brings the events and checks the peers, as long as it is polled.
    pub(crate) async fn run(&self) {
        future::or(self.bring_events(), self.peers.run()).await;
    }

    async fn bring_events(&self) {
        let epoll = loop {
            let created = self.created.listen();
            if let Some(epoll) = self.epoll.get() {
                break epoll;
            }
            created.await;
        };
        loop {
            if self.poll_events() > 0 {
                // By the time that every task has had a turn, there is mostly more. To wait by async-io
                // takes six system calls.
                future::yield_now().await;
            } else if epoll.readable().await.is_err() {
                Timer::after(FALLBACK_INTERVAL).await;
            }
        }
    }

    /// Brings all the events that there are.
    pub(crate) fn poll_all_events(&self) {
        // A peer that sends on causes more events, so the number of sockets bounds the polls.
        let polls = self.sockets().len() / EVENTS_PER_POLL + 1;
        for _ in 0..polls {
            if self.poll_events() < EVENTS_PER_POLL {
                return;
            }
        }
    }

    /// Brings the events that there are, of up to [`EVENTS_PER_POLL`] sockets. Says of how many.
    fn poll_events(&self) -> usize {
        let Some(epoll) = self.epoll.get() else {
            return 0;
        };
        let mut space = [const { MaybeUninit::uninit() }; EVENTS_PER_POLL];
        // It cannot fail on an epoll of our own.
        let Ok((events, _)) = epoll::wait(epoll, &mut space, Some(&Timespec::default())) else {
            return 0;
        };
        let mut sockets = self.sockets();
        let wakers = events.iter().filter_map(|event| {
            // A socket may be gone by now and another in its place, which then reads in vain.
            let socket = sockets.get_mut(event.data.u64() as usize)?;
            socket.on_event(event.flags).then(|| socket.waker.take())?
        });
        let wakers: Vec<Waker> = wakers.collect();
        drop(sockets);
        wakers.into_iter().for_each(Waker::wake);
        events.len()
    }
}

/// A socket that the reactor brings events of.
struct Socket<T: AsFd> {
    stream: Arc<Async<T>>,
    reactor: Arc<Reactor>,
    key: usize,
}

impl<T: AsFd> Socket<T> {
    fn change<R>(&self, change: impl FnOnce(&mut Readiness) -> R) -> R {
        change(&mut self.reactor.sockets()[self.key])
    }
}

impl<T: AsFd> Drop for Socket<T> {
    fn drop(&mut self) {
        if let Some(epoll) = self.reactor.epoll.get() {
            // If there is a clone of it, closing this one does not remove it.
            let _ = epoll::delete(epoll, self.stream.get_ref());
        }
        // Its waker is dropped outside the lock.
        let _readiness = self.reactor.sockets().remove(self.key);
    }
}

impl<T> AsyncRead for Socket<T>
where
    T: AsFd,
    for<'a> &'a T: Read,
{
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let read_to_end = self.change(|socket| {
                if std::mem::take(&mut socket.readable) {
                    return Some(socket.read_to_end);
                }
                socket.wait(cx);
                None
            });
            let Some(read_to_end) = read_to_end else {
                return Poll::Pending;
            };
            match self.stream.get_ref().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.change(|socket| socket.readable = true);
                }
                // All that was there is read; what follows causes an event.
                Ok(n) if 0 < n && n < buffer.len() && !read_to_end => return Poll::Ready(Ok(n)),
                result => {
                    self.change(|socket| socket.readable = true);
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl<T> AsyncWrite for Socket<T>
where
    T: AsFd,
    for<'a> &'a T: Write,
{
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut waiting = false;
        loop {
            match self.stream.get_ref().write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if waiting {
                        return Poll::Pending;
                    }
                    // Room may have come before the task waited for it, so try once more.
                    self.change(|socket| {
                        socket.write_blocked = true;
                        socket.wait(cx);
                    });
                    waiting = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(self.stream.get_ref()).shutdown(Shutdown::Write))
    }
}
