//! Connections that deliver as they like, and keep a record of all that went over them.

mod direction;

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

pub(crate) use direction::{Direction, Line};
use futures_lite::{AsyncRead, AsyncWrite};

use crate::{
    admission,
    world::{Action, Moment, World, lock},
};

/// One way of a connection.
#[derive(Default)]
pub(crate) struct Pipe {
    bytes: VecDeque<u8>,
    /// How many of them the reader can have.
    arrived: usize,
    capacity: usize,
    direction: Direction,
    /// No more bytes follow.
    ended: bool,
    /// Nobody reads any more, or the connection was reset.
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// When the reader last found nothing.
    waited: Option<Moment>,
    /// The last write took all that there was.
    took_all: bool,
    /// What is being written has not been taken in part.
    fresh: bool,
}

impl Pipe {
    /// Some bytes under way arrive.
    pub(crate) fn arrive(shared: &Arc<Mutex<Self>>, world: &World) {
        let mut pipe = lock(shared);
        let under_way = pipe.bytes.len() - pipe.arrived;
        if under_way > 0 {
            let more = world.random(|rng| rng.usize(1..=under_way));
            pipe.arrived += more;
            if more < under_way {
                Self::send(shared, world);
            }
        }
        if let Some(waker) = pipe.reader.take() {
            drop(pipe);
            waker.wake();
        }
    }

    fn send(shared: &Arc<Mutex<Self>>, world: &World) {
        let arrive = Action::Arrive(Arc::downgrade(shared));
        if world.once_in(100) {
            // The network stalls.
            let time = world.random(|rng| rng.u64(..1500));
            world.act_later(Duration::from_millis(time), arrive);
        } else {
            world.act(arrive);
        }
    }

    fn wake_both(&mut self, world: &World) {
        let wakers = [self.reader.take(), self.writer.take()];
        for waker in wakers.into_iter().flatten() {
            world.act(Action::Wake(waker));
        }
    }

    fn is_over(&mut self, world: &World) {
        if self.direction.over.is_none() {
            self.direction.over = Some(world.moment());
        }
        self.wake_both(world);
    }
}

/// One end of a connection.
pub(crate) struct Endpoint {
    connection: Connection,
    /// Shared by all ends of a kind, so that they can be counted.
    _kind: Arc<()>,
}

/// Both directions of a connection, as seen from one end.
#[derive(Clone)]
pub(crate) struct Connection {
    world: World,
    from: Arc<Mutex<Pipe>>,
    to: Arc<Mutex<Pipe>>,
}

/// A connection: the client's end and the server's. Each way holds so many bytes.
pub(crate) fn connect(world: &World, capacity: usize, servers: &Arc<()>) -> (Endpoint, Endpoint) {
    let pipe = || {
        let direction = Direction {
            writes: vec![world.moment()],
            ..Direction::default()
        };
        Arc::new(Mutex::new(Pipe {
            capacity,
            direction,
            took_all: true,
            ..Pipe::default()
        }))
    };
    let (up, down) = (pipe(), pipe());
    let end = |from: &Arc<Mutex<Pipe>>, to: &Arc<Mutex<Pipe>>, kind: &Arc<()>| Endpoint {
        connection: Connection {
            world: world.clone(),
            from: from.clone(),
            to: to.clone(),
        },
        _kind: kind.clone(),
    };
    (end(&down, &up, &Arc::default()), end(&up, &down, servers))
}

impl Endpoint {
    pub(crate) fn connection(&self) -> Connection {
        self.connection.clone()
    }
}

/// How a connection stands, seen from the client's end, when nothing can happen before time passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// All that the server has written is read.
    pub(crate) drained: bool,
    /// Nothing is under way, and if anyone has to go on, it is the client.
    pub(crate) still: bool,
    /// The server waits for the client to read.
    pub(crate) blocked: bool,
}

impl Connection {
    /// What came this way, and what went the other.
    pub(crate) fn directions(&self) -> (Direction, Direction) {
        let direction = |pipe: &Mutex<Pipe>| lock(pipe).direction.clone();
        (direction(&self.from), direction(&self.to))
    }

    /// Whether the other end has begun to read what goes there.
    pub(crate) fn is_read(&self) -> bool {
        lock(&self.to).direction.looked.is_some()
    }

