//! What Stats says of watches.

use keywire::Server;

use super::replies;
use crate::common::{
    script::converse,
    stores::{Failing, Remote},
};

#[test]
fn stats_count_watches_events_and_kinds_of_commands() {
    let (output, _) = converse(
        Server::new(),
        [&b"Watch:a\nWatchPrefix:\nWatch:a\nWatch:\nPut:a:12\nPut:b:3\nUpdate:b:3:4567\nGet:a\nDelete:c\n\
            Unwatch:a\nUnwatch:x\nUnwatchPrefix:\nPut:a:9\nSync\nStats\n"[..]],
    );
    let output = String::from_utf8(output).unwrap();
    assert_eq!(
        output.lines().last().unwrap(),
        ":stats:active=1 dropped=0 refused=0 full_clients=0 full_addresses=0 accept_errors=0 commands=14 gets=1 puts=3 updates=1 \
         deletes=1 sets=0 removes=0 walks=0 syncs=1 stats=1 watches=3 unwatches=3 auths=0 unauthorized=0 errors=1 long_lines=0 long_replies=0 long_prefixes=0 full_watches=0 full_store=0 full_values=0 unconfirmed=0 slow_lines=0 idle=0 throttled=0 lines_queued=7 lines_dropped=0 \
         watching=0 events=4 missed=0 keys=2 values=3 bytes=9 size=161 commits=0 commit_writes=0 commit_last_us=0 commit_longest_us=0 disk_bytes=0 log_commits=0 refusing=0 nodes_up=0 under_way=0 retries=0 failures=0 store=1 uptime=0",
    );
}

/// The figures of the Stats in what came, of these names.
pub(crate) fn figures<const N: usize>(output: &str, names: [&str; N]) -> Vec<[u64; N]> {
    let stats = output
        .lines()
        .filter_map(|line| line.strip_prefix(":stats:"));
    stats
        .map(|line| {
            names.map(|name| {
                let word = line.split(' ').find_map(|word| {
                    let (other, number) = word.split_once('=')?;
                    (other == name).then_some(number)
                });
                word.unwrap().parse().unwrap()
            })
        })
        .collect()
}

const STATS: &str = "Stats\nWatch:a\nStats\nPut:a:1\nStats\nPut:a:2\nPut:bb:3\nStats\nDelete:a\nStats\n\
                     Update:bb:3:four\nUnwatch:a\nStats\nWatchPrefix:\nStats\n";

const OF_STATS: [[u64; 5]; 7] = [
    [0, 0, 0, 0, 0],
    [0, 0, 0, 1, 0],
    [1, 1, 2, 1, 1],
    [2, 3, 6, 1, 2],
    [1, 1, 3, 1, 3],
    [1, 1, 6, 0, 3],
    [1, 1, 6, 1, 3],
];

#[test]
fn stats_know_of_everything_that_came_before_them() {
    let names = ["keys", "values", "bytes", "watching", "events"];
    assert_eq!(
        figures(&replies(keywire::store::Memory::new(), STATS), names),
        OF_STATS
    );
    let output = replies(Remote::default(), STATS);
    assert_eq!(figures(&output, names), OF_STATS, "late");
    let output = replies(Failing::default(), STATS);
    assert_eq!(
        figures(&output, names),
        OF_STATS,
        "at once, each batch by itself"
    );
    let (output, _) = converse(Server::new(), STATS.as_bytes().chunks(1));
    assert_eq!(
        figures(&String::from_utf8(output).unwrap(), names),
        OF_STATS
    );
}
