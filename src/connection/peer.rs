//! Whether a TCP peer is still there, by what the system knows of its acknowledgements.
//!
//! Keepalive finds a machine that is gone only while nothing is on the way to it; with
//! unacknowledged data, Linux goes on sending for a quarter of an hour. `TCP_USER_TIMEOUT` would
//! shorten that, and would also end a living peer that does not read. The two differ in that the
//! living one answers: with an acknowledgement, or to a probe of its closed window.
//!
//! In: the TCP sockets of new clients. Out: what the idle timeout and the shutdown have to know of
//! them; and the connection to a peer that is gone is shut down.
//!
//! The system is asked by `sock_diag(7)`, a netlink protocol, because it takes bytes where
//! `TCP_INFO` takes a pointer. If it does not answer, no peer counts as gone.

use std::{
    any::Any,
    io::{self, Read},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_io::{Async, Timer};
use event_listener::Event as Notify;
use futures_lite::future;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::lock::Lock;

/// How often the peers are checked that have been written to and have sent nothing since.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// So many transmissions or probes without an answer mean that the peer is gone. The window of a living peer
/// that does not read is probed every two minutes at last, so one may be on its way.
const UNANSWERED: u8 = 2;

/// Checks before others have their turn.
const CHECKS_PER_YIELD: usize = 16;

/// More than TLS holds of what it has read.
#[cfg(feature = "tls")]
const TLS_BYTES: usize = 64 * 1024;

/// The TCP socket of a client.
pub(crate) struct Peer {
    /// The connection owns it.
    socket: Weak<Async<TcpStream>>,
    /// Bytes that the transport may have taken out of the socket and not given on.
    buffered: usize,
    /// Something was written since a check found everything acknowledged.
    owes_answer: AtomicBool,
    /// It has sent something since the last check, so it is there.
    has_sent: AtomicBool,
}

/// What the system knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Info {
    /// Bytes that are not acknowledged.
    unacknowledged: u32,
    /// Transmissions and probes since the last acknowledgement.
    unanswered: u8,
    last_answer: Duration,
}

impl Peer {
    /// `None` if it is no TCP socket, as far as can be seen.
    fn of(transport: &dyn Any) -> Option<Self> {
        let plain = transport.downcast_ref::<async_net::TcpStream>();
        let (socket, buffered) = if let Some(stream) = plain {
            (Arc::downgrade(&stream.clone().into()), 0)
        } else {
            #[cfg(feature = "tls")]
            {
                type Tls = crate::tls::TlsStream<async_net::TcpStream>;
                (transport.downcast_ref::<Tls>()?.socket()?, TLS_BYTES)
            }
            #[cfg(not(feature = "tls"))]
            return None;
        };
        Some(Self {
            socket,
            buffered,
            owes_answer: AtomicBool::new(false),
            has_sent: AtomicBool::new(false),
        })
    }

    pub(crate) fn on_write(&self) {
        self.owes_answer.store(true, Ordering::Relaxed);
    }

    pub(crate) fn on_read(&self) {
        self.has_sent.store(true, Ordering::Relaxed);
    }

    /// Bytes that it has sent and that have not been read, or more.
    pub(crate) fn unread(&self) -> Option<usize> {
        let socket = self.socket.upgrade()?;
        let in_socket: usize = rustix::io::ioctl_fionread(&*socket).ok()?.try_into().ok()?;
        Some(in_socket + self.buffered)
    }

    /// How long ago it acknowledged anything, if it has not acknowledged everything.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let info = query(&*self.socket.upgrade()?).ok()?;
        (info.unacknowledged > 0).then_some(info.last_answer)
    }

    /// Ends the connection if the machine at its other end is gone.
    fn check(&self) {
        let has_sent = self.has_sent.swap(false, Ordering::Relaxed);
        if has_sent || !self.owes_answer.load(Ordering::Relaxed) {
            return;
        }
        let Some(socket) = self.socket.upgrade() else {
            return;
        };
        // Before the query, so that a write during it counts.
        self.owes_answer.store(false, Ordering::Relaxed);
        let info = query(&socket);
        if info.as_ref().is_ok_and(|info| info.unacknowledged == 0) {
            // From here on, keepalive does it.
            return;
        }
        // A query fails for want of a descriptor, say; the next check asks again.
        self.owes_answer.store(true, Ordering::Relaxed);
        let Ok(info) = info else { return };
        if info.unanswered >= UNANSWERED
            && patience(&socket).is_some_and(|patience| info.last_answer >= patience)
        {
            // Its task reads the end of the input.
            let _ = SockRef::from(socket.get_ref()).shutdown(Shutdown::Both);
        }
    }
}

/// As long as keepalive would wait for an answer; for ever, if there is none on this socket.
fn patience(socket: &Async<TcpStream>) -> Option<Duration> {
    let socket = SockRef::from(socket.get_ref());
    if !socket.keepalive().ok()? {
        return None;
    }
    let interval = socket.tcp_keepalive_interval().ok()?;
    let retries = socket.tcp_keepalive_retries().ok()?;
    Some(socket.tcp_keepalive_time().ok()? + interval * retries)
}

