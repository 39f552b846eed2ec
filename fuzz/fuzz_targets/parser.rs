//! Any line either parses, and then encodes back to itself, or is refused with a reason.
#![no_main]

use keywire::protocol::{Code, Command, Reply};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for line in bytes.split(|&byte| byte == b'\n') {
        let mut encoded = Vec::new();
        match Command::parse(line) {
            Ok(command) => {
                command.encode(&mut encoded);
                assert_eq!(encoded.strip_suffix(b"\n"), Some(line));
                // A command never looks like a line of the server's own.
                assert!(!line.starts_with(b":"));
            }
            Err(error) => {
                assert!(matches!(error.code(), Code::Unknown | Code::Malformed));
                assert!(!error.to_string().is_empty());
            }
        }
        if let Ok(reply) = Reply::parse(line) {
            let mut encoded = Vec::new();
            reply.encode(&mut encoded);
            let line = encoded.strip_suffix(b"\n").unwrap();
            assert_eq!(Reply::parse(line), Ok(reply));
        }
    }
});
