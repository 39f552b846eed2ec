//! The pure part: parsing, encoding, framing.

use keywire::protocol::{
    Code, Command, LineDecoder, LineTooLong, Operation, ParseError, Reply, ReplyError, Write,
};
use proptest::{collection::vec, prelude::*};

fn parse(line: &str) -> Result<Command<'_>, ParseError> {
    Command::parse(line.as_bytes())
}

#[test]
fn each_command_is_read_as_the_table_says() {
    let operations: [(&str, Operation<'_>); 8] = [
        (
            "Put:k:v",
            Operation::Write(Write::Put {
                key: b"k",
                value: b"v",
            }),
        ),
        (
            "Put:k:",
            Operation::Write(Write::Put {
                key: b"k",
                value: b"",
            }),
        ),
        (
            "Put:k:a:b:",
            Operation::Write(Write::Put {
                key: b"k",
                value: b"a:b:",
            }),
        ),
        ("Get:some key", Operation::Get { key: b"some key" }),
        ("Delete:k", Operation::Write(Write::Delete { key: b"k" })),
        (
            "Update:k:o:n",
            Operation::Write(Write::Update {
                key: b"k",
                old: b"o",
                new: b"n",
            }),
        ),
        (
            "Update:k::",
            Operation::Write(Write::Update {
                key: b"k",
                old: b"",
                new: b"",
            }),
        ),
        (
            "Update:k:o:a:b",
            Operation::Write(Write::Update {
                key: b"k",
                old: b"o",
                new: b"a:b",
            }),
        ),
    ];
    for (line, operation) in operations {
        assert_eq!(parse(line), Ok(operation.into()), "{line}");
    }
    assert_eq!(parse("Sync"), Ok(Command::Sync { token: None }));
    assert_eq!(parse("Sync:"), Ok(Command::Sync { token: Some(b"") }));
    assert_eq!(
        parse("Sync:a:b"),
        Ok(Command::Sync {
            token: Some(b"a:b")
        })
    );
    assert_eq!(parse("Stats"), Ok(Command::Stats));
    assert_eq!(parse("Auth:"), Ok(Command::Auth { secret: b"" }));
    assert_eq!(parse("Auth:a:b"), Ok(Command::Auth { secret: b"a:b" }));
}

#[test]
fn what_is_no_command_is_refused_with_its_reason() {
    for line in [
        "", "x", "get:k", "GET:k", " Get:k", "Getk", "Syncs", "Stats ", ":k:v",
    ] {
        assert_eq!(parse(line), Err(ParseError::UnknownCommand), "{line:?}");
    }
    for line in ["Put", "Get", "Put:k", "Update:k", "Update:k:o", "Delete"] {
        assert_eq!(parse(line), Err(ParseError::MissingField), "{line:?}");
    }
    for line in ["Put::v", "Get:", "Delete:", "Update::o:n"] {
        assert_eq!(parse(line), Err(ParseError::EmptyKey), "{line:?}");
    }
    for line in ["Get:a:b", "Get:a:", "Get::", "Delete:a:b", "Stats:"] {
        assert_eq!(parse(line), Err(ParseError::ExtraField), "{line:?}");
    }
}

#[test]
fn debug_shows_no_payload() {
    let mut lines = LineDecoder::new(100);
    let block = lines.push(b"Put:hush:secret\nPut:hush");
    let shown = format!(
        "{lines:?} {block:?} {:?} {:?} {:?} {:?}",
        parse("Auth:secret").unwrap(),
        parse("Update:hush:secret:secret").unwrap(),
        parse("Sync:secret").unwrap(),
        Reply::parse(b"hush:secret").unwrap(),
    );
    assert!(
        !shown.contains("hush") && !shown.contains("secret"),
        "{shown}"
    );
}

#[test]
fn codes_have_their_names() {
    let names = [
        "unknown",
        "malformed",
        "too-long",
        "full",
        "unauthorized",
        "store",
        "closing",
    ];
    for name in names {
        assert_eq!(name.parse::<Code>().unwrap().as_str(), name);
    }
    assert_eq!("other".parse::<Code>(), Err(ReplyError));
}

#[test]
fn what_is_no_reply_is_refused() {
    for line in [
        &b""[..],
        b"x",
        b":sync:",
        b":sync:x:",
        b":sync:-1:",
        b":error:1",
        b":error:1:store",
        b":error:x:nonsense:words",
        b":error:\xff:store:words",
    ] {
        assert_eq!(Reply::parse(line), Err(ReplyError), "{line:?}");
    }
}

#[test]
fn what_a_newer_server_may_say_is_read() {
    for line in [
        &b":"[..],
        b"::",
        b":sync",
        b":other:1",
        b":\xff",
        b":set:k:v",
    ] {
        let reply = Reply::parse(line).unwrap();
        assert_eq!(reply, Reply::Other(&line[1..]), "{line:?}");
        let mut encoded = Vec::new();
        reply.encode(&mut encoded);
        assert_eq!(encoded.strip_suffix(b"\n"), Some(line));
    }
    for message in [
        &b"throttled:wait a while"[..],
        b":",
        b"\xff:",
        b"other:a:b",
        b"Store:",
    ] {
        let line = [b":error:3:", message].concat();
        let reply = Reply::parse(&line).unwrap();
        let (line_number, code) = (3, Code::Other);
        assert_eq!(
            reply,
            Reply::Error {
                line: line_number,
                code,
                message
            }
        );
        let mut encoded = Vec::new();
        reply.encode(&mut encoded);
        assert_eq!(encoded.strip_suffix(b"\n"), Some(&line[..]));
    }
}

fn bytes(without: &'static [u8], size: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    // Colons and line ends come often, so that they come everywhere.
    let byte = prop_oneof![4 => any::<u8>(), 1 => Just(b':'), 1 => Just(b'\r'), 1 => Just(b'a')];
    vec(
        byte.prop_filter("not in this field", |byte| !without.contains(byte)),
        size,
    )
}

fn any_command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let key = || bytes(b":\n", 1..20);
    let old = || bytes(b":\n", 0..20);
    let rest = || bytes(b"\n", 0..40);
    prop_oneof![
        (key(), rest()).prop_map(|(key, value)| vec![b"Put".to_vec(), key, value]),
        key().prop_map(|key| vec![b"Get".to_vec(), key]),
        key().prop_map(|key| vec![b"Delete".to_vec(), key]),
        (key(), old(), rest()).prop_map(|(key, old, new)| vec![b"Update".to_vec(), key, old, new]),
        rest().prop_map(|token| vec![b"Sync".to_vec(), token]),
        Just(vec![b"Sync".to_vec()]),
        Just(vec![b"Stats".to_vec()]),
        rest().prop_map(|secret| vec![b"Auth".to_vec(), secret]),
        (any::<bool>(), key()).prop_map(|(begins, key)| {
            vec![
                if begins {
                    b"Watch".to_vec()
                } else {
                    b"Unwatch".to_vec()
                },
                key,
            ]
        }),
        (any::<bool>(), old()).prop_map(|(begins, prefix)| {
            vec![
                if begins {
                    b"WatchPrefix".to_vec()
                } else {
                    b"UnwatchPrefix".to_vec()
                },
                prefix,
            ]
        }),
    ]
}

