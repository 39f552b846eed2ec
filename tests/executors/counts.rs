//! The two counts, as clients come and go.

use std::time::Duration;

use keywire::{Server, Stats};

on_every_executor! {
    fn both_counts_are_right_after_each_round(executor: Executor) {
        let server = executor.start(Server::new());
        let mut gone = 0;
        let mut staying = Vec::new();
        for coming in [1, 50, 7, 33, 50] {
            for _ in 0..coming {
                let mut client = server.connect();
                // Whoever has a reply has been counted.
                assert_eq!(client.sync().1, 0);
                staying.push(client);
                assert_eq!(server.handle.stats().active, staying.len() as u64);
            }
            server.await_counts(staying.len() as u64, gone);
            // Every third leaves each round, one way or the other.
            let (leaving, rest): (Vec<_>, Vec<_>) = staying
                .into_iter()
                .enumerate()
                .partition(|(number, _)| number % 3 == 0);
            staying = rest.into_iter().map(|(_, client)| client).collect();
            for (number, client) in leaving {
                match number / 3 % 3 {
                    0 => drop(client),
                    1 => client.reset(),
                    _ => assert_eq!(client.end(), b""),
                }
                gone += 1;
            }
            server.await_counts(staying.len() as u64, gone);
        }
        let mut client = staying.pop().unwrap();
        client.send("Stats\n");
        let reply = client.text();
        let stats = Stats::parse(reply.strip_prefix(":stats:").unwrap().as_bytes()).unwrap();
        assert_eq!((stats.active, stats.dropped), (staying.len() as u64 + 1, gone));

        let everyone = gone + staying.len() as u64 + 1;
        let handle = server.handle.clone();
        server.stop(Duration::ZERO);
        let stats = handle.stats();
        assert_eq!((stats.active, stats.dropped), (0, everyone));
    }
}
