//! System calls that fail, and a file that may not grow.
//!
//! The failures are strace's. Where there is no strace, or it may not trace, the tests say so.

use std::{collections::BTreeMap, process::Command};

use crate::process::{Directory, Lists, Process, behind, server};

/// Keys that are there before anything fails.
const BEFORE: usize = 50;

/// Writes that are tried.
const WRITES: usize = 60;

fn can_trace() -> bool {
    let strace = Command::new("strace")
        .args(["-f", "-o", "/dev/null", "true"])
        .status();
    let can = strace.is_ok_and(|status| status.success());
    if !can {
        eprintln!("NOT TESTED: failing system calls, since strace is missing or may not trace");
    }
    can
}

fn value(number: usize) -> String {
    format!("{number}.{}", "x".repeat(3_000))
}

/// A directory with some keys.
fn filled() -> (Directory, Lists) {
    let directory = Directory::in_memory();
    let process = Process::start(directory.path(), &["min_log=1000"]);
    let mut connection = process.connect();
    for number in 0..BEFORE {
        let lines = format!("Put:k{}:{}\n", number % 10, value(number));
        assert_eq!(connection.ask(&lines), [""; 0]);
    }
    let lists = connection.lists();
    process.kill();
    (directory, lists)
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    DoesNotStart,
    Fails,
    Nothing,
}

/// Starts the server behind this command, which may let it fail at any time, and sees that it is
/// honest about it. strace's filter may be the files of the directory.
fn survives(wrapper: &[&str], only_its_files: bool) -> Outcome {
    let (directory, mut lists) = filled();
    // Those that it has, and those that come.
    let generations = 0..20;
    let names = generations.flat_map(|number| {
        ["log-N", "snapshot-N", "snapshot-N.new"].map(|name| name.replace('N', &number.to_string()))
    });
    let file = |name: String| directory.path().join(name).display().to_string();
    let files: Vec<String> = names.chain(["lock".into()]).map(file).collect();
    let path = directory.path().display().to_string();
    let only = files.iter().chain([&path]);
    let only = only.flat_map(|file| ["-P", file.as_str()]);
    let only = only.filter(|_| only_its_files);
    let wrapper: Vec<&str> = wrapper.iter().copied().chain(only).collect();
    let wrapper = &wrapper[..];
    let outcome = match Process::of(&mut behind(wrapper, directory.path(), &["min_log=1000"])) {
        Ok(process) => {
            let outcome = write(&process, &mut lists);
            // It keeps the directory, also when it refuses writes.
            let second = Process::of(&mut server(directory.path(), &[]))
                .err()
                .unwrap();
            assert!(second.contains("another process has it open"), "{second}");
            process.stop();
            outcome
        }
        Err(error) => {
            assert!(error.starts_with("error: "), "{wrapper:?}: {error}");
            assert_eq!(error.lines().count(), 2, "{wrapper:?}: {error}");
            assert!(!error.contains("panicked"), "{wrapper:?}: {error}");
            Outcome::DoesNotStart
        }
    };
    // Without it, all is well.
    let process = Process::start(directory.path(), &[]);
    let mut connection = process.connect();
    let mut found = connection.lists();
    // What was unconfirmed may be there, or not.
    if let Some(list) = found.remove("unconfirmed") {
        assert_eq!(list.len(), 1, "{wrapper:?}");
    }
    compare(&found, &lists, wrapper);
    assert_eq!(connection.ask("Put:new:1\nGet:new\n"), ["new:1"]);
    process.stop();
    outcome
}

/// Writes until it fails. Each write is of the key `unconfirmed` at first, and gets another name when it is
/// acknowledged.
fn write(process: &Process, lists: &mut Lists) -> Outcome {
    let mut connection = process.connect();
    for number in 0..WRITES {
        let new = value(1_000 + number);
        let replies = connection.ask(&format!("Set:unconfirmed:{new}\n"));
        let Some(reply) = replies.first() else {
            let (key, move_it) = (format!("n{number}"), format!("Put:n{number}:{new}\n"));
            if !connection.ask(&move_it).is_empty() {
                // It may have failed between the two.
                return check_refusing(process, lists, Some(&key));
            }
            lists.insert(key, vec![new]);
            continue;
        };
        // It is refused if the disk has failed before, in what follows a commit.
        let fails = reply.contains(":unconfirmed:") || reply.contains(":store:");
        assert!(fails, "{reply}");
        return check_refusing(process, lists, None);
    }
    Outcome::Nothing
}