/// The peers of a server.
#[derive(Default)]
pub(crate) struct Peers {
    all: Lock<Vec<Weak<Peer>>>,
    added: Notify,
}

impl Peers {
    pub(crate) fn register(&self, transport: &dyn Any) -> Option<Arc<Peer>> {
        let peer = Arc::new(Peer::of(transport)?);
        self.all().push(Arc::downgrade(&peer));
        self.added.notify(1);
        Some(peer)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Peer>>> {
        self.all.lock()
    }

    /// Checks for peers that are gone, as long as it is polled.
    pub(crate) async fn run(&self) {
        loop {
            let added = self.added.listen();
            if self.all().is_empty() {
                added.await;
            }
            Timer::after(CHECK_INTERVAL).await;
            let mut peers = Vec::new();
            self.all().retain(|peer| {
                let peer = peer.upgrade();
                let there = peer.is_some();
                peers.extend(peer.filter(|peer| peer.owes_answer.load(Ordering::Relaxed)));
                there
            });
            for (number, peer) in peers.into_iter().enumerate() {
                if number % CHECKS_PER_YIELD == CHECKS_PER_YIELD - 1 {
                    future::yield_now().await;
                }
                peer.check();
            }
        }
    }
}

/// Asks the system about a socket.
fn query(socket: &Async<TcpStream>) -> io::Result<Info> {
    let socket = socket.get_ref();
    diag::query(socket.local_addr()?, socket.peer_addr()?)
}

/// `sock_diag(7)`, as far as it is needed. Numbers are in the byte order of the machine but for
/// ports and addresses.
mod diag {
    use super::*;

    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const AF_NETLINK: i32 = 16;
    const NETLINK_SOCK_DIAG: i32 = 4;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;
    const INET_DIAG_INFO: u16 = 2;

    /// The lengths of `nlmsghdr` and `inet_diag_msg`.
    const HEADER: usize = 16;
    const MESSAGE: usize = 72;

    pub(crate) fn query(local: SocketAddr, peer: SocketAddr) -> io::Result<Info> {
        // It is asked seldom enough to hold no descriptor in between.
        let protocol = Protocol::from(NETLINK_SOCK_DIAG);
        let socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(protocol))?;
        // The answer is there when the question is sent.
        socket.set_nonblocking(true)?;
        socket.send(&question(local, peer))?;
        let mut answer = [0; 1024];
        let length = (&socket).read(&mut answer)?;
        info(&answer[..length]).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let address = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let (family, interface) = match peer {
            SocketAddr::V4(_) => (AF_INET, 0),
            SocketAddr::V6(peer) => (AF_INET6, peer.scope_id()),
        };
        let body = [
            &[family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0][..],
            &u32::MAX.to_ne_bytes(), // in any state
            &local.port().to_be_bytes(),
            &peer.port().to_be_bytes(),
            &address(local),
            &address(peer),
            &interface.to_ne_bytes(),
            &[0xff; 8], // no cookie
        ]
        .concat();
        let length = (HEADER + body.len()) as u32;
        [
            &length.to_ne_bytes()[..],
            &SOCK_DIAG_BY_FAMILY.to_ne_bytes(),
            &NLM_F_REQUEST.to_ne_bytes(),
            &[0; 8], // a number and a port, of no use here
            &body,
        ]
        .concat()
    }

    fn info(answer: &[u8]) -> Option<Info> {
        if short(answer, 4)? != SOCK_DIAG_BY_FAMILY {
            return None;
        }
        let message = answer.get(HEADER..)?;
        let unacknowledged = word(message, 60)?;
        let mut attributes = message.get(MESSAGE..)?;
        while attributes.len() >= 4 {
            let length = usize::from(short(attributes, 0)?);
            let value = attributes.get(4..length)?;
            if short(attributes, 2)? == INET_DIAG_INFO {
                // `tcp_info`: retransmissions, probes, and milliseconds since the last answer.
                let unanswered = value.get(2)?.saturating_add(*value.get(3)?);
                let last_answer = Duration::from_millis(word(value, 56)?.into());
                return Some(Info {
                    unacknowledged,
                    unanswered,
                    last_answer,
                });
            }
            attributes = attributes.get(length.next_multiple_of(4)..)?;
        }
        None
    }

    fn short(bytes: &[u8], at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn word(bytes: &[u8], at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_system_says_what_is_not_acknowledged() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                continue; // no such family here
            };
            let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (theirs, _) = listener.accept().unwrap();
            let query = || diag::query(ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            let info = match query() {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return println!("skipped: no sock_diag here: {error}");
                }
                info => info.unwrap(),
            };
            assert_eq!((info.unacknowledged, info.unanswered), (0, 0));
            assert!(info.last_answer < Duration::from_secs(10), "{info:?}");
            // It does not read, so some of this stays.
            ours.set_nonblocking(true).unwrap();
            while (&ours).write(&[0; 65536]).is_ok() {}
            let query = || diag::query(ours.local_addr().unwrap(), ours.peer_addr().unwrap());
            assert!(query().unwrap().unacknowledged > 0);
            drop(theirs);
            ours.flush().unwrap();
            drop(listener);
        }
    }
}
