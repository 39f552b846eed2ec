//! Many clients of two servers at once, against the model.

use std::{collections::BTreeMap, thread};

use futures_lite::{StreamExt as _, future};
use keywire::Server;

use crate::{
    common::{
        Client, TestServer,
        model::{Model, assert_answers},
    },
    nodes::shared,
    servers::{client, store, within},
};

const MAX_LINE: usize = 64;
const CLIENTS: u64 = 8;
const PREFIX: &str = "model:";

/// A line that a client might send: mostly right, about few keys, sometimes wrong or too long.
fn random_line(random: &mut fastrand::Rng, prefix: &str) -> Vec<u8> {
    let tag = ["", "{", "{}", "{7}", "}{x}"][random.usize(..5)];
    let key = format!("{prefix}{tag}{}", random.u8(..4));
    let value = ["", "1", "2", "a:b", ":", "a longer value", "\u{0}\r{1}"][random.usize(..7)];
    let old = ["", "1", "2", "absent"][random.usize(..4)];
    let end = ["\n", "\n", "\n", "\r\n"][random.usize(..4)];
    let walked = &key[..random.usize(prefix.len()..=key.len())];
    let line = match random.u8(..100) {
        0..20 => format!("Put:{key}:{value}"),
        20..45 => format!("Get:{key}"),
        45..65 => format!("Update:{key}:{old}:{value}"),
        65..70 => format!("Delete:{key}"),
        70..74 => format!("Sync:{value}"),
        74..80 => ["", "Put:x", "get:x", "Stats", "Get::", "Update:x:y"][random.usize(..6)].into(),
        80..86 => format!("Set:{key}:{value}"),
        86..94 => format!("Remove:{key}:{old}"),
        94..96 => format!("GetPrefix:{walked}"),
        96..98 => format!("Keys:{walked}"),
        _ => "x".repeat(random.usize(..2 * MAX_LINE)),
    };
    (line + end).into_bytes()
}

/// Sends lines in pieces of any size, and checks the answers.
fn mixed_commands(mut client: Client, seed: u64, prefix: &str) -> Model {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut model = Model::new(MAX_LINE);
    let mut input = Vec::new();
    for _ in 0..random.usize(1..=1200) {
        input.extend(random_line(&mut random, prefix));
    }
    let expected = model.converse(&input);
    thread::scope(|scope| {
        let sender = client.stream().try_clone().unwrap();
        scope.spawn(move || {
            let mut rest = &input[..];
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(random.usize(1..=rest.len().min(4000)));
                std::io::Write::write_all(&mut &sender, piece).unwrap();
                rest = later;
            }
            sender.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut output = Vec::new();
        while let Some(line) = client.line() {
            output.extend(line);
            output.push(b'\n');
        }
        assert_answers(&output, &expected);
    });
    model
}

#[test]
fn clients_of_two_servers_agree_with_the_model() {
    let _bound = within(120);
    let servers = [(); 2].map(|()| {
        let store = store(shared(), PREFIX, |builder| builder);
        TestServer::start(Server::builder().max_line(MAX_LINE).store(store).build())
    });
    let models: Vec<Model> = thread::scope(|scope| {
        let clients = (0..CLIENTS).map(|number| {
            let client = servers[number as usize % 2].connect();
            scope.spawn(move || mixed_commands(client, number, &format!("client{number}.")))
        });
        let clients: Vec<_> = clients.collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let lists = models.into_iter().flat_map(|model| model.lists);
    let expected: BTreeMap<_, _> = lists.filter(|(_, values)| !values.is_empty()).collect();
    assert!(expected.len() > 20, "hardly a key");
    for server in &servers {
        let walk = client(server).get_prefix("").try_collect::<_, _, Vec<_>>();
        let found: BTreeMap<_, _> = future::block_on(walk).unwrap().into_iter().collect();
        assert_eq!(found, expected);
    }
}
