//! Where an event stands among replies, within a round and beyond it.

use keywire::Server;

use super::plain;
use crate::common::stage::Stage;

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
    let mut stage = Stage::new(Server::new());
    let (mut before, mut writer, mut after) = (stage.join(), stage.join(), stage.join());
    before.say("Get:k\nWatch:k\nGet:k\nSync:end\n");
    writer.say("Put:k:1\nPut:k:2\n");
    after.say("Get:k\nWatch:k\nGet:k\nPut:k:3\nGet:k\nSync:end\n");
    stage.play();
    assert_eq!(
        before.hear(),
        ":watch:k\n:sync:0:end\n:put:k:1\n:put:k:2\n:put:k:3\n"
    );
    assert_eq!(
        after.hear(),
        "k:1\nk:2\n:watch:k\nk:1\nk:2\n:put:k:3\nk:1\nk:2\nk:3\n:sync:0:end\n"
    );
}

#[test]
fn in_one_round_changes_stand_on_the_right_side_of_a_watchers_replies() {
    let mut stage = Stage::new(Server::new());
    let mut actors: Vec<_> = (0..4).map(|_| stage.join()).collect();
    for actor in &mut actors {
        actor.say("WatchPrefix:\nWatch:k\n");
        assert_eq!(actor.hear_all(&mut stage), ":watchprefix:\n:watch:k\n");
    }
    // The last has nothing to say in the second round.
    for round in 1..=2 {
        for (number, actor) in actors[..4 - (round - 1)].iter_mut().enumerate() {
            actor.say(format!("Get:k\nPut:k:{number}\nGet:k\nDelete:k\nSync\n"));
        }
        stage.play();
        for (number, actor) in actors.iter_mut().enumerate() {
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
            assert_eq!(actor.hear(), expected, "round {round}, client {number}");
        }
    }
    assert_eq!(stage.stats().events, 4 * 8 + 4 * 6);
}

#[test]
fn an_unwatch_ends_it_at_its_place_in_the_round() {
    let mut stage = Stage::new(Server::new());
    let (mut one, mut watcher, mut other) = (stage.join(), stage.join(), stage.join());
    watcher.say("Watch:k\nWatch:j\n");
    stage.play();
    one.say("Put:k:1\nPut:j:1\n");
    watcher.say("Put:k:2\nUnwatch:k\nPut:k:3\nSync\n");
    other.say("Put:k:4\nPut:j:4\n");
    stage.play();
    assert_eq!(
        watcher.hear(),
        ":watch:k\n:watch:j\n:put:k:1\n:put:j:1\n:put:k:2\n:sync:0:\n:put:j:4\n"
    );
}

/// A pipeline of more lines than one turn takes.
#[test]
fn turns_that_go_on_in_a_later_round_hear_in_order() {
    const PUTS: usize = 20_000;
    let mut stage = Stage::new(Server::new());
    let (mut one, mut other) = (stage.join(), stage.join());
    let commands = |name: &str| -> String {
        let puts = (0..PUTS).map(|n| format!("Delete:{name}\nPut:{name}:{n}\nGet:{name}\n"));
        "WatchPrefix:\n".to_owned() + &puts.collect::<String>()
    };
    one.say(commands("one"));
    other.say(commands("other"));
    let heard = [one.hear_all(&mut stage), other.hear_all(&mut stage)];
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
