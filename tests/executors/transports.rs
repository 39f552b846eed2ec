//! Transports that are neither TCP nor a file.

use futures_lite::{StreamExt as _, future};
use keywire::{Event, Server};

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

    /// Whichever threads poll the server and the client.
    fn a_client_in_the_process_needs_no_socket(executor: Executor) {
        let server = executor.start(Server::new());
        executor.block_on(async {
            let client = server.handle.client().await.unwrap();
            let mut watcher = client.watch("k").await.unwrap();
            for number in 0..200 {
                let value = number.to_string().into_bytes();
                client.update("k", "", &value).await.unwrap();
                let event = watcher.next().await.unwrap().unwrap();
                assert!(matches!(event, Event::Update { new, .. } if new == value));
            }
            let gets = (0..100).fold(client.pipeline(), |pipeline, _| pipeline.get("k"));
            for outcome in gets.send().await.unwrap() {
                assert_eq!(outcome.unwrap().values().unwrap().len(), 200);
            }
        });
        server.await_counts(0, 1);
    }
}
