//! The example server and client as processes, with TLS between them.

#![cfg(target_os = "linux")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use common::{Authority, Identity};

/// An example that was built with TLS.
fn example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push(format!("examples/{name}"));
    let missing = "first run: cargo build --features tls --example server --example client";
    assert!(path.exists(), "{missing}");
    path
}

/// A folder of this test's own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("keywire-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The names of the files of a certificate and its key.
    fn identity(&self, name: &str, identity: &Identity) -> (String, String) {
        let certificate = self.file(&format!("{name}.pem"), &identity.certificate_text);
        (
            certificate,
            self.file(&format!("{name}.key"), &identity.key_text),
        )
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct ServerProcess {
    child: Child,
    output: BufReader<ChildStdout>,
    first: String,
    address: String,
}

impl ServerProcess {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(example("server"));
        let mut child = command
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        output.read_line(&mut first).unwrap();
        let rest = first.strip_prefix("keywire listens on ").expect(&first);
        let address = rest.split(',').next().unwrap().to_owned();
        Self {
            child,
            output,
            first,
            address,
        }
    }

    /// Ends it. Gives what it has printed, and its log.
    fn terminate(&mut self) -> String {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        let mut log = self.child.stderr.take().unwrap();
        log.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn client(address: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(example("client"));
    command.args(["--connect", address]).args(arguments);
    command.output().unwrap()
}

#[track_caller]
fn expect(output: &Output, code: i32, printed: &str, error: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), printed);
    assert!(errors.contains(error), "{errors}");
}

#[test]
fn the_server_and_the_client_speak_tls() {
    let folder = Folder::new("both");
    let authority = Authority::new("ours");
    let ca = folder.file("ca.pem", &authority.text());
    let other = folder.file("other.pem", &Authority::new("other").text());
    let (certificate, key) = folder.identity("server", &authority.vouch());
    let own = ["--tls-cert", &certificate, "--tls-key", &key];
    let mut served = ServerProcess::start(&[&["--listen", "127.0.0.1:0"], &own[..]].concat());
    assert!(served.first.contains(", TLS, "), "{}", served.first);
    let address = &*served.address;
    expect(
        &client(address, &["--tls-ca", &ca, "put", "k", "v"]),
        0,
        "",
        "",
    );
    expect(
        &client(address, &["get", "k", "--tls-ca", &ca]),
        0,
        "v\n",
        "",
    );
    let named = ["get", "k", "--tls-ca", &ca, "--tls-name", "localhost"];
    expect(&client(address, &named), 0, "v\n", "");
    let named = ["get", "k", "--tls-ca", &ca, "--tls-name", "elsewhere"];
    expect(&client(address, &named), 2, "", "not valid for name");
    expect(
        &client(address, &["get", "k", "--tls-ca", &other]),
        2,
        "",
        "UnknownIssuer",
    );
    expect(&client(address, &["get", "k"]), 2, "", "TLS");
    let half = ["get", "k", "--tls-ca", &ca, "--tls-key", &key];
    expect(&client(address, &half), 2, "", "--tls-key needs --tls-cert");
    expect(
        &client(address, &["get", "k", "--tls-name", "a"]),
        2,
        "",
        "need --tls-ca",
    );

    // Lines from a pipe: its end is the end of the commands, not of the replies.
    let mut child = Command::new(example("client"))
        .args(["--connect", address, "--tls-ca", &ca])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let gets = "Get:k\n".repeat(1000);
    child
        .stdin
        .take()
        .unwrap()
        .write_all(gets.as_bytes())
        .unwrap();
    expect(
        &child.wait_with_output().unwrap(),
        0,
        &"k:v\n".repeat(1000),
        "",
    );

    assert!(served.terminate().contains("shut down clients=7 "));
}

#[test]
fn no_key_no_value_and_no_secret_is_in_the_log_with_tls_either() {
    let folder = Folder::new("log");
    let authority = Authority::new("ours");
    let ca = folder.file("ca.pem", &authority.text());
    let (certificate, key) = folder.identity("server", &authority.vouch());
    let private: Vec<_> = fs::read_to_string(&key)
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .map(str::to_owned)
        .collect();
    let secret = folder.file("ours", "hush-secret\n");
    let wrong = folder.file("theirs", "hush-wrong\n");
    let mut server = ServerProcess::start(&[
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        &certificate,
        "--tls-key",
        &key,
        "--secret-file",
        &secret,
        "--log",
        "trace",
    ]);
    let run = |secret: &str| {
        let options = ["--tls-ca", &ca, "--secret-file", secret];
        let set = [&options[..], &["set", "hush-key", "hush-value"]].concat();
        client(&server.address, &set).status.success()
    };
    assert!(run(&secret) && !run(&wrong));
    // One that speaks no TLS.
    let mut plain = TcpStream::connect(&server.address).unwrap();
    plain.write_all(b"Put:hush-key:hush-value\n").unwrap();
    let _ = plain.read_to_end(&mut Vec::new());
    let log = server.terminate();
    assert!(log.contains("a wrong secret, or none"), "{log}");
    assert!(log.contains("DEBUG keywire: client connected"), "{log}");
    assert!(!log.contains("hush"), "{log}");
    assert!(private.len() > 1 && private.iter().all(|line| !log.contains(line)));
}

