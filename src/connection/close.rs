//! How a connection ends that does not end by itself.

use std::{future::poll_fn, io, sync::atomic::Ordering, task::Poll, time::Duration};

use futures_lite::future;

use super::{
    Reader, Session,
    message::{InputEnd, Message},
    reader::{READ_BYTES, poll_read},
};
use crate::clock;

/// At shutdown, how long a client must be silent before its connection is closed, after all its
/// replies are delivered. Closing while it still sends could cost it the replies on their way.
const LINGER: Duration = Duration::from_millis(250);

/// How long a client that was shown the door may take to hear why.
const REJECT_TIMEOUT: Duration = Duration::from_secs(2);

impl Session {
    /// Is ready when nothing has moved for this time, and it is not for the server to move.
    pub(crate) async fn wait_until_idle(&self, limit: Duration) {
        let clock = &*self.context.clock;
        loop {
            let moved = Duration::from_millis(self.last_activity.load(Ordering::Relaxed));
            let until = clock::later(self.context.began + moved, limit);
            if clock.now() < until {
                clock.sleep(until).await;
            } else if self.awaiting_server.load(Ordering::Relaxed) && self.outbox.is_empty() {
                self.touch();
            } else if !self.update_acknowledged() {
                return;
            }
        }
    }

    /// The client sends no more. Replies that it does not read are kept as long as it may be idle.
    pub(crate) async fn await_delivery(&self, limit: Duration) -> io::Result<()> {
        // The writer is a part of the same task, so this is looked at whenever that is done.
        let delivered = poll_fn(|_| match self.outbox.is_finished() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        });
        let idle = async {
            self.wait_until_idle(limit).await;
            self.send_message(Message::InputEnd(InputEnd::UnreadTimeout));
            Err(io::ErrorKind::TimedOut.into())
        };
        future::or(delivered, idle).await
    }

    /// Lets the client hear why its connection ends, for a short time.
    pub(crate) async fn linger_rejected(&self, reader: &mut Reader) -> io::Result<()> {
        let over = async {
            self.context.sleep(REJECT_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        future::or(self.drain_input(reader), over).await
    }

    /// Reads on to no purpose, so that the client finds its last replies and not a reset, until
    /// it hangs up or is silent.
    pub(crate) async fn drain_input(&self, reader: &mut Reader) -> io::Result<()> {
        loop {
            let read = poll_fn(|cx| poll_read(reader, cx, READ_BYTES, |_| ()));
            let silent = async {
                self.context.sleep(LINGER).await;
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
