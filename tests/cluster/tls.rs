//! A cluster whose nodes speak TLS alone.

use std::{fs, process::Command};

use futures_lite::future;
use keywire::{
    Server,
    store::{Cluster, ClusterBuilder},
    tls::{Pem, client_config, rustls::pki_types::ServerName},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use crate::{
    common::{
        TestServer, example,
        server_process::{ServerProcess, refused},
        wait_until,
    },
    load::{Load, check, check_order, lists},
    nodes::{Exclusive, Setup, Tls, exclusive, shared},
    servers::{STORE_TIMEOUT, client, keys_by_master, server_with, within},
};

/// One that vouches for others.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// With another name, it is another authority. With the same name and another key, it is a forged one.
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> Pem {
        Pem::from_text("the authority", self.0.pem())
    }

    /// What nodes need that are at 127.0.0.1.
    fn vouch(&self) -> Tls {
        let names = ["127.0.0.1".to_owned(), "node.test".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap().pem();
        let key = key.serialize_pem();
        let own = (
            &Pem::from_text("certificate", &*certificate),
            &Pem::from_text("key", &*key),
        );
        Tls {
            ca: self.0.pem(),
            client: client_config(&self.pem(), Some(own)).unwrap(),
            certificate,
            key,
        }
    }
}

fn setup(authority: &Authority) -> Setup {
    Setup {
        replicas: 0,
        tls: Some(authority.vouch()),
        ..Setup::durable()
    }
}

fn rediss(nodes: &Exclusive) -> Vec<String> {
    let addresses = nodes.addresses().into_iter();
    addresses.map(|node| format!("rediss://{node}")).collect()
}

fn builder(authority: &Authority) -> ClusterBuilder {
    let config = client_config(&authority.pem(), None).unwrap();
    Cluster::builder().timeout(STORE_TIMEOUT).tls(config)
}

fn connect(builder: ClusterBuilder, nodes: &[impl AsRef<str>]) -> Result<Cluster, String> {
    let connected = smol::block_on(builder.connect(nodes));
    connected.map_err(|error| error.to_string())
}

#[test]
fn values_are_put_and_got_over_tls() {
    // More than TLS holds for a socket at a time.
    const LONG: usize = 200_000;
    let authority = Authority::new("one");
    let nodes = exclusive(setup(&authority));
    let store = connect(builder(&authority), &rediss(&nodes)).unwrap();
    let server = Server::builder().store(store).max_line(1 << 20);
    let server = TestServer::start(server.build());
    let client = client(&server);
    let groups = keys_by_master(&nodes, 4);
    let long = vec![b'x'; LONG];
    future::block_on(async {
        for key in groups.iter().flatten() {
            client.put(key, "alice").await.unwrap();
            client.put(key, &long).await.unwrap();
        }
        let mut pipeline = client.pipeline();
        for key in groups.iter().flatten() {
            pipeline = pipeline.get(key);
        }
        for answer in pipeline.send().await.unwrap() {
            let values = answer.unwrap().into_values();
            assert_eq!(values.unwrap(), [&b"alice"[..], &long]);
        }
        assert_eq!(client.stats().await.unwrap().nodes_up, 3);
    });

    // A connection that is lost is made anew, with its handshake.
    nodes.kill(1);
    wait_until("the node is missed", || {
        future::block_on(client.stats()).unwrap().nodes_up == 2
    });
    nodes.restart(1);
    nodes.wait_ok();
    future::block_on(async {
        client.put(&groups[1][0], "bob").await.unwrap();
        let values = client.get(&groups[1][0]).await.unwrap();
        assert_eq!(values, [&b"alice"[..], &long, b"bob"]);
    });
}

/// None is lost that was answered, and none is there twice, whatever TLS held when a node was killed.
#[test]
fn writes_are_applied_once_while_nodes_are_killed() {
    let authority = Authority::new("one");
    let nodes = exclusive(setup(&authority));
    let groups = keys_by_master(&nodes, 4);
    let config = client_config(&authority.pem(), None).unwrap();
    let servers = [(); 2].map(|()| server_with(&nodes, "tls:", |it| it.tls(config.clone())));
    let load = Load::start(&servers, &groups);
    for index in 0..nodes.len() {
        load.await_applied(&[0, 1, 2], 50);
        nodes.kill(index);
        nodes.restart(index);
    }
    load.await_applied(&[0, 1, 2], 50);
    let records = load.finish();
    check_order(&records);
    let tally = check(&records, &lists(&servers[0], &groups));
    eprintln!("tls: {tally}");
    assert_eq!(tally.lost, 0, "{tally}");
}

#[test]
fn what_does_not_fit_the_nodes_is_a_clear_error() {
    let _bound = within(60);
    let authority = Authority::new("one");
    let nodes = exclusive(setup(&authority));
    let seeds = rediss(&nodes);
    let refused = |builder, nodes: &[String], reason: &str| {
        let error = connect(builder, nodes).unwrap_err();
        assert!(error.contains(reason), "{error}");
    };
    refused(builder(&Authority::new("another")), &seeds, "UnknownIssuer");
    refused(builder(&Authority::new("one")), &seeds, "BadSignature");
    refused(Cluster::builder(), &seeds, "ClusterBuilder::tls");
    refused(Cluster::builder(), &nodes.addresses(), "rediss://");
    let plain = format!("redis://127.0.0.1:{}", nodes.port(0));
    refused(
        builder(&authority),
        std::slice::from_ref(&plain),
        "redis:// is without",
    );
    let mixed = [seeds[0].clone(), plain];
    refused(builder(&authority), &mixed, "in one way");
    refused(Cluster::builder(), &mixed, "in one way");

    let named = |name: &'static str| {
        let name = ServerName::try_from(name).unwrap();
        builder(&authority).tls_name(name)
    };
    refused(named("another.test"), &seeds, "not valid for name");
    connect(named("node.test"), &seeds).unwrap();
    // The builder says it as well as the address does.
    connect(builder(&authority), &nodes.addresses()).unwrap();
}

