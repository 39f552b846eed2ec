//! A connection without a network: it gives each piece of its script as one read, then ends, and
//! keeps what is written to it.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::{AsyncRead, AsyncWrite, future};
use keywire::{Server, store::Store};

struct Script {
    pieces: VecDeque<Vec<u8>>,
    output: Arc<Mutex<Vec<u8>>>,
    closed: async_channel::Sender<()>,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(mut piece) = self.pieces.pop_front() else {
            return Poll::Ready(Ok(0));
        };
        let n = piece.len().min(buffer.len());
        buffer[..n].copy_from_slice(&piece[..n]);
        if n < piece.len() {
            self.pieces.push_front(piece.split_off(n));
        }
        Poll::Ready(Ok(n))
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.output.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.closed.close();
        Poll::Ready(Ok(()))
    }
}

/// Lets the server answer one client that sends these pieces and ends. Gives back all that it
/// wrote, and the store.
pub fn converse<'a, S: Store>(
    server: Server<S>,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, S) {
    let output = Arc::new(Mutex::new(Vec::new()));
    let (closed, hung_up) = async_channel::bounded::<()>(1);
    let script = Script {
        // An empty read would be the end of the stream.
        pieces: pieces
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .map(<[u8]>::to_vec)
            .collect(),
        output: output.clone(),
        closed,
    };
    let handle = server.handle();
    let client = async {
        handle.attach(script).await.unwrap();
        let _ = hung_up.recv().await;
        handle.shutdown(Duration::from_secs(1)).await;
    };
    let (store, ()) = future::block_on(future::zip(server.run(), client));
    let output = std::mem::take(&mut *output.lock().unwrap());
    (output, store)
}
