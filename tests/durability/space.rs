//! How large a directory gets by overwriting. `WRITES=n` overwrites so often.

use std::{env, fs, os::unix::fs::MetadataExt as _, time::Instant};

use crate::process::{Directory, Process};

const KEYS: u64 = 10_000;
const WRITES: u64 = 300_000;

/// Writes in a pipeline.
const BURST: u64 = 1_000;

/// What the engine keeps of its own log: 128 MiB, and the file that it has begun.
const ENGINE_LOG: u64 = (128 + 64) << 20;

/// Two logs and two snapshots, each as large as the data or this.
const MIN_LOG: u64 = 1 << 20;

/// The space that is taken by the engine's own log, and by its tables.
fn sizes(directory: &Directory) -> (u64, u64) {
    let (mut log, mut tables) = (0, 0);
    for (file, _) in directory.files() {
        let space = fs::metadata(&file).map_or(0, |data| data.blocks()) * 512;
        match file.extension() {
            Some(_) => log += space,
            None => tables += space,
        }
    }
    (log, tables)
}

#[test]
fn overwriting_takes_bounded_space() {
    let writes = env::var("WRITES").map_or(WRITES, |text| text.parse().unwrap());
    let directory = Directory::new();
    let min_log = format!("min_log={MIN_LOG}");
    let options = [&min_log, "engine_memory=2097152"];
    let process = Process::start(directory.path(), &options);
    let mut connection = process.connect();
    let mut most = (0, 0);
    let began = Instant::now();
    for first in (0..writes).step_by(BURST as usize) {
        let sets = (first..first + BURST).map(|n| format!("Set:key{}:value-{n:020}\n", n % KEYS));
        let lines: String = sets.collect();
        assert_eq!(connection.ask(&lines), [""; 0]);
        if (first / BURST).is_multiple_of(50) {
            let (log, tables) = sizes(&directory);
            most = (most.0.max(log), most.1.max(tables));
        }
    }
    let took = began.elapsed().as_secs_f64();
    process.kill();
    let began = Instant::now();
    let process = Process::start(directory.path(), &[]);
    let start = began.elapsed().as_secs_f64();
    eprintln!(
        "{writes} writes in {took:.1} s, a start in {start:.2} s: at most {} MiB of log, {} KiB of tables",
        most.0 >> 20,
        most.1 >> 10
    );
    let lists = process.connect().lists();
    assert_eq!(lists.len() as u64, KEYS);
    for (key, list) in lists {
        let key: u64 = key.strip_prefix("key").unwrap().parse().unwrap();
        assert_eq!(list, [format!("value-{:020}", writes - KEYS + key)]);
    }
    assert!(most.0 <= ENGINE_LOG, "{} bytes of log", most.0);
    // A log and a snapshot, the next ones, and what the engine has not removed yet.
    assert!(most.1 <= 3 * MIN_LOG, "{} bytes of tables", most.1);
}
