//! What is promised without TLS holds with it.

use std::{io, sync::Arc, time::Duration};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, future};
use keywire::{
    Client, Error, Event, Listener as _, Server,
    tls::{
        TlsListener,
        futures_rustls::pki_types::ServerName,
        rustls::{self, ClientConfig, RootCertStore, crypto::ring},
    },
};
use smol::net::TcpStream;

use crate::common::{Authority, Talk, TlsServer, run, wait_until};

const LONG: Duration = Duration::from_secs(60);

/// What a client that knows control lines is told last.
const END: &str = ":error:0:closing:the server is shutting down";

/// One that speaks this version alone.
fn of_version(
    authority: &Authority,
    version: &'static rustls::SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.text().as_bytes());
    roots.add(certificate.unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn both_versions_of_tls_are_spoken() {
    run(async {
        let served = TlsServer::start();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = of_version(&served.authority, version);
            let mut client = served.connect_as(config).await.unwrap();
            client.send("Put:k:v\nGet:k\n").await;
            assert_eq!(client.text().await, "k:v");
            client.send("Delete:k\nGet:k\nSync:done\n").await;
            assert_eq!(client.end().await, ":sync:0:done\n");
        }
        served.await_counts(0, 2).await;
    });
}

#[test]
fn the_library_s_client_works_over_it() {
    run(async {
        let served = TlsServer::start();
        let client = Client::from_stream(served.connect().await.into_stream());
        let other = Client::from_stream(served.connect().await.into_stream());
        client.put("k", "v").await.unwrap();
        let mut changes = other.watch("k").await.unwrap();
        client.update("k", "v", "w").await.unwrap();
        let event = changes.next().await.unwrap().unwrap();
        let (key, old, new) = (b"k".to_vec(), b"v".to_vec(), b"w".to_vec());
        assert_eq!(event, Event::Update { key, old, new });
        assert_eq!(other.get("k").await.unwrap(), [b"w"]);
        // A thousand calls at once share writes.
        let pipeline = (0..1000).fold(client.pipeline(), |pipeline, number| {
            pipeline.put("many", number.to_string())
        });
        pipeline.send().await.unwrap();
        assert_eq!(client.get("many").await.unwrap().len(), 1000);
    });
}

#[test]
fn the_library_s_client_makes_its_own_connections() {
    run(async {
        let served = TlsServer::start();
        let port = served.address.port();
        let builder = |host: &str, authority: &Authority| {
            let client = Client::builder().address(format_args!("{host}:{port}"));
            client.tls(authority.client())
        };
        let client = builder("127.0.0.1", &served.authority)
            .connect()
            .await
            .unwrap();
        client.put("k", "v").await.unwrap();
        let named = builder("127.0.0.1", &served.authority).tls_name("localhost");
        assert_eq!(
            named.connect().await.unwrap().get("k").await.unwrap(),
            [b"v"]
        );
        let other = Authority::new("another");
        for wrong in [
            builder("127.0.0.1", &served.authority).tls_name("example.com"),
            builder("127.0.0.1", &served.authority).tls_name("no name"),
            builder("127.0.0.1", &other),
        ] {
            let error = wrong.connect().await.unwrap_err();
            assert!(matches!(error, Error::Connect(_)), "{error}");
        }
        // Plain text to a TLS port does not help by being repeated.
        let plain = Client::builder().address(served.address);
        let error = plain.build().sync().await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    });
}

#[test]
fn a_slow_reader_of_10_000_replies_loses_none() {
    run(async {
        let served = TlsServer::start();
        let mut client = served.connect().await;
        let value = "x".repeat(1000);
        client.send(format!("Put:k:{value}\n")).await;
        let (mut reader, mut writer) = futures_lite::io::split(client.into_stream());
        let asking = async {
            let gets = "Get:k\n".repeat(10_000) + "Sync:all\n";
            writer.write_all(gets.as_bytes()).await.unwrap();
            writer.flush().await.unwrap();
        };
        let reading = async {
            let expected = format!("k:{value}\n").repeat(10_000) + ":sync:0:all\n";
            let mut replies = Vec::new();
            let mut piece = vec![0; 8 * 1024];
            while replies.len() < expected.len() {
                let n = reader.read(&mut piece).await.unwrap();
                assert!(n > 0);
                replies.extend_from_slice(&piece[..n]);
                smol::Timer::after(Duration::from_micros(100)).await;
            }
            assert!(replies == expected.as_bytes(), "not what was put");
        };
        future::zip(asking, reading).await;
    });
}

#[test]
fn who_does_not_read_loses_replies_and_is_told() {
    run(async {
        const GETS: usize = 8000;
        let server = Server::builder()
            .stall_timeout(Duration::from_millis(100))
            .build();
        let served = TlsServer::with(server, |listener| listener);
        let mut slow = served.connect().await;
        slow.send(format!("Put:k:{}\n", "x".repeat(4096))).await;
        slow.send("Get:k\n".repeat(GETS) + "Sync:all\n").await;
        let mut other = served.connect().await;
        wait_until("every Get is answered or dropped", || {
            served.handle.stats().commands >= GETS as u64 + 2
        })
        .await;
        other.sync().await;
        let mut came = 0;
        let lost: usize = loop {
            match slow.text().await.strip_prefix(":sync:") {
                Some(rest) => break rest.strip_suffix(":all").unwrap().parse().unwrap(),
                None => came += 1,
            }
        };
        assert!(came >= 500 && lost > 0);
        assert_eq!(came + lost, GETS);
        slow.sync().await;
    });
}

#[test]
fn values_larger_than_a_record_arrive_whole() {
    run(async {
        let served = TlsServer::start();
        let mut client = served.connect().await;
        let mut expected = String::new();
        for size in [16_000, 16_384, 16_385, 40_000, 65_000] {
            let value = size.to_string() + &"v".repeat(size);
            client.send(format!("Put:k:{value}\n")).await;
            expected += &format!("k:{value}\n");
        }
        client.send("Get:k\n".repeat(20)).await;
        assert!(client.end().await == expected.repeat(20));
    });
}

#[test]
fn the_end_of_the_input_is_not_the_end_of_the_replies() {
    run(async {
        let served = TlsServer::start();
        let commands = "Put:k:v\n".to_owned() + &"Get:k\n".repeat(50) + "Delete:k\nPut:half";
        let replies = "k:v\n".repeat(50)
            + ":error:53:malformed:the input ended within a line; it was not applied\n";
        // With close_notify, and without.
        let mut polite = served.connect().await;
        polite.send(&commands).await;
        assert_eq!(polite.end().await, replies);
        let mut cut = served.connect().await;
        cut.send(&commands).await;
        cut.cut();
        assert_eq!(cut.rest().await, replies);
        served.await_counts(0, 2).await;
        let mut third = served.connect().await;
        third.send("Get:half\nGet:k\n").await;
        assert_eq!(third.end().await, "");
    });
}

#[test]
fn a_shutdown_delivers_everything_and_says_that_it_was_all() {
    run(async {
        let served = TlsServer::start();
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = served.connect().await;
            client.sync().await;
            clients.push(client);
        }
        let mut busy = served.connect().await;
        busy.send(format!("Put:k:{}\nSync\n", "x".repeat(60_000)))
            .await;
        assert_eq!(busy.text().await, ":sync:0:");
        busy.send("Get:k\n".repeat(60)).await;
        let first = busy.text().await;
        let handle = served.handle.clone();
        let stopping = smol::spawn(served.stop(LONG));
        for mut client in clients {
            assert_eq!(client.text().await, END);
            assert_eq!(client.line().await, None);
        }
        for _ in 1..60 {
            assert_eq!(busy.text().await, first);
        }
        assert_eq!(busy.text().await, END);
        assert_eq!(busy.line().await, None);
        drop(busy);
        stopping.await;
        assert_eq!((handle.stats().active, handle.stats().dropped), (0, 21));
    });
}

