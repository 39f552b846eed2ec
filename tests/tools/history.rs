//! The history of the example client's line mode.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use keywire::Server;

use crate::common::{
    TestServer,
    terminal::{Has, Terminal},
    wait_until,
};

/// A directory of the test's own. It goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("keywire-history-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A session with this history.
fn session(server: &TestServer, history: &str) -> Terminal {
    let address = server.address.to_string();
    let variables = [("KEYWIRE_HISTORY", Some(history))];
    let client = Terminal::start_with(Has::All, "client", &["--connect", &address], &variables);
    client.await_shown("> ");
    client
}

#[track_caller]
fn end(mut session: Terminal) {
    session.press("\x04");
    assert_eq!(session.end(), Some(0), "{}", session.shown());
}

/// The lines that are kept.
fn kept(history: &str) -> Vec<String> {
    let text = fs::read_to_string(history).unwrap();
    let lines = text.strip_prefix("#V2\n").unwrap().lines();
    lines.map(str::to_owned).collect()
}

#[test]
fn the_next_session_has_the_lines_of_the_last_but_no_secret() {
    let server = TestServer::start(Server::new());
    let directory = Directory::new("next");
    let history = directory.path("history");
    let mut first = session(&server, &history);
    first.press("Put:k:v\r  auth:hunter2\rAuth:hunter2\rSync:end\r");
    first.await_shown(":sync:0:end");
    // What is written is not only written at the end.
    assert_eq!(kept(&history), ["Put:k:v", "Sync:end"]);
    first.press("\x04");
    first.end();
    let mode = fs::metadata(&history).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut second = session(&server, &history);
    second.press("\x10\x10\r");
    wait_until("the line is sent again", || {
        server.handle.stats().values == 2
    });
    end(second);
    assert_eq!(kept(&history), ["Put:k:v", "Sync:end", "Put:k:v"]);
}

#[test]
fn a_secret_in_a_paste_of_several_lines_is_not_kept() {
    let server = TestServer::start(Server::new());
    let directory = Directory::new("paste");
    let history = directory.path("history");
    let mut client = session(&server, &history);
    client.press("\x1b[200~Put:k:v\nAuth:hunter2\n\x1b[201~\rSync:end\r");
    client.await_shown(":sync:0:end");
    assert_eq!(kept(&history), ["Sync:end"]);
}

#[test]
fn sessions_at_once_keep_the_lines_of_all() {
    let server = TestServer::start(Server::new());
    let directory = Directory::new("once");
    let history = directory.path("history");
    let mut sessions: Vec<_> = (0..3).map(|_| session(&server, &history)).collect();
    for line in 0..50 {
        for (number, session) in sessions.iter_mut().enumerate() {
            session.press(&format!("Put:k:{number}-{line}\r"));
        }
    }
    sessions.into_iter().for_each(end);
    let kept = kept(&history);
    assert_eq!(kept.len(), 150);
    for number in 0..3 {
        let of_one = kept.iter().filter_map(|line| {
            let line = line.strip_prefix("Put:k:")?;
            line.strip_prefix(&format!("{number}-"))?
                .parse::<i32>()
                .ok()
        });
        assert!(of_one.eq(0..50), "{kept:?}");
    }
}

#[test]
fn a_history_is_bounded() {
    let server = TestServer::start(Server::new());
    let directory = Directory::new("bounded");
    let history = directory.path("history");
    let old: String = (0..1500).map(|number| format!("Get:{number}\n")).collect();
    fs::write(&history, format!("#V2\n{old}")).unwrap();
    let mut client = session(&server, &history);
    let long = "x".repeat(5000);
    client.press(&format!(
        "\x1b[200~Put:k:{long}\x1b[201~\rPut:k:v\rSync:end\r"
    ));
    client.await_shown(":sync:0:end");
    end(client);
    assert_eq!(server.handle.stats().values, 2);
    let kept = kept(&history);
    assert_eq!(kept.len(), 1000);
    assert_eq!(kept[0], "Get:502");
    assert_eq!(kept[997..], ["Get:1499", "Put:k:v", "Sync:end"]);
}

#[test]
fn a_file_that_can_not_be_used_is_said_once_and_left_as_it_is() {
    let server = TestServer::start(Server::new());
    let directory = Directory::new("unusable");
    let binary = directory.path("binary");
    fs::write(&binary, b"\xff\xfe\n").unwrap();
    let places = [
        &directory.path("none/history"),
        &directory.path(""),
        &binary,
    ];
    for history in places {
        let mut client = session(&server, history);
        client.press("Put:k:v\rSync:end\r");
        client.await_shown(":sync:0:end");
        // It is in this session's history all the same.
        client.press("\x10\x10\r\x04");
        assert_eq!(client.end(), Some(0));
        assert_eq!(client.shown().matches("no history is kept").count(), 1);
    }
    assert_eq!(server.handle.stats().values, 6);
    assert_eq!(fs::read(&binary).unwrap(), b"\xff\xfe\n");
}

#[test]
fn the_usual_place_is_the_state_directory() {
    let server = TestServer::start(Server::new());
    let directory = Directory::new("usual");
    for (variable, value, history) in [
        ("XDG_STATE_HOME", "state", "state/keywire/history"),
        ("HOME", "home", "home/.local/state/keywire/history"),
    ] {
        let (value, address) = (directory.path(value), server.address.to_string());
        let mut variables = vec![("KEYWIRE_HISTORY", None), ("XDG_STATE_HOME", None)];
        variables.push((variable, Some(value.as_str())));
        let arguments = ["--connect", &address];
        let mut client = Terminal::start_with(Has::All, "client", &arguments, &variables);
        client.await_shown("> ");
        client.press("Put:k:v\r");
        end(client);
        assert_eq!(kept(&directory.path(history)), ["Put:k:v"]);
    }
}
