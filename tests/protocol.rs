//! The pure part: parsing, encoding, framing.

use keywire::protocol::{Code, Command, LineDecoder, Operation, ParseError, Reply, Write};

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
    let one_value = [("Set:k:a:b", "a:b"), ("Set:k:", "")];
    for (line, value) in one_value {
        let (key, value) = (&b"k"[..], value.as_bytes());
        assert_eq!(parse(line), Ok(Write::Set { key, value }.into()), "{line}");
        let remove = line.replace("Set", "Remove");
        assert_eq!(
            parse(&remove),
            Ok(Write::Remove { key, value }.into()),
            "{remove}"
        );
    }
    for prefix in ["", "user."] {
        let bytes = prefix.as_bytes();
        let get_prefix = Command::GetPrefix { prefix: bytes };
        assert_eq!(parse(&format!("GetPrefix:{prefix}")), Ok(get_prefix));
        let keys = Command::Keys { prefix: bytes };
        assert_eq!(parse(&format!("Keys:{prefix}")), Ok(keys));
    }
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
    for line in [
        "Put",
        "Get",
        "Put:k",
        "Update:k",
        "Update:k:o",
        "Delete",
        "Set:k",
        "Remove:k",
        "Set",
        "Remove",
        "GetPrefix",
        "Keys",
    ] {
        assert_eq!(parse(line), Err(ParseError::MissingField), "{line:?}");
    }
    for line in [
        "Put::v",
        "Get:",
        "Delete:",
        "Update::o:n",
        "Set::v",
        "Remove::v",
    ] {
        assert_eq!(parse(line), Err(ParseError::EmptyKey), "{line:?}");
    }
    for line in [
        "Get:a:b",
        "Get:a:",
        "Get::",
        "Delete:a:b",
        "Stats:",
        "GetPrefix:a:b",
        "GetPrefix::",
        "Keys:a:",
        "Keys::",
    ] {
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
        "unconfirmed",
        "closing",
    ];
    for name in names {
        assert_eq!(name.parse::<Code>().unwrap().as_str(), name);
    }
    assert!("other".parse::<Code>().is_err());
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
        assert!(Reply::parse(line).is_err(), "{line:?}");
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
        b":expire:k:v",
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
