//! Connections that break.

use std::io::Read as _;

use keywire::Server;

use crate::common::TestServer;

on_every_executor! {
    fn hundreds_of_resets_in_the_middle_of_replies_disturb_no_one(executor: Executor) {
        let server = executor.start(Server::new());
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
    let server = TestServer::start(Server::new());
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

#[test]
fn what_a_client_sent_before_it_left_is_applied_although_it_did_not_read() {
    let server = TestServer::start(Server::new());
    let mut steady = server.connect();
    steady.send(format!("Put:big:{}\n", "x".repeat(60_000)));
    steady.sync();
    for round in 0..20 {
        let mut client = server.connect();
        // It leaves with replies unread, which is a reset, and the rest of its commands unread.
        client.send("Delete:n\n".to_owned() + &"Get:big\n".repeat(20) + &"Put:n:1\n".repeat(5000));
        let socket = client.stream().try_clone().unwrap();
        std::net::TcpStream::shutdown(&socket, std::net::Shutdown::Write).unwrap();
        drop((client, socket));
        server.await_counts(1, round + 1);
        steady.send("Get:n\n");
        assert_eq!(steady.sync().0.len(), 5000);
    }
}

#[cfg(unix)]
#[test]
fn urgent_data_hides_nothing_that_follows_it() {
    let server = TestServer::start(Server::new());
    let mut client = server.connect();
    client.send("Sync:a\n");
    let socket = socket2::SockRef::from(client.stream());
    socket.send_out_of_band(b"!").unwrap();
    client.send("Sync:b\n");
    assert_eq!(client.text(), ":sync:0:a");
    assert_eq!(client.text(), ":sync:0:b");
}
