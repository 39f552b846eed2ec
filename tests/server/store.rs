//! The contract of a store, from both sides.

use keywire::{
    Builder, Error, Server,
    store::{Batch, Memory, Order, Store, Submission},
};

use crate::common::{
    TestServer,
    late_store::{LateStore, NoOrder, Outcome},
    local::LocalServer,
    script::converse,
    stores::{Failing, Remote},
};

fn replies<S: Store>(store: S, commands: &str) -> String {
    let server = Server::builder().store(store).build();
    let (output, _) = converse(server, [commands.as_bytes()]);
    String::from_utf8(output).unwrap()
}

#[test]
fn a_command_that_fails_is_named_and_the_others_are_done() {
    assert_eq!(
        replies(
            Failing::default(),
            "Put:a:1\nPut:bad:2\nSync\nGet:bad\nno\nGet:a\nUpdate:bad:x:y\nDelete:bad\nSync\n",
        ),
        ":error:2:store:out of order\n\
         :sync:0:\n\
         :error:4:store:out of order\n\
         :error:5:unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         a:1\n\
         :error:7:store:out of order\n\
         :error:8:store:out of order\n\
         :sync:0:\n",
    );
}

#[test]
fn a_batch_that_fails_fails_whole_and_in_order() {
    assert_eq!(
        replies(
            Failing::default(),
            "Put:a:1\n\nGet:a\nSync:x\nno\nPut:worse:1\nSync:y\n"
        ),
        ":error:1:store:nothing of this\n\
         :error:3:store:nothing of this\n\
         :sync:0:x\n\
         :error:5:unknown:no such command (case matters); there are Put, Get, Delete, Update, Set, Remove, GetPrefix, Keys, Sync, Stats, Watch, Unwatch, WatchPrefix, UnwatchPrefix and Auth\n\
         :error:6:store:nothing of this\n\
         :sync:0:y\n",
    );
}

#[test]
fn the_server_goes_on_after_a_failure() {
    let server = Server::builder().store(Failing::default()).build();
    let server = TestServer::start(server);
    let (mut one, mut other) = (server.connect(), server.connect());
    for _ in 0..100 {
        one.send("Put:worse:1\nPut:k:1\n");
        assert_eq!(one.sync().0.len(), 2);
        other.send("Put:bad:1\nPut:k:1\nGet:k\nDelete:k\n");
        let lines = other.sync().0;
        assert_eq!(lines[1], b"k:1");
    }
    let stats = server.handle.stats();
    assert_eq!(stats.errors, 300);
}

/// The errors fill the client's outbox. All the same, each write is answered, and what other clients wrote
/// stands.
#[test]
fn a_batch_that_fails_fails_alone_and_whole_with_a_full_outbox() {
    let (store, control) = LateStore::<NoOrder>::new();
    let server = Server::builder().outbox_lines(30).store(store);
    let mut server = LocalServer::new(server.build());
    let (mut first, mut second) = (server.connect(), server.connect());
    let fifty = |key| -> String { (1..=50).map(|n| format!("Put:{key}:{n}\n")).collect() };
    first.send(fifty("first") + "Sync:fence\n");
    second.send(fifty("second") + "Sync:fence\n");
    server.run();
    control.end("Put:first:1", Outcome::Fail);
    control.end("Put:second:1", Outcome::Apply);
    let failed: String = (1..=50)
        .map(|n| format!(":error:{n}:store:on purpose\n"))
        .collect();
    assert_eq!(first.receive_all(&mut server), failed + ":sync:0:fence\n");
    assert_eq!(second.receive_all(&mut server), ":sync:0:fence\n");
    assert_eq!(control.values("first"), Vec::<String>::new());
    assert_eq!(control.values("second").len(), 50);
}

/// Answers nothing. `LOOKS` says whether it goes through the commands, and `AT_ONCE` whether it says that it
/// never waits.
struct Careless<const LOOKS: bool, const AT_ONCE: bool>;

impl<const LOOKS: bool, const AT_ONCE: bool> Store for Careless<LOOKS, AT_ONCE> {
    const ORDER: Order = match AT_ONCE {
        true => Order::Immediate,
        false => Order::None,
    };

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        if LOOKS {
            batch.each(|_, _| {});
        }
        batch.done()
    }
}

