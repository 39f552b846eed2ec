//! Where an event stands among replies, within a round and beyond it.

use keywire::Server;

use super::plain;
use crate::common::local::LocalServer;

#[test]
fn own_changes_stand_between_own_replies() {
    plain(
        "Watch:k\nPut:k:1\nGet:k\nPut:k:2\nGet:k\nUpdate:k:1:a:b\nGet:k\nDelete:k\nGet:k\nSync:end\n",
        ":watch:k\n:put:k:1\nk:1\n:put:k:2\nk:1\nk:2\n:update:k:1:a:b\nk:a:b\nk:2\n:delete:k\n\
         :sync:0:end\n",
    );
}

#[test]
fn changes_come_as_they_were_sent() {
    plain(
        "WatchPrefix:\nPut:k:\nPut:k::\nPut:k: a:b \r\nUpdate:k::\nUpdate:k::x:y\nUpdate:k:no:\nDelete:k\n",
        ":watchprefix:\n:put:k:\n:put:k::\n:put:k: a:b \n:update:k::\n:update:k::x:y\n:update:k:no:\n\
         :delete:k\n",
    );
}

#[test]
fn in_one_round_a_watcher_hears_what_comes_after_its_watch() {
    let mut server = LocalServer::new(Server::new());
    let (mut before, mut writer, mut after) =
        (server.connect(), server.connect(), server.connect());
    before.send("Get:k\nWatch:k\nGet:k\nSync:end\n");
    writer.send("Put:k:1\nPut:k:2\n");
    after.send("Get:k\nWatch:k\nGet:k\nPut:k:3\nGet:k\nSync:end\n");
    server.run();
    assert_eq!(
        before.received(),
        ":watch:k\n:sync:0:end\n:put:k:1\n:put:k:2\n:put:k:3\n"
    );
    assert_eq!(
        after.received(),
        "k:1\nk:2\n:watch:k\nk:1\nk:2\n:put:k:3\nk:1\nk:2\nk:3\n:sync:0:end\n"
    );
}

#[test]
fn in_one_round_changes_stand_on_the_right_side_of_a_watchers_replies() {
    let mut server = LocalServer::new(Server::new());
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send("WatchPrefix:\nWatch:k\n");
        assert_eq!(client.receive_all(&mut server), ":watchprefix:\n:watch:k\n");
    }
    // The last has nothing to say in the second round.
    for round in 1..=2 {
        for (number, client) in clients[..4 - (round - 1)].iter_mut().enumerate() {
            client.send(format!("Get:k\nPut:k:{number}\nGet:k\nDelete:k\nSync\n"));
        }
        server.run();
        for (number, client) in clients.iter_mut().enumerate() {
            let mut expected = String::new();
            for other in 0..4 - (round - 1) {
                expected += &format!(":put:k:{other}\n");
                if other == number {
                    expected += &format!("k:{number}\n");
                }
                expected += ":delete:k\n";
                if other == number {
                    expected += ":sync:0:\n";
                }
            }
            assert_eq!(
                client.received(),
                expected,
                "round {round}, client {number}"
            );
        }
    }
    assert_eq!(server.stats().events, 4 * 8 + 4 * 6);
}

#[test]
fn an_unwatch_ends_it_at_its_place_in_the_round() {
    let mut server = LocalServer::new(Server::new());
    let (mut one, mut watcher, mut other) = (server.connect(), server.connect(), server.connect());
    watcher.send("Watch:k\nWatch:j\n");
    server.run();
    one.send("Put:k:1\nPut:j:1\n");
    watcher.send("Put:k:2\nUnwatch:k\nPut:k:3\nSync\n");
    other.send("Put:k:4\nPut:j:4\n");
    server.run();
    assert_eq!(
        watcher.received(),
        ":watch:k\n:watch:j\n:put:k:1\n:put:j:1\n:put:k:2\n:sync:0:\n:put:j:4\n"
    );
}

/// A pipeline of more lines than one turn takes.
#[test]
fn turns_that_go_on_in_a_later_round_hear_in_order() {
    const PUTS: usize = 20_000;
    let mut server = LocalServer::new(Server::new());
    let (mut one, mut other) = (server.connect(), server.connect());
    let commands = |name: &str| -> String {
        let puts = (0..PUTS).map(|n| format!("Delete:{name}\nPut:{name}:{n}\nGet:{name}\n"));
        "WatchPrefix:\n".to_owned() + &puts.collect::<String>()
    };
    one.send(commands("one"));
    other.send(commands("other"));
    let heard = [one.receive_all(&mut server), other.receive_all(&mut server)];
    for (heard, name) in heard.iter().zip(["one", "other"]) {
        let own = |line: &&str| line.contains(name);
        let (own, others): (Vec<_>, Vec<_>) = heard.lines().skip(1).partition(own);
        let expected = (0..PUTS).flat_map(|n| {
            [
                format!(":delete:{name}"),
                format!(":put:{name}:{n}"),
                format!("{name}:{n}"),
            ]
        });
        assert!(own.iter().copied().eq(expected));
        assert!(others.len() > PUTS, "both are heard");
    }
}