    /// How often bytes have come this way.
    pub(crate) fn written(&self) -> usize {
        lock(&self.from).direction.writes.len()
    }

    pub(crate) fn standing(&self) -> Standing {
        let (from, to) = (lock(&self.from), lock(&self.to));
        let open = |pipe: &Pipe| !pipe.ended && !pipe.broken;
        let arrived = open(&from) && from.arrived == from.bytes.len();
        let read = open(&to) && to.bytes.is_empty();
        Standing {
            drained: from.bytes.is_empty() && open(&from),
            still: arrived && (read || from.writer.is_some()),
            blocked: from.writer.is_some() && open(&from),
        }
    }

    /// It has been told that there is no place for it, and is still there.
    pub(crate) fn is_rejecting(&self) -> bool {
        let from = lock(&self.from);
        from.direction.left.is_none() && admission::is_full(&from.direction)
    }

    /// Tears the connection down.
    pub(crate) fn reset(&self) {
        for pipe in [&self.from, &self.to] {
            let mut pipe = lock(pipe);
            pipe.broken = true;
            pipe.bytes.clear();
            pipe.arrived = 0;
            pipe.direction.reset |= pipe.direction.over.is_none();
            pipe.is_over(&self.world);
        }
    }

    /// Pending for no reason, once in a while.
    fn hesitates(&self, cx: &Context<'_>) -> bool {
        let hesitates = self.world.once_in(6);
        if hesitates {
            self.world.act(Action::Wake(cx.waker().clone()));
        }
        hesitates
    }
}

impl AsyncRead for Endpoint {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Connection { world, from, .. } = &self.connection;
        let mut pipe = lock(from);
        pipe.direction.looked.get_or_insert_with(|| world.moment());
        if self.connection.hesitates(cx) {
            pipe.waited = Some(world.moment());
            return Poll::Pending;
        }
        let most = pipe.arrived.min(buffer.len());
        if pipe.broken {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        } else if most > 0 {
            let n = world.random(|rng| rng.usize(1..=most));
            for (place, byte) in buffer.iter_mut().zip(pipe.bytes.drain(..n)) {
                *place = byte;
            }
            pipe.arrived -= n;
            let waited = pipe.waited;
            pipe.direction.read(&buffer[..n], world.moment(), waited);
            if let Some(waker) = pipe.writer.take() {
                world.act(Action::Wake(waker));
            }
            Poll::Ready(Ok(n))
        } else if pipe.ended && pipe.bytes.is_empty() {
            pipe.direction.read_end.get_or_insert(world.moment());
            Poll::Ready(Ok(0))
        } else {
            pipe.waited = Some(world.moment());
            pipe.reader = Some(cx.waker().clone());
            Poll::Pending
        }
    }
}

impl AsyncWrite for Endpoint {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Connection { world, to, .. } = &self.connection;
        let mut pipe = lock(to);
        if std::mem::take(&mut pipe.took_all) {
            pipe.direction.offered = world.moment();
            pipe.fresh = true;
        }
        if self.connection.hesitates(cx) {
            return Poll::Pending;
        }
        let most = (pipe.capacity - pipe.bytes.len()).min(bytes.len());
        if pipe.broken || pipe.ended {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        } else if most > 0 {
            let n = world.random(|rng| rng.usize(1..=most));
            pipe.bytes.extend(&bytes[..n]);
            let at = world.moment();
            pipe.took_all = n == bytes.len();
            if std::mem::take(&mut pipe.fresh) {
                pipe.direction.chunks = [at, pipe.direction.chunks[0]];
            }
            pipe.direction.write(&bytes[..n], at);
            Pipe::send(to, world);
            world.note(&bytes[..n]);
            Poll::Ready(Ok(n))
        } else {
            pipe.writer = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Connection { world, to, .. } = &self.connection;
        let mut pipe = lock(to);
        pipe.ended = true;
        if !pipe.broken {
            pipe.direction.closed.get_or_insert(world.moment());
        }
        pipe.wake_both(world);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let Connection { world, from, to } = &self.connection;
        let mut to = lock(to);
        to.ended = true;
        to.direction.left = Some(world.moment());
        to.is_over(world);
        drop(to);
        let mut from = lock(from);
        from.broken = true;
        from.is_over(world);
    }
}
