//! A store that is full, at the example server as a process.

use crate::common::stress::{MIB, StressedServer, WORK};

/// Puts of some shape, far more than the store may hold. Gives how many were refused.
fn fill(stressed: &mut StressedServer, puts: usize, put: impl Fn(usize) -> String) -> usize {
    const PIECE: usize = 400;
    let mut refused = 0;
    for first in (0..puts).step_by(PIECE) {
        let some: String = (first..first + PIECE).map(&put).collect();
        stressed.steady.send(some);
        let (lines, dropped) = stressed.steady.sync();
        assert_eq!(dropped, 0);
        for line in &lines {
            let line = String::from_utf8_lossy(line);
            let (_, words) = line
                .strip_prefix(":error:")
                .unwrap()
                .split_once(':')
                .unwrap();
            assert!(words.starts_with("full:"), "{line}");
        }
        refused += lines.len();
    }
    refused
}

/// What is put, by its number.
type Shape = fn(usize) -> String;

#[test]
fn a_full_store_refuses_writes_and_takes_no_more_memory_whatever_their_shape() {
    const MAX_STORE: usize = 4 * MIB;
    /// Tables and lists grow by doubling, and while one grows the old one is still there.
    const BOUND: usize = WORK + 3 * MAX_STORE;
    // Long values, short values of one key, and keys with hardly any value.
    let shapes: [(&str, usize, Shape); 3] = [
        ("long values", 4_000, |n| {
            format!("Put:{}:{}\n", n % 100, "x".repeat(4_000))
        }),
        ("short values", 600_000, |n| format!("Put:k:{}\n", n % 10)),
        ("short keys", 100_000, |n| format!("Put:{n}:\n")),
    ];
    for (shape, puts, put) in shapes {
        let limit = MAX_STORE.to_string();
        let mut stressed = StressedServer::start(100, &["--max-store", &limit]);
        let refused = fill(&mut stressed, puts, put);
        let stats = stressed.steady.stats();
        assert_eq!(stats.full_store as usize, refused);
        assert_eq!(stats.values as usize, puts - refused);
        let size = stats.size as usize;
        assert!((MAX_STORE * 9 / 10..=MAX_STORE).contains(&size), "{size}");
        stressed.cost(&format!("a store of 4 MiB full of {shape}"), BOUND);
        // Reading goes on, and what is deleted makes room.
        let key = put(0).split(':').nth(1).unwrap().to_owned();
        stressed.steady.send(format!("Get:{key}\n"));
        assert!(!stressed.steady.sync().0.is_empty());
        stressed
            .steady
            .send(format!("Delete:{key}\nPut:{key}:\nGet:{key}\n"));
        assert_eq!(
            stressed.steady.sync(),
            (vec![format!("{key}:").into_bytes()], 0)
        );
    }
}

#[test]
fn a_key_takes_so_many_values_and_others_go_on() {
    let mut stressed = StressedServer::start(100, &["--max-values", "1000"]);
    let refused = fill(&mut stressed, 20_000, |n| format!("Put:k:{n}\n"));
    assert_eq!(refused, 19_000);
    assert_eq!(stressed.steady.stats().full_values, 19_000);
    stressed.over(0);
}
