//! Keys and values of the example client that look like options.

use std::process::Command;

use crate::{
    client::{start, watch},
    common::{
        example,
        tools::{ChildProcess, client, expect},
        wait_until,
    },
};

#[test]
fn keys_and_values_that_look_like_options_are_what_they_are() {
    let server = start();
    let odd = [
        "-h",
        "--help",
        "--timeout",
        "--timeout=x",
        "--",
        "-",
        "-V",
        "--version",
        "get",
    ];
    for value in odd {
        expect(client(&server, &["put", "k", value]), 0, "");
        expect(client(&server, &["get", "k"]), 0, format!("{value}\n"));
        expect(client(&server, &["update", "k", value, "--connect"]), 0, "");
        expect(client(&server, &["update", "k", "--connect", value]), 0, "");
        expect(
            client(&server, &["--timeout", "30", "get", "k"]),
            0,
            format!("{value}\n"),
        );
        expect(client(&server, &["delete", "k"]), 0, "");
    }
    for key in odd.into_iter().chain(["--prefix"]) {
        expect(
            client(&server, &["put", key, "v", "--timeout", "30"]),
            0,
            "",
        );
        expect(client(&server, &["get", key]), 0, "v\n");
        expect(client(&server, &["delete", key]), 0, "");
        expect(client(&server, &["get", key]), 1, "");
        if key == "--prefix" {
            // Behind this command's name it is the flag.
            continue;
        }
        let mut exact = watch(&server, &["watch", key]);
        let mut begin = watch(&server, &["watch", "--prefix", key]);
        expect(client(&server, &["put", key, "v"]), 0, "");
        assert_eq!(exact.line(), format!("put:{key}:v\n"));
        assert_eq!(begin.line(), format!("put:{key}:v\n"));
    }
    // Help is to be had all the same.
    for asked in [&["help", "put"][..], &["put", "--help"], &["--help"]] {
        let help = Command::new(example("client"))
            .args(asked)
            .output()
            .unwrap();
        assert!(
            String::from_utf8(help.stdout)
                .unwrap()
                .contains("Usage: client")
        );
        assert_eq!(help.status.code(), Some(0));
    }
}

#[test]
fn two_dashes_before_exactly_the_arguments_are_left_out() {
    let server = start();
    let address = server.address.to_string();
    let client = |arguments: &[&str]| {
        let arguments = [&["--connect", &address], arguments].concat();
        Command::new(example("client"))
            .args(arguments)
            .output()
            .unwrap()
    };
    for odd in ["-h", "--help", "--timeout=x", "--prefix", "--", "plain"] {
        expect(client(&["put", "--", odd, "-h"]), 0, "");
        expect(client(&["put", "--", "k", odd]), 0, "");
        expect(client(&["get", "--", odd]), 0, "-h\n");
        expect(client(&["get", "--", "k"]), 0, format!("{odd}\n"));
        expect(client(&["update", "--", "k", odd, "-h"]), 0, "");
        expect(client(&["get", "k"]), 0, "-h\n");
        expect(client(&["delete", "--", odd]), 0, "");
        expect(client(&["delete", "--", "k"]), 0, "");
        assert_eq!(server.handle.stats().keys, 0, "{odd}");
        let watches = [&["watch", "--", odd][..], &["watch", "--prefix", "--", odd]];
        for arguments in watches {
            let watches = server.handle.stats().watches;
            let arguments = [&["--connect", &address], arguments].concat();
            let mut watch = ChildProcess::start(Command::new(example("client")).args(arguments));
            wait_until("the watch has begun", || {
                server.handle.stats().watches > watches
            });
            expect(client(&["put", odd, "v"]), 0, "");
            assert_eq!(watch.line(), format!("put:{odd}:v\n"));
            expect(client(&["delete", odd]), 0, "");
        }
    }
    // Otherwise they are an argument themselves.
    expect(client(&["put", "--", "v"]), 0, "");
    expect(client(&["get", "--"]), 0, "v\n");
    expect(client(&["get", "--", "--timeout", "30"]), 0, "v\n");
}

#[test]
fn help_behind_the_arguments_of_a_command_is_refused_and_nothing_is_done() {
    let server = start();
    client(&server, &["put", "k", "v"]);
    for help in ["-h", "--help", "-hV"] {
        for arguments in [
            &["get", "k", help][..],
            &["get", "--", "k", help],
            &["put", "k", "w", help],
            &["put", "--", "k", "w", help],
            &["delete", "k", help],
            &["update", "k", "v", "w", help],
            &["watch", "k", help],
            &["watch", "--prefix", "k", help],
        ] {
            let errors = expect(client(&server, arguments), 2, "");
            assert!(errors.contains("unexpected"), "{arguments:?}: {errors}");
        }
    }
    expect(client(&server, &["get", "k"]), 0, "v\n");
    let stats = server.handle.stats();
    assert_eq!((stats.keys, stats.values), (1, 1));
}