/// A server whose disk has failed refuses writes, and shows what is on the disk.
fn check_refusing(process: &Process, lists: &mut Lists, open: Option<&str>) -> Outcome {
    let mut connection = process.connect();
    let replies = connection.ask("Put:k0:no\nDelete:k1\n");
    assert_eq!(replies.len(), 2, "{replies:?}");
    for reply in replies {
        assert!(reply.contains(":store:the disk has failed: "), "{reply}");
    }
    assert_eq!(connection.counter("refusing"), 1);
    let mut found = connection.lists();
    found.remove("unconfirmed");
    if let Some(open) = open {
        let list = found.remove(open);
        assert!(list.is_none(), "{open} is shown");
    }
    compare(&found, lists, &[]);
    Outcome::Fails
}

fn compare(found: &Lists, expected: &Lists, about: &[&str]) {
    let sizes = |lists: &Lists| -> BTreeMap<String, Vec<String>> {
        let short = |value: &String| value.split('.').next().unwrap().to_owned();
        let lists = lists.iter();
        lists
            .map(|(key, list)| (key.clone(), list.iter().map(short).collect()))
            .collect()
    };
    let missing = expected
        .iter()
        .filter(|(key, list)| found.get(*key) != Some(list));
    let more = found.keys().filter(|key| !expected.contains_key(*key));
    // A write that was not confirmed, of a key of its own.
    let more: Vec<_> = more.filter(|key| !key.starts_with('n')).collect();
    let wrong = missing.count() > 0 || !more.is_empty();
    assert!(
        !wrong,
        "{about:?}\n{:?}\n{:?}",
        sizes(found),
        sizes(expected)
    );
}

/// Lets a thread's call of each of these numbers fail.
fn try_calls(call: &str, error: &str, numbers: impl Iterator<Item = u32>) -> Vec<Outcome> {
    let outcomes = numbers.map(|number| {
        let trace = format!("trace={call}");
        let inject = format!("inject={call}:error={error}:when={number}");
        // What is written elsewhere is not of the disk.
        let only_its_files = call.contains("write") || call == "openat";
        let command = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &trace,
            "-e",
            &inject,
        ];
        survives(&command, only_its_files)
    });
    let outcomes: Vec<_> = outcomes.collect();
    let count = |which| outcomes.iter().filter(|outcome| **outcome == which).count();
    eprintln!(
        "{call} {error}: {} did not start, {} failed later, {} did not fail",
        count(Outcome::DoesNotStart),
        count(Outcome::Fails),
        count(Outcome::Nothing)
    );
    outcomes
}

#[test]
fn a_failing_fdatasync_is_survived() {
    if can_trace() {
        let outcomes = try_calls("fdatasync", "EIO", [1, 2, 7, 30].into_iter());
        assert!(outcomes.contains(&Outcome::Fails));
    }
}

#[test]
fn a_failing_fsync_is_survived() {
    if can_trace() {
        // Of the directory, and of files that are cut off.
        let outcomes = try_calls("fsync", "EIO", 1..12);
        assert!(outcomes.contains(&Outcome::DoesNotStart));
    }
}

#[test]
fn a_full_disk_is_survived() {
    if can_trace() {
        let outcomes = try_calls("write,pwrite64,writev", "ENOSPC", (1..50).step_by(5));
        assert!(outcomes.contains(&Outcome::Fails));
    }
}

#[test]
fn a_failing_open_is_survived() {
    if can_trace() {
        let outcomes = try_calls("openat", "EIO", (1..20).step_by(2));
        assert!(outcomes.contains(&Outcome::DoesNotStart));
    }
}

#[test]
fn a_file_that_may_not_grow_is_survived() {
    // In units of 512 bytes. The signal is ignored, so that the call fails instead.
    for units in [400, 470, 500] {
        let script = format!("trap '' XFSZ; ulimit -f {units}; exec \"$0\" \"$@\"");
        let outcome = survives(&["sh", "-c", &script], false);
        eprintln!("{units} units: {outcome:?}");
    }
}
