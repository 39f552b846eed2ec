//! Many clients of two servers at once, against the model.

use std::{collections::BTreeMap, thread};

use futures_lite::{StreamExt as _, future};
use keywire::Server;

use crate::{
    common::{TestServer, model::Model},
    mixed::{MAX_LINE, Mixed},
    nodes::shared,
    servers::{client, store, within},
};

const CLIENTS: u64 = 8;
const PREFIX: &str = "model:";

/// Braces in keys choose no slot.
const MIXED: Mixed = Mixed {
    tags: &["", "{", "{}", "{7}", "}{x}"],
    watches: false,
};

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
            scope.spawn(move || MIXED.converse(client, number, &format!("client{number}.")))
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
