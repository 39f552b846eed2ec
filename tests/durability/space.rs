//! How large a directory gets by overwriting. `WRITES=n` overwrites so often.

use std::{env, fs, os::unix::fs::MetadataExt as _, time::Instant};

use crate::process::{Directory, Process};

const KEYS: u64 = 10_000;
const WRITES: u64 = 300_000;

/// Writes in a pipeline.
const BURST: u64 = 1_000;

/// As large as the data, about.
const MIN_LOG: u64 = 1 << 20;

/// The bound that is documented.
const MOST: u64 = 4 * MIN_LOG + (2 << 20);

/// What the files take.
fn size(directory: &Directory) -> u64 {
    let files = directory.files().into_iter();
    let blocks = files.map(|(file, _)| fs::metadata(&file).map_or(0, |data| data.blocks()));
    blocks.sum::<u64>() * 512
}

#[test]
fn overwriting_takes_bounded_space() {
    let writes = env::var("WRITES").map_or(WRITES, |text| text.parse().unwrap());
    let directory = Directory::new();
    let min_log = format!("min_log={MIN_LOG}");
    let process = Process::start(directory.path(), &[&min_log]);
    let mut connection = process.connect();
    let mut most = 0;
    let began = Instant::now();
    for first in (0..writes).step_by(BURST as usize) {
        let sets = (first..first + BURST).map(|n| format!("Set:key{}:value-{n:020}\n", n % KEYS));
        let lines: String = sets.collect();
        assert_eq!(connection.ask(&lines), [""; 0]);
        if (first / BURST).is_multiple_of(50) {
            most = most.max(size(&directory));
        }
    }
    let took = began.elapsed().as_secs_f64();
    process.kill();
    let began = Instant::now();
    let process = Process::start(directory.path(), &[]);
    let start = began.elapsed().as_secs_f64();
    eprintln!(
        "{writes} writes in {took:.1} s, a start in {start:.2} s: at most {} KiB",
        most >> 10
    );
    let lists = process.connect().lists();
    assert_eq!(lists.len() as u64, KEYS);
    for (key, list) in lists {
        let key: u64 = key.strip_prefix("key").unwrap().parse().unwrap();
        assert_eq!(list, [format!("value-{:020}", writes - KEYS + key)]);
    }
    assert!(most <= MOST, "{most} bytes");
}
