//! A connection in memory, for a client in the process of its server.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_lite::{AsyncRead, AsyncWrite};

/// Bytes that may be on their way in one direction: as many as either end reads at a time.
const PIPE_BYTES: usize = 64 * 1024;

/// One end of it. When one end is dropped, the other reads what is left, then the end of the stream.
///
/// There is no timer in it, and nothing is left to chance: piper's own `poll_read` and `poll_write`
/// yield at random, and then no simulation would repeat itself.
pub(crate) struct Pipe {
    reader: piper::Reader,
    writer: piper::Writer,
}

impl Pipe {
    pub(crate) fn pair() -> (Self, Self) {
        let (reader, far_writer) = piper::pipe(PIPE_BYTES);
        let (far_reader, writer) = piper::pipe(PIPE_BYTES);
        let far = Self {
            reader: far_reader,
            writer: far_writer,
        };
        (Self { reader, writer }, far)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.reader.poll(cx));
        Poll::Ready(Ok(self.reader.try_drain(buffer)))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.writer.poll(cx));
        Poll::Ready(match self.writer.try_fill(bytes) {
            0 if !bytes.is_empty() => Err(io::ErrorKind::BrokenPipe.into()),
            written => Ok(written),
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn write(pipe: &mut Pipe, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(pipe).poll_write(&mut Context::from_waker(Waker::noop()), bytes)
    }

    fn read(pipe: &mut Pipe, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(pipe).poll_read(&mut Context::from_waker(Waker::noop()), buffer)
    }

    /// A pipe that yields once in a hundred times, as piper's own does, has no chance here.
    #[test]
    fn what_can_be_done_at_once_is_done_at_once() {
        let (mut near, mut far) = Pipe::pair();
        for _ in 0..10_000 {
            assert!(matches!(write(&mut near, b"abc"), Poll::Ready(Ok(3))));
            let mut buffer = [0; 4];
            assert!(matches!(read(&mut far, &mut buffer), Poll::Ready(Ok(3))));
            assert_eq!(&buffer[..3], b"abc");
        }
    }

    #[test]
    fn it_holds_a_bounded_number_of_bytes_each_way() {
        let (mut near, mut far) = Pipe::pair();
        for _ in 0..2 {
            let bytes = vec![1; 2 * PIPE_BYTES];
            let mut held = 0;
            while let Poll::Ready(Ok(n)) = write(&mut near, &bytes) {
                held += n;
            }
            assert_eq!(held, PIPE_BYTES);
            assert!(matches!(read(&mut far, &mut [0; 10]), Poll::Ready(Ok(10))));
            assert!(matches!(write(&mut near, &bytes), Poll::Ready(Ok(10))));
            assert!(write(&mut near, &bytes).is_pending());
            std::mem::swap(&mut near, &mut far);
        }
    }

    #[test]
    fn the_other_end_reads_what_is_left_and_then_the_end() {
        let (mut near, mut far) = Pipe::pair();
        assert!(read(&mut far, &mut [0]).is_pending());
        assert!(matches!(write(&mut near, b"ab"), Poll::Ready(Ok(2))));
        drop(near);
        let error = match write(&mut far, b"c") {
            Poll::Ready(Err(error)) => error.kind(),
            written => panic!("{written:?}"),
        };
        assert_eq!(error, io::ErrorKind::BrokenPipe);
        assert!(matches!(read(&mut far, &mut [0; 9]), Poll::Ready(Ok(2))));
        assert!(matches!(read(&mut far, &mut [0; 9]), Poll::Ready(Ok(0))));
    }
}
