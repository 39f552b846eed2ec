//! The CPU time, memory and open files of a process, and which process serves an address. Linux tells it in /proc; where
//! there is none, or the process is another user's, there is nothing to be told.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use crate::connect::Target;

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) id: u32,
}

impl Process {
    pub(crate) fn this() -> Process {
        Process { id: process::id() }
    }

    /// The process that listens there.
    pub(crate) fn serving(target: &Target) -> Option<Process> {
        let inode = match target {
            Target::Tcp(address) if is_local(*address) => tcp_listener(*address)?,
            Target::Tcp(_) => return None,
            Target::Unix(path) => unix_listener(path)?,
        };
        let socket = PathBuf::from(format!("socket:[{inode}]"));
        fs::read_dir("/proc")
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .map(|id| Process { id })
            .find(|process| process.has_open(&socket))
    }

    fn has_open(&self, file: &Path) -> bool {
        fs::read_dir(format!("/proc/{}/fd", self.id)).is_ok_and(|files| {
            files
                .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
                .any(|open| open == file)
        })
    }

    /// What it has used so far, all its threads together.
    pub(crate) fn time(&self) -> Option<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id)).ok()?;
        let ticks = used_ticks(&stat)?;
        let a_second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_secs_f64(ticks as f64 / a_second as f64))
    }
}

impl Process {
    /// Bytes of its memory that are resident.
    pub(crate) fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        Some(kib * 1024)
    }

    pub(crate) fn open_files(&self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.id)).ok()?.count())
    }
}

/// User and system time: the 14th and the 15th field of /proc/PID/stat.
fn used_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in brackets, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut field = || fields.next()?.parse::<u64>().ok();
    Some(field()? + field()?)
}

/// Another machine may well use a port that a server of this one has too.
fn is_local(address: SocketAddr) -> bool {
    // Connecting a datagram socket sends nothing, and tells which address would be the sender.
    let sender = || {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(address)?;
        socket.local_addr()
    };
    address.ip().is_loopback() || sender().is_ok_and(|sender| sender.ip() == address.ip())
}

/// The inode of the socket that takes the connections to an address.
fn tcp_listener(address: SocketAddr) -> Option<u64> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let listeners: Vec<_> = tables
        .iter()
        .flatten()
        .flat_map(|table| table.lines().filter_map(listener))
        .filter(|(bound, _)| bound.port() == address.port())
        .collect();
    let bound_to = |ip: IpAddr| listeners.iter().find(|(bound, _)| bound.ip() == ip);
    bound_to(address.ip())
        .or_else(|| match address {
            SocketAddr::V4(_) => bound_to(Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => None,
        })
        .or_else(|| bound_to(Ipv6Addr::UNSPECIFIED.into()))
        .map(|(_, inode)| *inode)
}

/// Reads a line of /proc/net/tcp or tcp6 if it is about a socket that listens.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    const LISTENS: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    if fields.nth(1)? != LISTENS {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    // Each eight digits are four bytes of the address, read as one number of this machine.
    let word = |at: usize| {
        let number = u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?;
        Some(number.to_ne_bytes())
    };
    let ip: IpAddr = if ip.len() == 8 {
        word(0)?.into()
    } else {
        let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
        IpAddr::V6(<[u8; 16]>::try_from(words).ok()?.into()).to_canonical()
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(ip, port), inode))
}

fn unix_listener(path: &Path) -> Option<u64> {
    const LISTENS: &str = "00010000";
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (flags, inode) = (fields.nth(3)?, fields.nth(2)?);
        let found = flags == LISTENS && Path::new(fields.next()?) == path;
        found.then(|| inode.parse().ok())?
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn the_listening_process_is_found() -> std::io::Result<()> {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue; // a machine without IPv6
            };
            let mut address = listener.local_addr()?;
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            let found = Process::serving(&Target::Tcp(address)).map(|process| process.id);
            assert_eq!(found, Some(process::id()), "{address}");
        }

        let path = std::env::temp_dir().join(format!("keywire-bench-{}", process::id()));
        let listener = UnixListener::bind(&path)?;
        let found = Process::serving(&Target::Unix(path.clone())).map(|process| process.id);
        drop(listener);
        fs::remove_file(path)?;
        assert_eq!(found, Some(process::id()));
        Ok(())
    }

    #[test]
    fn lines_of_the_tables_are_read() {
        let line = "  13: 00000000000000000000000001000000:0BB8 \
                    00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 \
                    00000000  0        0 7481 1 0000000000000000 100 0 0 10 0";
        let expected = ("[::1]:3000".parse().unwrap(), 7481);
        assert_eq!(listener(line), Some(expected));
        assert_eq!(listener(&line.replace("0A", "01")), None);
        assert_eq!(
            listener("  sl  local_address rem_address   st tx_queue"),
            None
        );

        let stat = "7 (a ) 1 2 3) R 1 7 7 0 -1 4194304 90 0 0 0 250 31 0 0 20 0 1 0 100";
        assert_eq!(used_ticks(stat), Some(281));
        assert_eq!(used_ticks("7 (a) R 1"), None);
    }
}
