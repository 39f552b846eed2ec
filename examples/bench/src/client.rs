//! One client: its socket, and the batch it has on its way.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    time::Instant,
};

use fastrand::Rng;
use socket2::Socket;

use crate::work::{Replies, Work};

pub(crate) struct Client {
    socket: Socket,
    /// Has chosen all operations so far, and chooses the next.
    rng: Rng,
    replies: Replies,
    /// The rest of the batch, where the socket did not take all of it.
    unsent: Vec<u8>,
    /// When the batch was sent, or should have been.
    pub(crate) asked: Instant,
    /// Batches that have been answered.
    pub(crate) turns: u64,
    pub(crate) reads: bool,
    /// Whether replies have to come that will be read.
    pub(crate) waits: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Received {
    Nothing,
    Some,
    /// The last reply to the batch is there.
    All,
}

impl Client {
    pub(crate) fn new(socket: Socket, rng: Rng, reads: bool) -> Client {
        Client {
            socket,
            rng,
            replies: Replies::none(),
            unsent: Vec::new(),
            asked: Instant::now(),
            turns: 0,
            reads,
            waits: false,
        }
    }

    /// Sends the next batch, in one write where the socket takes it.
    pub(crate) fn send(&mut self, work: &Work, depth: u32, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        self.replies = Replies::of_batch(depth, &self.rng);
        work.ask(depth, &mut self.rng, buffer);
        self.waits = self.reads;
        let sent = write(&self.socket, buffer)?;
        self.unsent.extend_from_slice(&buffer[sent..]);
        Ok(())
    }

    /// Sends what the socket did not take before.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let sent = write(&self.socket, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        Ok(())
    }

    /// Reads all there is, and to the end of the stream where it `ends`.
    pub(crate) fn receive(
        &mut self,
        work: &Work,
        input: &mut [u8],
        ends: bool,
    ) -> Result<Received, String> {
        let mut received = Received::Nothing;
        loop {
            match self.socket.read(input) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(length) => {
                    received = match self.replies.take(work, &input[..length])? {
                        true => Received::All,
                        false => Received::Some,
                    };
                    // What comes after a short read is another event.
                    if length < input.len() && !ends {
                        return Ok(received);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(received),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// Writes until the socket takes no more, and tells how much it took.
fn write(mut socket: &Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