#[test]
fn who_is_cut_off_can_tell() {
    run(async {
        let served = TlsServer::start();
        let mut client = served.connect().await;
        client.sync().await;
        served.stop(Duration::ZERO).await;
        let read = client.stream().read(&mut [0; 10]).await;
        let kind = read.unwrap_err().kind();
        let broken = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
        assert!(broken.contains(&kind), "{kind}");
    });
}

#[test]
fn the_address_is_that_of_the_connection() {
    run(async {
        let listener = keywire::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Authority::new("ours").vouch().server();
        let mut listener = TlsListener::new(listener, config);
        let _client = TcpStream::connect(address).await.unwrap();
        let (_stream, from) = listener.accept().await.unwrap();
        assert_eq!(from, Some(address.ip()));
    });
}

#[test]
fn a_name_that_is_not_in_the_certificate_is_refused() {
    run(async {
        let served = TlsServer::start();
        let config = served.authority.client();
        let connector = keywire::tls::TlsConnector::from(config);
        let name = ServerName::try_from("elsewhere").unwrap();
        let refused = connector.connect(name, served.plain().await).await;
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("not valid for name")
        );
        served.await_counts(0, 1).await;
        let over = Talk::over(served.plain().await, served.authority.client());
        over.await.unwrap().sync().await;
    });
}

/// Many records stand in the socket, and the server has read none of them when it is told to stop.
#[test]
fn all_that_stands_in_a_socket_at_a_shutdown_is_refused_by_number() {
    const LINES: usize = 12_000;
    run(async {
        let authority = Authority::new("ours");
        let listener = keywire::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TlsListener::new(listener, authority.vouch().server());
        let server = Server::builder().listen(listener).build();
        let handle = server.handle();
        let mut serving = std::pin::pin!(server.run());
        let connect = async {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut client = Talk::over(stream, authority.client()).await.unwrap();
            client.sync().await;
            Some(client)
        };
        let until_stopped = async {
            serving.as_mut().await;
            None
        };
        let mut client = future::or(connect, until_stopped).await.expect("a client");
        // Nobody polls the server meanwhile.
        client.send("Bad:k\n".repeat(LINES)).await;
        let mut stop = std::pin::pin!(handle.shutdown(LONG));
        assert!(future::poll_once(stop.as_mut()).await.is_none());
        let all = future::zip(serving, future::zip(stop, client.rest()));
        let (_, ((), replies)) = all.await;
        let mut replies = replies.lines();
        for number in 2..=LINES + 1 {
            let start = format!(":error:{number}:");
            let reply = replies.next().unwrap_or_default();
            assert!(reply.starts_with(&start), "{reply:?} in place of {start}");
        }
    });
}
