//! A transport that is neither TCP nor a file.

use futures_lite::future;
use keywire::Server;

use crate::pipe::{Pipe, talk};

on_every_executor! {
    fn a_client_comes_in_through_a_pipe(executor: Executor) {
        // From a roomy pipe to one that takes a byte at a time.
        for capacity in [1, 7, 1000] {
            let server = executor.start(Server::new());
            let (ours, theirs) = Pipe::pair(capacity);
            let replies = future::block_on(async {
                server.handle.attach(theirs).await.unwrap();
                talk(ours).await
            });
            assert_eq!(replies, ":sync:0:done\n");
            server.await_counts(0, 1);
        }
    }
}
