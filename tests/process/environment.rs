//! Options of the programs that come from the environment.

use std::process::{Command, Output};

use crate::common::{
    example,
    server_process::{ServerProcess, refused},
};

fn server() -> Command {
    Command::new(example("server"))
}

fn client(variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(example("client"));
    command.args(arguments).envs(variables.iter().copied());
    command.output().unwrap()
}

#[test]
fn an_option_of_the_server_may_be_a_variable() {
    let mut command = server();
    command.envs([
        ("KEYWIRE_LISTEN", "127.0.0.1:0,127.0.0.1:0"),
        ("KEYWIRE_MAX_LINE", "1K"),
        ("KEYWIRE_OVERFLOW", "wait"),
        ("KEYWIRE_OPEN", "false"),
        // As in a file of variables that are to be filled in.
        ("KEYWIRE_DATA", ""),
        ("KEYWIRE_SECRET_FILE", ""),
        ("KEYWIRE_THREADS", ""),
    ]);
    let server = ServerProcess::spawn(&mut command);
    let addresses: Vec<_> = server.address.split(" and ").collect();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        let mut client = crate::common::Client::connect(address.parse().unwrap());
        client.send(format!("Put:k:{}\n", "x".repeat(2000)));
        assert!(client.text().contains(":too-long:"));
    }
}

#[test]
fn the_command_line_comes_before_the_environment() {
    let mut command = server();
    command.env("KEYWIRE_LISTEN", "unix:/nowhere/at/all");
    command.env("KEYWIRE_MAX_LINE", "1K");
    let arguments = ["--listen", "127.0.0.1:0", "--max-line", "64K"];
    let server = ServerProcess::spawn(command.args(arguments));
    let mut connection = server.connect();
    connection.send(format!("Put:k:{}\n", "x".repeat(2000)));
    assert_eq!(connection.sync(), (vec![], 0));

    let nowhere = [
        ("KEYWIRE_CONNECT", "unix:/nowhere"),
        ("KEYWIRE_TIMEOUT", "30"),
    ];
    let connect = ["--connect", &server.address];
    for arguments in [
        [&connect[..], &["set", "k", "v"]].concat(),
        [&["set", "k", "v"][..], &connect].concat(),
    ] {
        assert!(client(&nowhere, &arguments).status.success());
        assert_eq!(client(&nowhere, &["get", "k"]).status.code(), Some(2));
    }
    let here = [("KEYWIRE_CONNECT", &*server.address)];
    assert_eq!(client(&here, &["get", "k"]).stdout, b"v\n");
}

#[test]
fn a_variable_with_a_wrong_value_is_a_wrong_option() {
    for (name, value) in [
        ("KEYWIRE_MAX_LINE", "0"),
        ("KEYWIRE_LISTEN", "nonsense"),
        ("KEYWIRE_OPEN", "maybe"),
        ("KEYWIRE_LOG", "loud"),
    ] {
        let (code, words) = refused(server().env(name, value));
        assert_eq!(code, 2, "{words}");
        let option = name.strip_prefix("KEYWIRE_").unwrap().to_lowercase();
        let option = format!("--{}", option.replace('_', "-"));
        assert!(words.contains(&option), "{words}");
        assert!(words.contains(name), "{words}");
    }
    let wrong = client(&[("KEYWIRE_TIMEOUT", "soon")], &["get", "k"]);
    assert_eq!(wrong.status.code(), Some(2));
    let words = String::from_utf8(wrong.stderr).unwrap();
    assert!(words.contains("KEYWIRE_TIMEOUT"), "{words}");
}

/// So are two that contradict each other, or one that lacks another.
#[test]
fn what_is_wrong_names_the_variables_and_no_value() {
    let mut command = server();
    command
        .env("KEYWIRE_TLS_CERT", "hush.pem")
        .env("KEYWIRE_DATA", "");
    let (code, words) = refused(&mut command);
    assert_eq!(code, 2, "{words}");
    let last = words.lines().last().unwrap();
    assert_eq!(last, "Set in the environment: KEYWIRE_TLS_CERT");
    assert!(!words.contains("hush"), "{words}");
    let (_, words) = refused(server().arg("--max-line=0"));
    assert!(!words.contains("environment"), "{words}");
}

