//! The example server's options for a cluster. It has to have been built with the feature.

use std::{fs, io::Read as _, os::unix::fs::PermissionsExt as _, process::Command};

use crate::{
    common::{
        example,
        server_process::{ServerProcess, refused},
    },
    nodes::{Setup, exclusive, shared},
    servers::{list_name, slot, within},
};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(example("server"));
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    command
}

#[test]
fn two_programs_serve_one_cluster() {
    let _bound = within(60);
    let nodes = shared();
    let addresses = nodes.addresses().join(",");
    let options = [
        "--cluster",
        &addresses,
        "--cluster-prefix",
        "program:",
        "--store-timeout",
        "3",
    ];
    let (mut one, other) = (
        ServerProcess::spawn(&mut command(&options)),
        ServerProcess::spawn(command(&options).args(["--replicas", "1"])),
    );
    one.connect().end_with("Put:user:alice\n");
    other.connect().end_with("Put:user:bob\n");
    let mut client = one.connect();
    client.send("Get:user\nKeys:\n");
    let (lines, _) = client.sync();
    assert_eq!(lines, [&b"user:alice"[..], b"user:bob", b"user:2"]);
    let name = list_name("program:", b"user");
    let length = nodes.ask(nodes.owner(slot(b"user")), [&b"LLEN"[..], &name]);
    assert_eq!(length.integer(), 2);
    drop(client);
    one.signal("-TERM");
    let (status, words) = one.wait();
    assert!(status.success(), "{words}");
}

#[test]
fn options_that_a_cluster_can_not_keep_are_refused() {
    let _bound = within(30);
    let addresses = shared().addresses().join(",");
    let cluster = ["--cluster", &addresses];
    for options in [
        &["--max-store", "1M"][..],
        &["--data", "/nowhere/at/all"],
        &["--sync", "1"],
    ] {
        let (code, words) = refused(command(&cluster).args(options));
        assert!(code == 2 && words.contains(options[0]), "{code}: {words}");
    }
    // Without a cluster they mean nothing.
    for options in [
        &["--cluster-prefix", "x"][..],
        &["--replicas", "1"],
        &["--store-timeout", "1"],
        &["--cluster-secret-file", "/nowhere/at/all"],
    ] {
        let (code, words) = refused(&mut command(options));
        assert!(code > 0 && words.contains("--cluster"), "{words}");
    }
    for address in ["", "127.0.0.1", "127.0.0.1:x", ",", "127.0.0.1:1,"] {
        let (code, words) = refused(&mut command(&["--cluster", address]));
        assert!(code > 0, "{words}");
    }
    let nobody = ["--cluster", "127.0.0.1:1", "--store-timeout", "1"];
    let (code, words) = refused(&mut command(&nobody));
    assert!(code > 0 && words.contains("127.0.0.1:1"), "{words}");
}

#[test]
fn the_secret_comes_from_a_file_and_is_not_shown() {
    const SECRET: &str = "open-sesame";
    let nodes = exclusive(Setup {
        secret: Some(SECRET),
        replicas: 0,
        ..Setup::default()
    });
    let file = std::env::temp_dir().join(format!("keywire-secret-{}", std::process::id()));
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let addresses = nodes.addresses().join(",");
    let options = ["--cluster", &addresses, "--store-timeout", "2"];
    let (_, words) = refused(&mut command(&options));
    assert!(
        words.contains("NOAUTH") || words.contains("secret"),
        "{words}"
    );
    let mut with_secret = command(&options);
    with_secret.arg("--cluster-secret-file").arg(&file);
    let (mut server, mut log) = ServerProcess::with_log("trace", &mut with_secret);
    server.connect().end_with("Put:hush-key:hush-value\n");
    server.signal("-TERM");
    let (status, mut words) = server.wait();
    log.read_to_string(&mut words).unwrap();
    assert!(words.contains("connected to a node"), "{words}");
    assert!(
        status.success() && !words.contains(SECRET) && !words.contains("hush"),
        "{words}"
    );
    fs::write(&file, "another\n").unwrap();
    let (_, words) = refused(&mut with_secret);
    assert!(
        !words.contains("another") && !words.contains(SECRET),
        "{words}"
    );
    fs::remove_file(&file).unwrap();
}
