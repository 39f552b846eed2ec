//! Directories that can't be opened, and one that an older version has written.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::process::{Directory, Lists, Process, server};

/// What a server says that does not start. It has changed no file.
#[track_caller]
fn refused(directory: &Path) -> String {
    let before = contents(directory);
    let output = run(&mut server(directory, &[]));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "");
    let line = error.strip_prefix("error: ").expect(&error);
    assert_eq!(line.lines().count(), 1, "{error}");
    assert!(line.contains(&directory.display().to_string()), "{error}");
    assert!(contents(directory) == before, "it has changed: {error}");
    line.trim().to_owned()
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut contents = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents.extend(self::contents(&path));
        } else {
            contents.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    contents.sort();
    contents
}

#[test]
fn a_second_server_is_refused() {
    let directory = Directory::in_memory();
    let process = Process::start(directory.path(), &[]);
    let mut connection = process.connect();
    connection.ask("Put:a:1\n");
    let error = refused(directory.path());
    assert!(error.contains("another process has it open"), "{error}");
    assert_eq!(connection.ask("Put:a:2\nGet:a\n"), ["a:1", "a:2"]);
}

#[test]
fn a_directory_of_others_is_refused() {
    let directory = Directory::in_memory();
    fs::create_dir(directory.path()).unwrap();
    fs::write(directory.path().join("letter"), "Dear").unwrap();
    let error = refused(directory.path());
    assert!(error.contains("holds no store of keywire"), "{error}");
    fs::write(directory.path().join("version"), "1.0").unwrap();
    refused(directory.path());
}

#[test]
fn a_file_in_its_place_is_no_directory() {
    let directory = Directory::in_memory();
    fs::write(directory.path(), "Dear").unwrap();
    let error = refused(directory.path());
    fs::remove_file(directory.path()).unwrap();
    assert!(error.contains("not a directory"), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let directory = Directory::in_memory();
    let process = Process::start(directory.path(), &[]);
    process.connect().ask("Put:a:1\n");
    process.stop();
    let log = directory.path().join("log-0");
    let mut data = fs::read(&log).unwrap();
    assert!(data.starts_with(b"keywire 1\n"));
    data[8] = b'2';
    fs::write(&log, &data).unwrap();
    let error = refused(directory.path());
    assert!(
        error.contains("log-0 was written by a newer version (keywire 2)"),
        "{error}"
    );
    data[8] = b'1';
    fs::write(&log, &data).unwrap();
    let process = Process::start(directory.path(), &[]);
    assert_eq!(process.connect().ask("Get:a\n"), ["a:1"]);
}

#[test]
fn a_place_that_is_no_directory_is_refused() {
    let directory = Directory::in_memory();
    fs::write(directory.path(), "a file").unwrap();
    refused(directory.path());
    fs::remove_file(directory.path()).unwrap();
    // Nobody can write there, not even root.
    refused(Path::new("/proc/keywire"));
}

/// A server that was killed while it made its directory has left nothing that hinders the next one.
#[test]
fn a_directory_that_was_only_begun_is_made_anew() {
    for log in [None, Some(&b""[..]), Some(&[0; 10])] {
        let directory = Directory::in_memory();
        fs::create_dir_all(directory.path()).unwrap();
        fs::write(directory.path().join("lock"), "").unwrap();
        if let Some(log) = log {
            fs::write(directory.path().join("log-0"), log).unwrap();
        }
        let process = Process::start(directory.path(), &[]);
        assert_eq!(process.connect().ask("Put:a:1\nGet:a\n"), ["a:1"]);
        process.kill();
        let process = Process::start(directory.path(), &[]);
        assert_eq!(process.connect().ask("Get:a\n"), ["a:1"]);
    }
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("keywire-1.tar.gz")
}

/// What is in the fixture: the writes that made it, and the lists. Calls `f` with the lists after each.
pub(crate) fn written(mut f: impl FnMut(&Lists)) -> (Vec<String>, Lists) {
    let mut lines = Vec::new();
    let mut lists = Lists::new();
    for number in 0..1200 {
        let (key, value) = (
            format!("key{}", number % 300),
            format!("{number}.{}", "x".repeat(3_000)),
        );
        let list: &mut Vec<String> = lists.entry(key.clone()).or_default();
        if number % 7 == 0 {
            lines.push(format!("Delete:{key}\n"));
            list.clear();
        } else if number % 7 == 1 && !list.is_empty() {
            lines.push(format!("Update:{key}:{}:{number}\n", list[0]));
            list[0] = number.to_string();
        } else {
            lines.push(format!("Put:{key}:{value}\n"));
            list.push(value);
        }
        if list.is_empty() {
            lists.remove(&key);
        }
        f(&lists);
    }
    (lines, lists)
}

/// Makes the fixture of this version. It is done once for each format, by hand.
#[test]
#[ignore = "the fixture is made once"]
fn make_fixture() {
    let directory = Directory::in_memory();
    let process = Process::start(directory.path(), &["min_log=100000"]);
    let mut connection = process.connect();
    for lines in written(|_| {}).0.chunks(10) {
        connection.ask(&lines.concat());
    }
    process.kill();
    let mut tar = Command::new("tar");
    let tar = tar
        .arg("-czf")
        .arg(fixture())
        .arg("-C")
        .arg(directory.path())
        .arg(".");
    assert!(tar.status().unwrap().success());
}

/// The directory that the first version wrote, and its lists.
pub(crate) fn unpacked() -> (Directory, Lists) {
    let directory = Directory::in_memory();
    fs::create_dir(directory.path()).unwrap();
    let mut tar = Command::new("tar");
    let tar = tar
        .arg("-xzf")
        .arg(fixture())
        .arg("-C")
        .arg(directory.path());
    assert!(tar.status().unwrap().success());
    (directory, written(|_| {}).1)
}

#[test]
fn what_the_first_version_wrote_is_read() {
    let (directory, lists) = unpacked();
    for _ in 0..2 {
        let process = Process::start(directory.path(), &["min_log=1"]);
        let mut connection = process.connect();
        assert!(connection.lists() == lists);
        connection.ask("Put:new:1\nDelete:new\n");
        process.stop();
    }
}
