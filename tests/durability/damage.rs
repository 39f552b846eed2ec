//! Files with a flipped byte, and files that end early.
//!
//! The engine's limits are stated here. In its log it finds what is wrong in the rows, but takes a wrong
//! length or tag for the end that a crash has torn, and cuts off what follows. In its tables it finds
//! all damage; in its lists of tables, one number may hide the last table. What is left is always
//! the result of the first commits.

use std::{
    collections::HashSet,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
};

use crate::{
    directory::{unpacked, written},
    process::{Directory, Lists, Process, server},
};

/// Writes in the log.
const WRITES: usize = 60;

/// Lists after each write, and the directory that has them all in its log.
fn logged() -> (Directory, Vec<Lists>) {
    let directory = Directory::in_memory();
    let process = Process::start(directory.path(), &[]);
    let mut connection = process.connect();
    let mut states = vec![Lists::new()];
    for number in 0..WRITES {
        let lines = format!("Put:k{}:{number}{}\n", number % 7, "y".repeat(100));
        assert_eq!(connection.ask(&lines), [""; 0]);
        states.push(connection.lists());
    }
    process.kill();
    // The next start gives back what the engine has allotted.
    Process::start(directory.path(), &[]).kill();
    (directory, states)
}

/// The lists, or what the server says that does not start.
fn read(directory: &Directory) -> Result<Lists, String> {
    let process = Process::of(&mut server(directory.path(), &[]))?;
    Ok(process.connect().lists())
}

#[test]
fn a_torn_end_is_cut_off() {
    let (directory, states) = logged();
    let log = directory.path().join("0.jnl");
    let data = fs::read(&log).unwrap();
    // A commit that has no end yet looks like the beginning of any.
    for length in [1, 7, 13, 14, 40, 100] {
        let copy = directory.copy();
        let mut file = fs::OpenOptions::new()
            .append(true)
            .open(copy.path().join("0.jnl"));
        file.as_mut().unwrap().write_all(&data[..length]).unwrap();
        let lists = read(&copy).unwrap();
        assert!(lists == states[WRITES], "{length}");
        let process = Process::start(copy.path(), &[]);
        assert_eq!(process.connect().ask("Put:new:1\n"), [""; 0]);
        process.kill();
        assert_eq!(read(&copy).unwrap()["new"], ["1"]);
    }
}

#[test]
fn a_log_that_ends_early_is_what_it_was_then() {
    let (directory, states) = logged();
    let length = fs::metadata(directory.path().join("0.jnl")).unwrap().len();
    let mut before = 0;
    for cut in (0..length).step_by(257) {
        let copy = directory.copy();
        let file = fs::OpenOptions::new()
            .write(true)
            .open(copy.path().join("0.jnl"));
        file.unwrap().set_len(cut).unwrap();
        let lists = read(&copy).unwrap();
        let writes = states.iter().position(|state| *state == lists);
        let writes = writes.expect("a state that was");
        assert!(writes >= before, "{cut}");
        before = writes;
    }
    assert!(before > WRITES - 5);
}

fn hash(lists: &Lists) -> u64 {
    let mut hasher = DefaultHasher::new();
    lists.hash(&mut hasher);
    hasher.finish()
}

/// Flips a byte here and there, and gives how often it was found, did no harm, or was taken for a torn
/// end.
fn flip(
    base: &Directory,
    last: &Lists,
    states: &HashSet<u64>,
    log: bool,
    places: u64,
) -> (u32, u32, u32) {
    let (mut found, mut harmless, mut torn) = (0, 0, 0);
    for (file, length) in base.files() {
        let is_log = file.extension().is_some_and(|end| end == "jnl");
        if is_log != log || length == 0 {
            continue;
        }
        let name = file.strip_prefix(base.path()).unwrap();
        let step = (length / places).max(1);
        for offset in (0..length).step_by(step as usize) {
            let copy = base.copy();
            let mut data = fs::read(&file).unwrap();
            data[offset as usize] ^= 0x55;
            fs::write(copy.path().join(name), data).unwrap();
            match read(&copy) {
                Err(error) => {
                    found += 1;
                    let said = error.contains(&format!(
                        "error: the store failed: {}: ",
                        copy.path().display()
                    ));
                    assert!(said, "{} {offset}: {error}", name.display());
                }
                Ok(lists) if lists == *last => harmless += 1,
                Ok(lists) if states.contains(&hash(&lists)) => torn += 1,
                Ok(_) => panic!("{} {offset}: values that never were", name.display()),
            }
        }
    }
    (found, harmless, torn)
}

#[test]
fn a_damaged_log_shows_nothing_that_never_was() {
    let (directory, states) = logged();
    let hashes = states.iter().map(hash).collect();
    let (found, harmless, torn) = flip(&directory, &states[WRITES], &hashes, true, 80);
    eprintln!("log: {found} found, {harmless} harmless, {torn} taken for a torn end");
    assert!(found > 10 * torn, "{found} {torn}");
}

#[test]
fn a_damaged_table_is_found() {
    let (directory, lists) = unpacked();
    let mut hashes = HashSet::new();
    written(|lists| _ = hashes.insert(hash(lists)));
    let (found, harmless, torn) = flip(&directory, &lists, &hashes, false, 4);
    eprintln!("tables: {found} found, {harmless} harmless, {torn} hid a table");
    assert!(found > 10 * torn, "{found} {torn}");
}
