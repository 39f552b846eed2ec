//! What a client says is neither in the metrics nor in the log, with the values on a disk.

use std::{
    fs::{self, Permissions},
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{common::example, request::Server};

#[test]
fn no_key_no_value_and_no_secret_is_in_them() {
    let name = format!("keywire-secrecy-{}", std::process::id());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir(&folder).unwrap();
    let secret = folder.join("secret");
    fs::write(&secret, "hush-secret\n").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(example("server"));
    command.args(["--max-values", "50", "--data"]);
    command.arg(folder.join("data"));
    command.arg("--secret-file").arg(&secret);
    command.env("KEYWIRE_LOG", "trace").stderr(Stdio::piped());
    let mut server = Server::spawn(&mut command);
    let mut wrong = server.process.connect();
    wrong.send("Auth:hush-wrong\nGet:hush-key\n");
    assert!(wrong.text().starts_with(":error:1:unauthorized:"));
    let mut client = server.process.connect();
    client.send("Auth:hush-secret\nWatchPrefix:hush\nhush-word\n");
    client.send("Put:hush-key:hush-value\n".repeat(100));
    client.end_with("Keys:hush\n");
    server.ask("GET /hush-path HTTP/1.1\r\nHost: hush-host\r\nAuthorization: hush\r\n\r\n");
    server.ask("hush\r\n\r\n");
    let metrics = server.get("/metrics").body;
    assert!(
        !metrics.contains("{reason=\"unauthorized\"} 0\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("{reason=\"max_values\"} 50\n"),
        "{metrics}"
    );
    assert!(!metrics.contains("hush"), "{metrics}");
    server.process.signal("-TERM");
    let mut log = server.process.child.stderr.take().unwrap();
    let (status, mut words) = server.process.wait();
    log.read_to_string(&mut words).unwrap();
    assert!(status.success());
    assert!(words.contains("a wrong secret, or none"), "{words}");
    assert!(words.contains("DEBUG keywire: client connected"), "{words}");
    assert!(!words.contains("hush"), "{words}");
    fs::remove_dir_all(&folder).unwrap();
}
