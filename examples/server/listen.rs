//! Where the server listens: the sockets of an address.

use std::{
    fmt::Display,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
    path::Path,
};

use keywire::Error;
use listenfd::ListenFd;
use rustix::io::Errno;
use smol::net::{TcpListener, unix::UnixListener};
use socket2::SockRef;

use crate::{
    address::{Address, Kind},
    unix_socket::{self, SocketFile},
};

/// How many free ports are tried, if one address has the port free and another has not.
const PORT_TRIES: usize = 100;

const BEYOND: &str = "others than this machine could come in; it takes --secret-file, or --open to let \
                      everyone in";

pub(crate) enum Bound {
    Tcp(TcpListener),
    /// The file is ours, unless the socket was passed to us.
    Unix(UnixListener, Option<SocketFile>),
}

impl Bound {
    pub(crate) fn address(&self) -> io::Result<String> {
        match self {
            Bound::Tcp(listener) => listener.local_addr().map(|address| address.to_string()),
            Bound::Unix(listener, _) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new("(unnamed)"));
                Ok(format!("unix:{}", path.display()))
            }
        }
    }
}

/// The sockets that a service manager has passed (`LISTEN_FDS`).
pub(crate) fn passed(sockets: &mut ListenFd, guarded: bool) -> Result<Vec<Bound>, String> {
    (0..sockets.len())
        .map(|number| take(sockets, number, guarded))
        .collect()
}

fn take(sockets: &mut ListenFd, number: usize, guarded: bool) -> Result<Bound, String> {
    let failed = |reason: &str| format!("passed socket {number}: {reason}");
    let unusable = |error: io::Error| failed(&error.to_string());
    let listens = |socket: SockRef| match socket.is_listener() {
        Ok(true) => Ok(()),
        _ => Err(failed("it does not listen; a unit for it needs Accept=no")),
    };
    if let Ok(Some(listener)) = sockets.take_tcp_listener(number) {
        listens(SockRef::from(&listener))?;
        let address = listener.local_addr().map_err(unusable)?;
        if !(guarded || is_this_machine(&address)) {
            return Err(failed(&format!("{address}: {BEYOND}")));
        }
        return Ok(Bound::Tcp(listener.try_into().map_err(unusable)?));
    }
    match sockets.take_unix_listener(number) {
        Ok(Some(listener)) => {
            listens(SockRef::from(&listener))?;
            Ok(Bound::Unix(listener.try_into().map_err(unusable)?, None))
        }
        _ => Err(failed("it is neither TCP nor a Unix stream socket")),
    }
}

impl Address {
    /// Listens on all that the address stands for. If the server is not `guarded` by a secret, that
    /// may only be this machine.
    pub(crate) fn bind(&self, guarded: bool) -> Result<Vec<Bound>, String> {
        let text = &self.text;
        match &self.kind {
            Kind::Unix(path) => unix_socket::bind(path)
                .map(|(listener, file)| vec![Bound::Unix(listener, Some(file))])
                .map_err(|error| format!("can't listen on {text:?}: {error}")),
            Kind::Tcp(host, port) => {
                let listeners = bind(text, host.as_deref(), *port, guarded, BEYOND)?;
                Ok(listeners.into_iter().map(Bound::Tcp).collect())
            }
        }
    }
}

/// Listens on all addresses of a host. If it may not be `reached` from beyond this machine, `beyond` says what
/// that takes.
pub(crate) fn bind(
    text: &str,
    host: Option<&str>,
    port: u16,
    reached: bool,
    beyond: &str,
) -> Result<Vec<TcpListener>, String> {
    let failed = |reason: &dyn Display| format!("can't listen on {text:?}: {reason}");
    let addresses = resolve(host, port).map_err(|error| failed(&error))?;
    if !(reached || addresses.iter().all(is_this_machine)) {
        let beyond = format!("{beyond}; localhost:PORT is this machine only");
        return Err(failed(&beyond));
    }
    bind_all(&addresses, host.is_none()).map_err(|(address, error)| match address.to_string() {
        address if address == text => failed(&error),
        // One of those that a name stands for.
        address => failed(&format!("{address}: {error}")),
    })
}

fn is_this_machine(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// All addresses of a name, each once. The system knows what stands behind a `%`.
pub(crate) fn resolve(host: Option<&str>, port: u16) -> io::Result<Vec<SocketAddr>> {
    let Some(host) = host else {
        // The first serves both families, so the second is for machines that have only IPv4.
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        return Ok(any.map(|any| (any, port).into()).into());
    };
    let mut addresses = Vec::new();
    for address in (host, port).to_socket_addrs()? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Listens on these addresses, or only on the `first` that this machine has. Those of a family
/// that it does not have don't count, if another is left. If the port is to be any free one, it is
/// the same for all.
pub(crate) fn bind_all(
    addresses: &[SocketAddr],
    first: bool,
) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut tries = 1;
    loop {
        match bind_once(addresses, first) {
            Err((address, error))
                if error.kind() == ErrorKind::AddrInUse
                    && address.port() == 0
                    && tries < PORT_TRIES =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}

fn bind_once(
    addresses: &[SocketAddr],
    first: bool,
) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut missing = None;
    for &wanted in addresses {
        let mut address = wanted;
        if let (0, Some(listener)) = (wanted.port(), listeners.first()) {
            let bound = listener.local_addr().map_err(|error| (wanted, error))?;
            address.set_port(bound.port());
        }
        match smol::block_on(keywire::bind(address)) {
            Ok(listener) => listeners.push(listener),
            Err(Error::Listen(error)) if is_missing_family(&address, &error) => {
                missing.get_or_insert((wanted, error));
            }
            Err(Error::Listen(error)) => return Err((wanted, error)),
            Err(error) => return Err((wanted, io::Error::other(error))),
        }
        if first && !listeners.is_empty() {
            break;
        }
    }
    match missing {
        Some(missing) if listeners.is_empty() => Err(missing),
        _ => Ok(listeners),
    }
}

/// Without IPv6 the system knows either no such sockets or none of the addresses.
fn is_missing_family(address: &SocketAddr, error: &io::Error) -> bool {
    let no_family = [Errno::AFNOSUPPORT, Errno::PROTONOSUPPORT];
    let of = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    no_family.into_iter().any(of)
        || address.is_ipv6() && error.kind() == ErrorKind::AddrNotAvailable
}
