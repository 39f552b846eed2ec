//! What the example server answers to requests of all kinds, good and bad, and to connections without one.

use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::{
        example,
        server_process::{ServerProcess, refused},
        wait_until,
    },
    request::{Server, next_line},
};

/// How long a connection may last.
const TIME: Duration = Duration::from_secs(5);

/// How many there may be.
const CONNECTIONS: usize = 64;

#[test]
fn both_paths_can_be_read_by_get_and_head() {
    let server = Server::start(&[]);
    for path in ["/metrics", "/healthz", "/metrics?a=b", "/healthz?"] {
        let get = server.get(path);
        assert_eq!(get.status, 200, "{path}");
        assert_eq!(
            get.header("Content-Length").unwrap(),
            get.body.len().to_string()
        );
        let head = server.ask(&format!("HEAD {path} HTTP/1.0\r\n\r\n"));
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
        assert_ne!(head.header("Content-Length"), Some("0"));
        assert_eq!(head.header("Content-Type"), get.header("Content-Type"));
        assert_eq!(get.header("Access-Control-Allow-Origin"), None);
    }
    let metrics = server.get("/metrics");
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(metrics.header("Content-Type"), Some(openmetrics));
    assert!(metrics.body.ends_with("\n# EOF\n"));
}

#[test]
fn nothing_can_be_written() {
    let server = Server::start(&[]);
    let body = "Put:k:1\n".repeat(1_000);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        for path in ["/metrics", "/healthz"] {
            let length = body.len();
            let request =
                format!("{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}");
            let answer = server.ask(&request);
            assert_eq!(answer.status, 405, "{method}");
            assert_eq!(answer.header("Allow"), Some("GET, HEAD"));
        }
    }
    for path in [
        "/",
        "/metrics/",
        "/healthz/x",
        "//metrics",
        "/../metrics",
        "*",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("\nkeywire_store_keys 0\n"));
}

#[test]
fn bad_requests_are_refused() {
    let server = Server::start(&[]);
    let long = format!("GET /metrics HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    let endless = format!("GET /{}", "x".repeat(20_000));
    for request in [long, many, endless] {
        assert_eq!(server.ask(&request).status, 431, "{:.40}", request);
    }
    for request in [
        "Put:k:1\r\n\r\n",
        "GET /metrics\r\n\r\n",
        "GET /metrics HTTP/9.9\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nno header\r\n\r\n",
        "\0\0\0\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        assert_eq!(server.ask(request).status, 400, "{request:?}");
    }
    // One that ends early is not answered.
    for request in ["", "GET /metrics HT"] {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    assert_eq!(server.get("/healthz").body, "serving\n");
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("\r\n\r\nserving\n"), "{text}");
}

#[test]
fn idle_connections_shut_nobody_out_and_end() {
    let server = Server::start(&[]);
    let before = server.process.descriptors();
    let start = Instant::now();
    let mut idle: Vec<_> = (0..3 * CONNECTIONS).map(|_| server.connect()).collect();
    for stream in idle.iter_mut().step_by(2) {
        // The oldest ones are closed by now.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ");
    }
    assert_eq!(server.get("/healthz").body, "serving\n");
    assert!(start.elapsed() < TIME, "{:?}", start.elapsed());
    assert!(server.process.descriptors() <= before + CONNECTIONS);
    // All of them end, as an end of the stream or a reset.
    for mut stream in idle {
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert!(start.elapsed() < 4 * TIME, "{:?}", start.elapsed());
    wait_until("all are closed", || server.process.descriptors() <= before);
}

#[test]
fn others_can_not_read_it_unless_it_is_open() {
    let secret = std::env::temp_dir().join(format!("keywire-metrics-{}", std::process::id()));
    fs::write(&secret, "sesame\n").unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    let command = |address: &str| {
        let mut command = Command::new(example("server"));
        command.args(["--listen", "127.0.0.1:0", "--metrics", address]);
        command
    };
    for address in ["0.0.0.0:0", ":0", "0", "[::]:0"] {
        // The secret is that of clients, and does not guard the metrics.
        let (code, words) = refused(command(address).arg("--secret-file").arg(&secret));
        assert_eq!(code, 1);
        assert!(words.contains("--open lets them"), "{words}");
    }
    let (_, words) = refused(&mut command("unix:/tmp/metrics"));
    assert!(words.contains("expected HOST:PORT"), "{words}");
    let (code, words) = refused(&mut command("nonsense"));
    assert_eq!(code, 2, "{words}");

    let mut open = Command::new(example("server"));
    open.args([
        "--listen",
        "127.0.0.1:0",
        "--metrics",
        "0.0.0.0:0",
        "--open",
    ]);
    let mut process = ServerProcess::spawn(&mut open);
    let line = next_line(&mut process);
    assert!(line.starts_with("metrics at http://0.0.0.0:"), "{line}");
    fs::remove_file(secret).unwrap();
}

#[test]
fn an_address_in_use_is_an_error() {
    let server = Server::start(&[]);
    let mut command = Command::new(example("server"));
    command.args(["--listen", "127.0.0.1:0", "--metrics", &server.address]);
    let (code, words) = refused(&mut command);
    assert_eq!(code, 1);
    assert!(words.contains("--metrics"), "{words}");
}

#[test]
fn a_body_is_taken_though_the_answer_is_there() {
    let server = Server::start(&[]);
    let mut stream = server.connect();
    let head = b"POST /metrics HTTP/1.1\r\nContent-Length: 2000\r\n\r\n";
    stream.write_all(head).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
    // A socket that is closed refuses the first by a reset, and the second fails.
    stream.write_all(&[b'x'; 1_000]).unwrap();
    stream.write_all(&[b'x'; 1_000]).unwrap();
}

#[test]
fn a_busy_server_answers() {
    let server = Server::start(&[]);
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut client = server.process.connect();
            let enough = &enough;
            scope.spawn(move || {
                while !enough.load(Ordering::Relaxed) {
                    client.send("Put:k:1\nGet:k\nDelete:k\n".repeat(1_000));
                    client.sync();
                }
            });
        }
        for _ in 0..20 {
            let start = Instant::now();
            assert_eq!(server.get("/healthz").body, "serving\n");
            assert!(server.get("/metrics").body.ends_with("# EOF\n"));
            assert!(start.elapsed() < TIME, "{:?}", start.elapsed());
        }
        enough.store(true, Ordering::Relaxed);
    });
}

/// What restarts a server that does not answer would end the connections of all its clients.
#[test]
fn a_server_without_descriptors_still_says_how_it_is() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -S -n 40 && exec \"$0\" \"$@\""]);
    let server = Server::spawn(command.arg(example("server")));
    let clients: Vec<_> = (0..60).map(|_| server.process.connect()).collect();
    let errors = || {
        let metrics = server.get("/metrics").body;
        let mut lines = metrics.lines();
        let errors = lines.find_map(|line| line.strip_prefix("keywire_accept_errors_total "));
        errors.unwrap().parse::<u64>().unwrap()
    };
    wait_until("there is no descriptor left", || errors() > 0);
    let before = errors();
    for _ in 0..5 {
        assert_eq!(server.get("/healthz").body, "serving\n");
    }
    // All the while there was none for clients.
    wait_until("it tries again", || errors() > before);
    drop(clients);
}