proptest! {
    #[test]
    fn every_command_comes_back_from_its_line(fields in any_command()) {
        let line = fields.join(&b':');
        let command = Command::parse(&line).unwrap();
        let mut encoded = Vec::new();
        command.encode(&mut encoded);
        prop_assert_eq!(encoded.strip_suffix(b"\n"), Some(&line[..]));
    }

    #[test]
    fn whatever_is_parsed_encodes_to_the_same_line(line in bytes(b"\n", 0..40)) {
        if let Ok(command) = Command::parse(&line) {
            let mut encoded = Vec::new();
            command.encode(&mut encoded);
            prop_assert_eq!(encoded.strip_suffix(b"\n"), Some(&line[..]));
        }
    }

    #[test]
    fn replies_come_back_from_their_lines(
        key in bytes(b":\n", 1..20), value in bytes(b"\n", 0..40),
        number: u64, code in 0..7usize,
    ) {
        let codes = [
            Code::Unknown, Code::Malformed, Code::TooLong, Code::Full, Code::Unauthorized,
            Code::Store, Code::Closing,
        ];
        for reply in [
            Reply::Value { key: &key, value: &value },
            Reply::Sync { dropped: number, token: &value },
            Reply::Stats(&value),
            Reply::Error { line: number, code: codes[code], message: &value },
        ] {
            let mut encoded = Vec::new();
            reply.encode(&mut encoded);
            let line = encoded.strip_suffix(b"\n").unwrap();
            prop_assert_eq!(Reply::parse(line), Ok(reply));
        }
    }

    #[test]
    fn how_bytes_are_cut_into_reads_never_changes_the_lines(
        input in bytes(b"", 0..400),
        line_feeds in vec(0..400usize, 0..40),
        cuts in vec(1..50usize, 1..40),
        max in 0..30usize,
    ) {
        let mut input = input;
        for at in line_feeds {
            if let Some(byte) = input.get_mut(at) {
                *byte = b'\n';
            }
        }
        let expected: Vec<_> = input
            .split_inclusive(|&byte| byte == b'\n')
            .filter_map(|line| line.strip_suffix(b"\n"))
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .map(|line| if line.len() > max { Err(LineTooLong) } else { Ok(line.to_vec()) })
            .collect();
        let ends_within_a_line = input.last().is_some_and(|&byte| byte != b'\n');

        let mut lines = LineDecoder::new(max);
        let mut found = Vec::new();
        let mut rest = &input[..];
        for size in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (read, later) = rest.split_at((*size).min(rest.len()));
            rest = later;
            found.extend(lines.push(read).iter().map(|line| line.map(<[u8]>::to_vec)));
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(lines.is_partial(), ends_within_a_line);
    }
}