#[test]
fn a_node_without_tls_is_a_clear_error() {
    let _bound = within(60);
    let nodes = shared();
    let error = connect(builder(&Authority::new("one")), &nodes.addresses()).unwrap_err();
    assert!(error.contains("may not speak TLS"), "{error}");
}

/// The example server has to have been built with both features. These nodes ask for its certificate.
#[test]
fn the_program_speaks_tls_to_the_nodes() {
    let authority = Authority::new("one");
    let nodes = exclusive(setup(&authority).with("tls-auth-clients", "yes"));
    let own = authority.vouch();
    let name = format!("keywire-cluster-tls-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let (ca, certificate, key) = (
        file("ca.pem", &own.ca),
        file("cert.pem", &own.certificate),
        file("key.pem", &own.key),
    );
    let command = || {
        let mut command = Command::new(example("server"));
        command.args(["--listen", "127.0.0.1:0", "--cluster"]);
        command.arg(rediss(&nodes).join(","));
        command
    };
    let (code, words) = refused(&mut command());
    assert!(code > 0 && words.contains("--cluster-ca"), "{words}");
    let with_ca = || {
        let mut command = command();
        command.arg("--cluster-ca").arg(&ca);
        command
    };
    let (code, words) = refused(&mut with_ca());
    // The node's alert, or that it has closed the connection, whichever is seen first.
    assert!(code > 0 && words.contains(&rediss(&nodes)[0]), "{words}");
    let mut with_own = with_ca();
    with_own.arg("--cluster-cert").arg(&certificate);
    with_own.arg("--cluster-key").arg(&key);
    with_own.args(["--cluster-tls-name", "node.test"]);
    let mut server = ServerProcess::spawn(&mut with_own);
    let mut client = server.connect();
    client.send("Put:user:alice\nGet:user\n");
    let (lines, _) = client.sync();
    assert_eq!(lines, [&b"user:alice"[..]]);
    drop(client);
    server.signal("-TERM");
    let (status, words) = server.wait();
    assert!(status.success(), "{words}");
    fs::remove_dir_all(&directory).unwrap();
}
