//! What is encoded is read again, whatever it is and however it is cut.

use keywire::protocol::{Code, Command, LineDecoder, LineTooLong, Reply};
use proptest::{collection::vec, prelude::*};

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
        (any::<bool>(), key(), rest()).prop_map(|(is_set, key, value)| {
            let word = if is_set { "Set" } else { "Remove" };
            vec![word.into(), key, value]
        }),
        (any::<bool>(), old()).prop_map(|(counts, prefix)| {
            let word = if counts { "Keys" } else { "GetPrefix" };
            vec![word.into(), prefix]
        }),
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
