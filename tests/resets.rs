//! Connections that break.

#[macro_use]
mod common;

use std::io::Read as _;

use common::TestServer;
use keywire::Server;

on_every_executor! {
    fn hundreds_of_resets_in_the_middle_of_replies_disturb_no_one(place: Place) {
        let server = TestServer::start(place, Server::new());
        let mut steady = server.connect();
        steady.send(format!("Put:k:{}\n", "x".repeat(10_000)));
        assert_eq!(steady.sync().1, 0);
        for number in 0..300 {
            let mut client = server.connect();
            client.send("Get:k\n".repeat(1 + number % 100));
            let mut some = vec![0; 1 + 17 * number];
            client.stream().read_exact(&mut some[..1]).unwrap();
            let _ = client.stream().read(&mut some).unwrap();
            client.reset();
            if number % 10 == 0 {
                steady.send("Get:k\n");
                assert_eq!(steady.sync().0.len(), 1);
            }
        }
        server.await_counts(1, 300);
    }
}

#[test]
fn what_a_client_sent_before_it_left_is_applied() {
    let server = TestServer::start(common::Place::PLAIN, Server::new());
    for number in 0..100 {
        let mut client = server.connect();
        client.send(format!("Put:k:{number}\n"));
        drop(client);
        server.await_counts(0, number + 1);
    }
    let store = server.stop(std::time::Duration::ZERO);
    let expected = (0..100).map(|number| number.to_string().into_bytes());
    assert!(store.get(b"k").eq(expected));
}
