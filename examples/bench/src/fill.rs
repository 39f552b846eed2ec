//! Loads the keys before anything is measured.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use crate::{
    connect::{PATIENCE, Target},
    work::{Work, wrong},
};

/// Bytes of requests that are sent before their replies are read.
const CHUNK: usize = 64 << 10;

pub(crate) fn fill(target: &Target, work: &Work) -> Result<(), String> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::WouldBlock => "can't load the keys: the server does not answer".into(),
        _ => format!("can't load the keys: {error}"),
    };
    let mut socket = target.open().map_err(failed)?;
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for key in 0..work.keys() {
        work.load(key, &mut requests, &mut replies);
        if requests.len() >= CHUNK || key + 1 == work.keys() {
            work.fence(&mut requests, &mut replies);
            socket.write_all(&requests).map_err(failed)?;
            confirm(&mut socket, &replies).map_err(failed)?;
            requests.clear();
            replies.clear();
        }
    }
    Ok(())
}

/// Waits until a server that starts, and loads what it has on its disk, answers with the last key.
pub(crate) fn wait_until_loaded(target: &Target, work: &Work) -> Result<(), String> {
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    work.read(work.keys() - 1, &mut request, &mut reply);
    let ask = || {
        let mut socket = target.open()?;
        socket.write_all(&request)?;
        confirm(&mut socket, &reply)
    };
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask() {
        if Instant::now() > deadline {
            return Err(format!("it has not loaded its keys: {error}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn confirm(socket: &mut Socket, replies: &[u8]) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut come = 0;
    while come < replies.len() {
        let data = match socket.read(&mut buffer) {
            Ok(0) => return Err(io::Error::other("the server closed the connection")),
            Ok(length) => &buffer[..length],
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if !replies[come..].starts_with(data) {
            return Err(io::Error::other(wrong(replies, come, data)));
        }
        come += data.len();
    }
    Ok(())
}
