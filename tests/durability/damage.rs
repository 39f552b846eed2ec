//! Files with a flipped byte, and files that end early.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    directory::unpacked,
    process::{Directory, Lists, Process, server},
};

/// Writes in the log.
const WRITES: usize = 60;

/// A directory with all writes in its log, the lists after each write, and where the log ends then.
struct Logged {
    directory: Directory,
    states: Vec<Lists>,
    ends: Vec<usize>,
}

fn log(directory: &Directory) -> PathBuf {
    directory.path().join("log-0")
}

/// The bytes up to the last one that is not zero.
fn written(file: &Path) -> usize {
    let data = fs::read(file).unwrap();
    data.iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

fn logged() -> Logged {
    let directory = Directory::in_memory();
    let process = Process::start(directory.path(), &[]);
    let mut connection = process.connect();
    let (mut states, mut ends) = (vec![Lists::new()], vec![written(&log(&directory))]);
    for number in 0..WRITES {
        // The last one is of several sectors.
        let length = if number + 1 == WRITES { 3_000 } else { 100 };
        let value = format!("{number}{}", "y".repeat(length));
        assert_eq!(
            connection.ask(&format!("Put:k{}:{value}\n", number % 7)),
            [""; 0]
        );
        states.push(connection.lists());
        ends.push(written(&log(&directory)));
    }
    process.kill();
    Logged {
        directory,
        states,
        ends,
    }
}

/// The lists, or what the server says that does not start.
fn read(directory: &Directory) -> Result<Lists, String> {
    let process = Process::of(&mut server(directory.path(), &[]))?;
    Ok(process.connect().lists())
}

/// The same with another log.
fn with_log(base: &Logged, data: &[u8]) -> Directory {
    let copy = base.directory.copy();
    fs::write(log(&copy), data).unwrap();
    copy
}

#[test]
fn a_torn_end_is_cut_off() {
    let base = logged();
    let data = fs::read(log(&base.directory)).unwrap();
    let (begin, end) = (base.ends[WRITES - 1], base.ends[WRITES]);
    let mut torn = Vec::new();
    for length in [1, 20, 27, 28, 29, 500, 3_000, end - begin - 1] {
        // With zeros behind it, and as the end of the file.
        let mut data = data.clone();
        data[begin + length..end].fill(0);
        torn.push(data.clone());
        data.truncate(begin + length);
        torn.push(data);
    }
    for sector in begin.div_ceil(512)..end / 512 {
        let mut data = data.clone();
        data[sector * 512..][..512].fill(0);
        torn.push(data);
    }
    for (number, data) in torn.iter().enumerate() {
        let copy = with_log(&base, data);
        assert!(read(&copy).unwrap() == base.states[WRITES - 1], "{number}");
        let process = Process::start(copy.path(), &[]);
        assert_eq!(process.connect().ask("Put:new:1\n"), [""; 0]);
        process.kill();
        assert_eq!(read(&copy).unwrap()["new"], ["1"]);
    }
}

#[test]
fn a_log_that_ends_early_is_what_it_was_then() {
    let base = logged();
    let data = fs::read(log(&base.directory)).unwrap();
    for cut in (0..base.ends[WRITES]).step_by(257) {
        let copy = with_log(&base, &data[..cut]);
        let whole = base.ends.iter().filter(|end| **end <= cut).count();
        assert!(
            read(&copy).unwrap() == base.states[whole.saturating_sub(1)],
            "{cut}"
        );
    }
}

/// A byte is flipped here and there, and each time the start says in which file, and where about.
fn flip_all(base: &Directory, name: &str, end: usize, step: usize) {
    let file = base.path().join(name);
    let whole = fs::read(&file).unwrap();
    for offset in (0..end).step_by(step) {
        let mut data = whole.clone();
        data[offset] ^= 0x55;
        let copy = base.copy();
        fs::write(copy.path().join(name), data).unwrap();
        let error = read(&copy).expect_err(&format!("{name} {offset}"));
        let said = format!("{}: {name}: the record at byte ", copy.path().display());
        let (_, place) = error
            .split_once(&said)
            .unwrap_or_else(|| panic!("{offset}: {error}"));
        let place: usize = place.split(' ').next().unwrap().parse().unwrap();
        assert!(
            place <= offset && offset - place < 200_000,
            "{offset}: {error}"
        );
    }
}

#[test]
fn a_flipped_byte_of_a_log_is_found() {
    let base = logged();
    flip_all(&base.directory, "log-0", base.ends[WRITES], 101);
    // Each byte of the last record's beginning.
    let begin = base.ends[WRITES - 1];
    flip_all(&base.directory, "log-0", begin + 32, 1.max(begin / 40));
}

#[test]
fn a_flipped_byte_of_a_snapshot_is_found() {
    let (directory, _) = unpacked();
    let files = directory.files();
    let name = |file: &Path| file.file_name().unwrap().to_str().unwrap().to_owned();
    let names: Vec<String> = files.iter().map(|(file, _)| name(file)).collect();
    let snapshots = names.iter().filter(|name| name.starts_with("snapshot-"));
    let (new, complete) = snapshots.partition::<Vec<_>, _>(|name| name.ends_with(".new"));
    assert_eq!((new.len(), complete.len()), (1, 1), "{names:?}");
    let end = written(&directory.path().join(complete[0]));
    flip_all(&directory, complete[0], end, end / 40);
}

/// What a snapshot holds was in the log when it was completed. A log that ends before is no torn one.
#[test]
fn a_log_that_ends_before_its_snapshot_is_damaged_and_kept() {
    let (directory, _) = unpacked();
    for file in ["log-2", "snapshot-2.new"] {
        fs::remove_file(directory.path().join(file)).unwrap();
    }
    let log = directory.path().join("log-1");
    let data = fs::read(&log).unwrap();
    // In the middle of a record; at the end of the first line; and nothing at all.
    for cut in [700, 10, 0] {
        fs::write(&log, &data[..cut]).unwrap();
        let error = read(&directory).expect_err(&format!("{cut}"));
        assert!(error.contains("log-1 is missing or damaged"), "{error}");
        assert!(
            fs::read(&log).unwrap() == data[..cut],
            "{cut}: it has changed"
        );
    }
}

/// Only the log that was written last may end early.
#[test]
fn an_older_log_that_ends_early_is_damaged() {
    let (directory, _) = unpacked();
    let files = directory.files();
    let logs = files.iter().filter(|(file, _)| {
        let name = file.file_name().unwrap();
        name.to_str().unwrap().starts_with("log-")
    });
    let logs: Vec<&PathBuf> = logs.map(|(file, _)| file).collect();
    assert_eq!(logs.len(), 2, "{logs:?}");
    let older = logs[0].file_name().unwrap();
    for cut in [1, 700, 5_000] {
        let copy = directory.copy();
        let data = fs::read(logs[0]).unwrap();
        let end = written(logs[0]);
        fs::write(copy.path().join(older), &data[..end - cut]).unwrap();
        let error = read(&copy).expect_err(&format!("{cut}"));
        assert!(error.contains("is damaged"), "{error}");
    }
}
