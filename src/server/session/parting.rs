//! How a connection ends that does not end by itself.

use std::{future::poll_fn, io, sync::atomic::Ordering, task::Poll, time::Duration};

use futures_lite::future;

use super::{
    Reader, Session,
    reader::{READ_BYTES, poll_read},
};
use crate::{
    clock,
    server::event::{End, Message},
};

/// At shutdown, how long a client must be silent before its connection is closed, after all its
/// replies are delivered. Closing while it still sends could cost it the replies on their way.
const LINGER: Duration = Duration::from_millis(250);

/// How long a client that was shown the door may take to hear why.
const PARTING_TIME: Duration = Duration::from_secs(2);

impl Session {
    /// Is ready when nothing has moved for this time, and it is not for the server to move.
    pub(super) async fn idle(&self, limit: Duration) {
        let clock = &*self.surroundings.clock;
        loop {
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let until = clock::later(self.surroundings.began + moved, limit);
            if clock.now() < until {
                clock.sleep(until).await;
            } else if self.waits.load(Ordering::Relaxed) && self.outbox.is_empty() {
                self.note_move();
            } else if !self.note_acknowledged() {
                return;
            }
        }
    }

    /// The client sends no more. Replies that it does not read are kept as long as it may be idle.
    pub(super) async fn outlast(&self, limit: Duration) -> io::Result<()> {
        // The writer is a part of the same task, so this is looked at whenever that is done.
        let delivered = poll_fn(|_| match self.outbox.is_finished() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        });
        let idle = async {
            self.idle(limit).await;
            self.tell(Message::End(End::Unread));
            Err(io::ErrorKind::TimedOut.into())
        };
        future::or(delivered, idle).await
    }

    /// Lets the client hear why its connection ends, for a short time.
    pub(super) async fn show_out(&self, reader: &mut Reader) -> io::Result<()> {
        let over = async {
            self.surroundings.sleep(PARTING_TIME).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        future::or(self.discard(reader), over).await
    }

    /// Reads on to no purpose, so that the client finds its last replies and not a reset, until
    /// it hangs up or is silent.
    pub(super) async fn discard(&self, reader: &mut Reader) -> io::Result<()> {
        loop {
            let read = poll_fn(|cx| poll_read(reader, cx, READ_BYTES, |_| ()));
            let silent = async {
                self.surroundings.sleep(LINGER).await;
                Ok(None)
            };
            match future::or(async { read.await.map(Some) }, silent).await? {
                Some(0) => return Ok(()),
                Some(_) => future::yield_now().await,
                None if self.outbox.is_finished() => return Ok(()),
                None => {}
            }
        }
    }
}
