//! An in-memory connection, and a talk over one.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_lite::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Both directions of an in-memory connection.
pub(crate) struct Pipe {
    pub(crate) reader: piper::Reader,
    pub(crate) writer: piper::Writer,
}

impl Pipe {
    pub(crate) fn pair(capacity: usize) -> (Self, Self) {
        let (reader, far_writer) = piper::pipe(capacity);
        let (far_reader, writer) = piper::pipe(capacity);
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
        Pin::new(&mut self.reader).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(cx)
    }
}

/// A few commands through anything, then the end of the input, then the rest of the replies.
pub(crate) async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"Put:k:v\nGet:k\n").await.unwrap();
    let mut first = [0; 4];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"k:v\n");
    stream
        .write_all(b"Delete:k\nGet:k\nSync:done\n")
        .await
        .unwrap();
    stream.close().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}
