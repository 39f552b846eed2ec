//! The first question to a cluster: who is there?

use std::io;

use async_io::Timer;
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use super::{
    resp::{Reply, Scanner},
    router::{CONNECT_TIMEOUT, Config},
    slots::{Address, Epochs, NODES_COMMAND, SLOTS_COMMAND, SlotRange, parse_epochs, parse_slots},
    stream::{Connector, Stream},
};

pub(super) struct Seed {
    pub(super) address: Address,
    /// The script's name.
    pub(super) script: Vec<u8>,
    pub(super) slots: Vec<SlotRange>,
}

/// Where a node of this name listens.
pub(super) fn address(node: &str) -> Option<Address> {
    Address::parse(split(node).1, "127.0.0.1")
}

/// Splits `redis://HOST:PORT` and the like: whether it asks for TLS, if it says, and HOST:PORT.
fn split(node: &str) -> (Option<bool>, &str) {
    let (scheme, rest) = match node.split_once("://") {
        Some(("redis", rest)) => (Some(false), rest),
        Some(("rediss", rest)) => (Some(true), rest),
        _ => (None, node),
    };
    (scheme, rest.trim_end_matches('/'))
}

/// Whether nodes of these names can be connected to in this way.
pub(super) fn check_schemes(nodes: &[String], connector: &Connector) -> Result<(), String> {
    if nodes.iter().any(|node| node.contains('@')) {
        // The name is not shown: it may hold a password.
        return Err("a node is HOST:PORT; its password is set apart, not with the name".into());
    }
    let find = |tls| nodes.iter().find(|node| split(node).0 == Some(tls));
    match (find(false), find(true), connector.is_tls()) {
        (Some(plain), Some(tls), _) => Err(format!(
            "{plain} is without TLS and {tls} with it: all nodes of a cluster are reached in one way"
        )),
        (None, Some(tls), false) => Err(format!("{tls}: {WANTS_TLS}")),
        (Some(plain), None, true) => Err(format!(
            "{plain}: redis:// is without TLS, but TLS is set up; with it, it is rediss://"
        )),
        _ => Ok(()),
    }
}

#[cfg(feature = "tls")]
const WANTS_TLS: &str =
    "rediss:// is TLS, and ClusterBuilder::tls has not said who vouches for the nodes";

#[cfg(not(feature = "tls"))]
const WANTS_TLS: &str = "rediss:// is TLS, and keywire was built without its feature `tls`";

/// Asks a node. `publish` is a command that it has to allow, on a channel that nobody has. The error is for a
/// person, and shows no secret.
pub(super) async fn ask(
    node: &str,
    config: &Config,
    connector: &Connector,
    publish: &[u8],
) -> Result<Seed, String> {
    let address = address(node).ok_or("that is not HOST:PORT")?;
    let ask = async {
        let stream = connector.clone().connect(address.clone());
        let mut stream = stream.await.map_err(text)?;
        if let Some(auth) = &config.auth {
            call(&mut stream, auth).await?;
        }
        let script = call(&mut stream, &config.load).await?;
        let script = match Reply::parse(&script) {
            Some(Reply::Bytes(name)) => name.to_vec(),
            _ => return Err("it is no Redis".to_string()),
        };
        // Else the first write would be applied and could not be published. That another node has the slot
        // is no refusal.
        match call(&mut stream, publish).await {
            Err(reason) if reason.starts_with("NOPERM") || reason.starts_with("ERR") => {
                return Err(reason);
            }
            _ => {}
        }
        let epochs = match call(&mut stream, NODES_COMMAND).await {
            Ok(nodes) => parse_epochs(&nodes),
            Err(_) => Epochs::new(),
        };
        let slots = call(&mut stream, SLOTS_COMMAND).await?;
        let slots =
            parse_slots(&slots, &address.host, &epochs).ok_or("it is no node of a cluster")?;
        if slots.is_empty() {
            return Err("its cluster has no slots".to_string());
        }
        Ok((script, slots))
    };
    let late = async {
        Timer::after(3 * CONNECT_TIMEOUT).await;
        Err("it does not answer".to_string())
    };
    let (script, slots) = future::or(ask, late).await?;
    Ok(Seed {
        address,
        script,
        slots,
    })
}

fn text(error: io::Error) -> String {
    error.to_string()
}

async fn call(stream: &mut Stream, command: &[u8]) -> Result<Vec<u8>, String> {
    let is_plain = matches!(stream, Stream::Plain(_));
    let lost = |error: io::Error| match is_plain {
        true => format!("{error}; if it wants TLS, its name is rediss://HOST:PORT"),
        false => text(error),
    };
    stream.write_all(command).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut scanner = Scanner::default();
    let mut reply = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await.map_err(lost)? {
            0 => return Err(lost(io::Error::other("it has closed the connection"))),
            // An alert of TLS.
            _ if is_plain && bytes[0] == 0x15 && reply.is_empty() => {
                return Err(lost(io::Error::other("it is no Redis")));
            }
            length => reply.extend_from_slice(&bytes[..length]),
        }
        match scanner.scan(&reply) {
            Err(_) => return Err("it is no Redis".into()),
            Ok(None) => {}
            Ok(Some(_)) => {
                return match Reply::parse(&reply) {
                    Some(Reply::Error(error)) => Err(String::from_utf8_lossy(error).into_owned()),
                    _ => Ok(reply),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_that_do_not_fit_are_refused() {
        let check = |nodes: &[&str]| {
            let nodes: Vec<_> = nodes.iter().map(|&node| node.to_owned()).collect();
            check_schemes(&nodes, &Connector::default())
        };
        assert_eq!(check(&["redis://a:1", "b:2", "[::1]:3"]), Ok(()));
        let password = check(&["redis://user:word@a:1"]).unwrap_err();
        assert!(!password.contains("word@"), "{password}");
        let mixed = check(&["redis://a:1", "rediss://b:2"]).unwrap_err();
        assert!(mixed.contains("in one way"), "{mixed}");
        let wanted = check(&["a:1", "rediss://b:2"]).unwrap_err();
        let reason = match cfg!(feature = "tls") {
            true => "ClusterBuilder::tls",
            false => "feature `tls`",
        };
        assert!(wanted.contains(reason), "{wanted}");
    }
}
