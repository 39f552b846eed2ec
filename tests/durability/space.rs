//! How large a directory gets by overwriting. `WRITES=n` overwrites so often.

use std::{env, fs, os::unix::fs::MetadataExt as _, time::Instant};

use crate::process::{Directory, Process};

const KEYS: u64 = 10_000;
const WRITES: u64 = 300_000;

/// Writes in a pipeline.
const BURST: u64 = 1_000;

/// What the engine keeps of its own log before it writes out all of its buffers: 512 MiB, and the file
/// that it has allotted next.
const ENGINE_LOG: u64 = (512 + 64) << 20;

/// Two logs and two snapshots, each as large as the data or this.
const MIN_LOG: u64 = 4 << 20;

fn size(directory: &Directory) -> u64 {
    let files = directory.files().into_iter();
    let blocks = files.map(|(file, _)| fs::metadata(file).map_or(0, |data| data.blocks()));
    blocks.sum::<u64>() * 512
}

#[test]
fn overwriting_takes_bounded_space() {
    let writes = env::var("WRITES").map_or(WRITES, |text| text.parse().unwrap());
    let directory = Directory::new();
    let process = Process::start(directory.path(), &[&format!("min_log={MIN_LOG}")]);
    let mut connection = process.connect();
    let mut most = 0;
    let began = Instant::now();
    for first in (0..writes).step_by(BURST as usize) {
        let sets = (first..first + BURST).map(|n| format!("Set:key{}:value-{n:020}\n", n % KEYS));
        let lines: String = sets.collect();
        assert_eq!(connection.ask(&lines), [""; 0]);
        if (first / BURST).is_multiple_of(50) {
            let now = size(&directory);
            most = most.max(now);
            if (first / BURST).is_multiple_of(1_000) {
                eprintln!("{} MiB after {first} writes", now >> 20);
            }
        }
    }
    let took = began.elapsed().as_secs_f64();
    process.kill();
    let began = Instant::now();
    let process = Process::start(directory.path(), &[]);
    let start = began.elapsed().as_secs_f64();
    eprintln!(
        "{writes} writes in {took:.1} s: at most {} MiB, {} MiB after a start of {start:.2} s",
        most >> 20,
        size(&directory) >> 20
    );
    let lists = process.connect().lists();
    assert_eq!(lists.len() as u64, KEYS);
    for (key, list) in lists {
        let key: u64 = key.strip_prefix("key").unwrap().parse().unwrap();
        assert_eq!(list, [format!("value-{:020}", writes - KEYS + key)]);
    }
    // Two of each, and what the engine has merged and not removed yet.
    let bound = ENGINE_LOG + 4 * 2 * MIN_LOG;
    assert!(most < bound, "{most} bytes");
}