/// `--open` lets everyone in, and is given to the server as a variable as well.
#[test]
fn a_flag_is_set_by_a_variable_that_is_true() {
    let mut command = server();
    command
        .args(["--listen", "0.0.0.0:0"])
        .env("KEYWIRE_OPEN", "no");
    let (code, words) = refused(&mut command);
    assert_eq!(code, 1);
    assert!(words.contains("--secret-file, or --open"), "{words}");
    ServerProcess::spawn(command.env("KEYWIRE_OPEN", "yes"));
}

/// A shell may have the variables of a server and of a client for it.
#[test]
fn the_variables_of_a_server_do_not_disturb_its_clients() {
    let server = ServerProcess::start(&["--listen", "127.0.0.1:0"]);
    let shared = [
        ("KEYWIRE_CONNECT", &*server.address),
        ("KEYWIRE_LISTEN", "127.0.0.1:0"),
        ("KEYWIRE_TLS_CERT", "/nowhere/cert.pem"),
        ("KEYWIRE_TLS_KEY", "/nowhere/key.pem"),
        ("KEYWIRE_TLS_CLIENT_CA", "/nowhere/ca.pem"),
        ("KEYWIRE_STATS", "1"),
    ];
    let done = client(&shared, &["set", "k", "v"]);
    assert!(done.status.success(), "{done:?}");
    // The client's own certificate has a name of its own.
    let own = [("KEYWIRE_CLIENT_TLS_CERT", "/nowhere/cert.pem")];
    let done = client(&own, &["--connect", &server.address, "get", "k"]);
    assert_eq!(done.status.code(), Some(2));
}

#[test]
fn the_help_tells_of_the_variables() {
    for name in ["server", "client", "top"] {
        let help = Command::new(example(name)).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            help.contains("--secret-file is KEYWIRE_SECRET_FILE"),
            "{help}"
        );
        assert!(help.contains("The exit code is 0 "), "{help}");
        let own = help.contains("[env: KEYWIRE_CLIENT_TLS_CERT]");
        assert_eq!(own, name != "server", "{help}");
    }
}

#[test]
fn every_program_has_the_version_of_the_crate_and_of_the_commit_if_the_build_knew_it() {
    for name in ["server", "client", "top", "chat"] {
        let output = Command::new(example(name)).arg("--version").output();
        let printed = String::from_utf8(output.unwrap().stdout).unwrap();
        let version = concat!("keywire ", env!("CARGO_PKG_VERSION"));
        let rest = printed.strip_prefix(version).expect(&printed);
        let is_commit = rest.starts_with(" (") && rest.ends_with(")\n") && rest.len() > 4;
        assert!(rest == "\n" || is_commit, "{printed}");
    }
}

#[test]
fn a_shell_can_load_the_completions() {
    for (name, arguments, word) in [
        ("server", &["--completions"][..], "max-clients"),
        ("client", &["completions"], "watch"),
        ("top", &["--completions"], "connect"),
    ] {
        for shell in ["bash", "zsh", "fish"] {
            let mut command = Command::new(example(name));
            let output = command.args(arguments).arg(shell).output().unwrap();
            assert!(output.status.success());
            let script = String::from_utf8(output.stdout).unwrap();
            assert!(script.contains(word), "{name} {shell}");
        }
        let program = example(name);
        let script = format!(
            "source <(\"$0\" {} bash) && complete -p {name}",
            arguments[0]
        );
        let mut bash = Command::new("bash");
        let bash = bash.args(["--norc", "-c", &script]).arg(&program).output();
        let bash = bash.unwrap();
        assert_eq!(String::from_utf8(bash.stderr).unwrap(), "");
        let loaded = String::from_utf8(bash.stdout).unwrap();
        assert!(loaded.ends_with(&format!(" {name}\n")), "{loaded}");
    }
}