#[test]
fn clients_may_have_to_show_a_certificate_on_a_unix_socket_too() {
    let folder = Folder::new("unix");
    let authority = Authority::new("ours");
    let ca = folder.file("ca.pem", &authority.text());
    let (certificate, key) = folder.identity("own", &authority.vouch());
    let socket = folder.0.join("socket");
    let address = format!("unix:{}", socket.display());
    let own = ["--tls-cert", &certificate, "--tls-key", &key];
    let listener = ["--listen", &address, "--tls-client-ca", &ca];
    let mut served = ServerProcess::start(&[&listener[..], &own].concat());
    assert!(served.first.contains("TLS for clients with a certificate"));
    let base = ["put", "k", "v", "--tls-ca", &ca];
    expect(
        &client(&address, &base),
        2,
        "",
        "--tls-name says which it is",
    );
    let named = [&base[..], &["--tls-name", "localhost"]].concat();
    expect(&client(&address, &named), 2, "", "CertificateRequired");
    expect(&client(&address, &[&named[..], &own].concat()), 0, "", "");
    served.terminate();
    assert!(!Path::new(&socket).exists());
}

#[test]
fn files_that_are_of_no_use_are_named_with_the_reason() {
    let folder = Folder::new("files");
    let authority = Authority::new("ours");
    let (certificate, key) = folder.identity("own", &authority.vouch());
    let (_, stranger) = folder.identity("stranger", &authority.vouch());
    let text = fs::read_to_string(&certificate).unwrap();
    let empty = folder.file("empty.pem", "");
    let cut = folder.file("cut.pem", &text[..text.len() / 2]);
    let damaged = folder.file("damaged.pem", &text.replacen("MII", "M!!", 1));
    let useless = folder.file("useless.pem", &text.replacen("MII", "QQQ", 1));
    let secret =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = folder.file("encrypted.pem", secret);
    let strange = folder.file("strange.pem", &secret.replace("ENCRYPTED ", ""));
    let there = folder.0.display().to_string();
    let nowhere = format!("{there}/nowhere.pem");
    for (certificate, key, blamed, reason) in [
        (&nowhere, &key, &nowhere, "No such file"),
        (&there, &key, &there, "directory"),
        (&key, &certificate, &key, "holds no certificate, but a key"),
        (
            &certificate,
            &certificate,
            &certificate,
            "holds no private key, but a certificate",
        ),
        (&certificate, &stranger, &stranger, "is not the key"),
        (&certificate, &empty, &empty, "holds no private key in PEM"),
        (&certificate, &encrypted, &encrypted, "encrypted"),
        (&certificate, &strange, &strange, "another kind"),
        (&empty, &key, &empty, "holds no certificate in PEM"),
        (&cut, &key, &cut, "cut off"),
        (&damaged, &key, &damaged, "damaged"),
        (&useless, &key, &useless, "of no use"),
    ] {
        let mut server = Command::new(example("server"));
        server.args([
            "--listen",
            "127.0.0.1:0",
            "--tls-cert",
            certificate,
            "--tls-key",
            key,
        ]);
        let output = server.output().unwrap();
        expect(&output, 1, "", &format!("error: {blamed}: "));
        expect(&output, 1, "", reason);
    }
    for (alone, missing) in [
        ("--tls-cert", "--tls-key"),
        ("--tls-key", "--tls-cert"),
        ("--tls-client-ca", "--tls-cert"),
    ] {
        let output = Command::new(example("server"))
            .args([alone, &certificate])
            .output();
        expect(&output.unwrap(), 2, "", missing);
    }
}

#[test]
fn who_speaks_tls_to_a_plain_server_or_not_to_one_with_it_is_told_what_is_wrong() {
    let folder = Folder::new("mixed");
    let authority = Authority::new("ours");
    let ca = folder.file("ca.pem", &authority.text());
    let (certificate, key) = folder.identity("server", &authority.vouch());
    let own = ["--tls-cert", &certificate, "--tls-key", &key];
    let tls = ServerProcess::start(&[&["--listen", "127.0.0.1:0"], &own[..]].concat());
    let plain = ServerProcess::start(&["--listen", "127.0.0.1:0"]);
    for (address, options, told) in [
        (
            &plain.address,
            &["--tls-ca", &ca][..],
            "does not seem to speak TLS",
        ),
        (&tls.address, &[], "seems to speak TLS; --tls-ca"),
    ] {
        for command in [
            &["get", "k"][..],
            &["put", "k", "v"],
            &["watch", "k"],
            &["stats"],
        ] {
            let output = client(address, &[command, options].concat());
            expect(&output, 2, "", told);
        }
        // Lines from a pipe, and none at all.
        for input in [&b"Put:k:v\nGet:k\n"[..], b""] {
            let mut lines = Command::new(example("client"));
            lines.args(["--connect", address]).args(options);
            lines.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = lines.stderr(Stdio::piped()).spawn().unwrap();
            // It may have been turned away before it reads this.
            let _ = child.stdin.take().unwrap().write_all(input);
            expect(&child.wait_with_output().unwrap(), 2, "", told);
        }
    }
}
