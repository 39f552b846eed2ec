//! The outbox → bytes.

use std::{
    future::{Future, pending, poll_fn},
    io,
    time::Duration,
};

use futures_lite::{AsyncWriteExt as _, future};

use super::{
    Session, Writer,
    message::Message,
    outbox::{Chunks, Delivery},
};

/// Chunks that are smaller together than this are written in one go.
const WRITE_BYTES: usize = 16 * 1024;

/// How long a client may take to make room for the end of the stream, which is a few bytes where
/// it is one of TLS. All replies are in the socket by then, so one that reads needs far less.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

impl Session {
    /// Replies → bytes, until there are no more.
    pub(crate) async fn run_writer(&self, mut writer: Writer) -> io::Result<()> {
        loop {
            match poll_fn(|cx| self.outbox.poll_next(cx, &self.context.limits)).await {
                Delivery::Write(replies) => {
                    if self.write_chunks(&mut writer, &replies).await.is_err()
                        && self.outbox.close()
                    {
                        self.send_message(Message::OutboxReady);
                    }
                }
                Delivery::NotifyCapacity => self.send_message(Message::OutboxReady),
                Delivery::Finish => {
                    return match future::poll_once(writer.close()).await {
                        // Where that failed, reading will fail too.
                        Some(_) => Ok(()),
                        None => Box::pin(self.close(writer)).await,
                    };
                }
                // What the client sent before it hung up is still there to be read.
                Delivery::Closed => return Ok(()),
                Delivery::Abort => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }

    /// The transport can't close at once. A client that never lets it is cut off.
    async fn close(&self, mut writer: Writer) -> io::Result<()> {
        let late = async {
            self.context.sleep(CLOSE_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let closed = async {
            let _ = writer.close().await;
            Ok(())
        };
        future::or(closed, late).await
    }

    async fn write_chunks(&self, writer: &mut Writer, chunks: &Chunks) -> io::Result<()> {
        match &chunks[..] {
            [chunk] => self.write_all(writer, chunk.bytes()).await,
            // Boxed for the sake of those who are idle, too.
            _ => Box::pin(self.write_gathered(writer, chunks)).await,
        }
    }

    /// A watcher that is behind has many chunks, and small ones.
    async fn write_gathered(&self, writer: &mut Writer, chunks: &Chunks) -> io::Result<()> {
        let mut gathered = Vec::new();
        for chunk in chunks {
            let bytes = chunk.bytes();
            if gathered.len() + bytes.len() > WRITE_BYTES {
                self.write_all(writer, &gathered).await?;
                gathered.clear();
            }
            if bytes.len() > WRITE_BYTES {
                self.write_all(writer, bytes).await?;
            } else {
                gathered.extend_from_slice(bytes);
            }
        }
        self.write_all(writer, &gathered).await
    }

    async fn write_all(&self, writer: &mut Writer, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            let written = match future::poll_once(writer.write(rest)).await {
                Some(result) => result?,
                // Boxed, because it is rare and every idle client would have to hold room for it.
                None => Box::pin(self.with_stall_detection(writer.write(rest))).await?,
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
            // A client that reads slowly has room for more before it has read the last byte.
            self.outbox.count_written(written);
            self.on_write();
        }
        match future::poll_once(writer.flush()).await {
            Some(result) => result,
            None => Box::pin(self.with_stall_detection(writer.flush())).await,
        }
    }

    /// The socket accepts nothing just now. Where that lasts, the coordinator hears of it.
    async fn with_stall_detection<T>(
        &self,
        write: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let stalled = async {
            match self.context.stall {
                Some(stall) => self.context.sleep(stall).await,
                None => pending().await,
            }
            if self.outbox.set_stalled(true) {
                self.send_message(Message::OutboxReady);
            }
            // From here on, the coordinator may lose its patience.
            poll_fn(|cx| self.outbox.poll_cut(cx)).await;
            Err(io::ErrorKind::ConnectionAborted.into())
        };
        let result = future::or(write, stalled).await;
        let _ = self.outbox.set_stalled(false);
        result
    }
}