#[test]
fn a_command_without_an_answer_may_have_been_applied() {
    let commands = "Put:a:1\nSync:1\nGet:a\nSync:2\nPut:b:1\n";
    let expected = ":error:1:unconfirmed:the store gave no answer\n:sync:0:1\n\
                    :error:3:store:the store gave no answer\n:sync:0:2\n\
                    :error:5:unconfirmed:the store gave no answer\n";
    assert_eq!(replies(Careless::<true, true>, commands), expected);
    assert_eq!(replies(Careless::<true, false>, commands), expected);
    assert_eq!(replies(Careless::<false, true>, commands), expected);
    assert_eq!(replies(Careless::<false, false>, commands), expected);
}

/// Answers every command with the same list.
struct Parrot(&'static [u8]);

impl Store for Parrot {
    const ORDER: Order = Order::Immediate;

    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.each(|_, answer| answer.values([&b"first"[..], self.0]));
        batch.done()
    }
}

#[test]
fn an_answer_that_does_not_fit_is_a_failure_of_the_store() {
    assert_eq!(
        replies(Parrot(b"second"), "Get:a\nPut:a:1\nSync\nGet:a\n"),
        "a:first\na:second\n\
         :error:2:unconfirmed:the store gave an answer that does not fit the command\n:sync:0:\n\
         a:first\na:second\n",
    );
}

#[test]
fn a_value_can_not_forge_a_line() {
    assert_eq!(
        replies(Parrot(b"x\n:sync:0:"), "Get:a\nSync\n"),
        ":error:1:store:a value holds a line feed, which no line can carry\n:sync:0:\n",
    );
}

struct AlwaysFailing;

impl Store for AlwaysFailing {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.fail("no");
        batch.done()
    }
}

#[test]
fn a_store_that_fails_without_looking_fails_every_command() {
    assert_eq!(
        replies(AlwaysFailing, "Put:a:1\nSync\nGet:a\n"),
        ":error:1:store:no\n:sync:0:\n:error:3:store:no\n",
    );
}

/// Syncs, errors and blank lines are no reason to go to the store once more.
#[test]
fn a_store_gets_many_commands_at_a_time() {
    let commands: String = (0..100)
        .map(|n| format!("Put:k:{n}\nGet:k\nSync:{n}\nDelete:k\nPut\n\n"))
        .collect();
    let server = Server::builder().store(Remote::default()).build();
    let (output, store) = converse(server, [commands.as_bytes()]);
    let output = String::from_utf8(output).unwrap();
    let mut lines = output.lines();
    for n in 0..100 {
        let error = format!(":error:{}:malformed:", 6 * n + 5);
        assert_eq!(lines.next(), Some(&*format!("k:{n}")));
        assert_eq!(lines.next(), Some(&*format!(":sync:0:{n}")));
        assert!(lines.next().unwrap().starts_with(&error));
    }
    assert_eq!(lines.next(), None);
    assert_eq!(store.batches, 1);
}

/// Its place in the table can't be told from outside, so nobody can send keys that all have the same.
#[test]
fn each_store_hashes_by_a_key_of_its_own() {
    let order = || {
        let mut store = Memory::new();
        for key in 0..1000 {
            store.put(format!("{key}").as_bytes(), b"");
        }
        let keys = store.iter().map(|(key, _)| key.to_vec());
        keys.collect::<Vec<_>>()
    };
    assert_ne!(order(), order());
}

/// Keeps to no `max_store`, and wants a `max_values`.
struct FewValues;

impl Store for FewValues {
    fn submit(
        &mut self,
        batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        batch.done()
    }

    fn check_limits(&self, max_store: u64, max_values: usize) -> Result<(), Error> {
        match (max_store, max_values) {
            (u64::MAX, ..1000) => Ok(()),
            (u64::MAX, _) => Err(Error::store("max_values is wanted")),
            _ => Err(Error::store("max_store is beyond it")),
        }
    }
}

fn bounded(set_up: impl FnOnce(Builder) -> Builder) -> Builder<FewValues> {
    set_up(Server::builder()).store(FewValues)
}

#[test]
fn a_server_with_limits_that_its_store_can_not_keep_is_not_built() {
    let refusal = |set_up: fn(Builder) -> Builder| {
        let built = bounded(set_up).try_build();
        built.err().map(|error| error.to_string())
    };
    assert_eq!(refusal(|builder| builder.max_values(999)), None);
    let refused = refusal(|builder| builder).unwrap();
    assert!(refused.contains("max_values is wanted"), "{refused}");
    let refused = refusal(|builder| builder.max_store(1)).unwrap();
    assert!(refused.contains("max_store is beyond it"), "{refused}");
}

#[test]
#[should_panic(expected = "max_store is beyond it")]
fn build_panics_with_the_reason_of_the_store() {
    let _ = bounded(|builder| builder.max_store(1)).build();
}
