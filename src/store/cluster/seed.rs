//! The first question to a cluster: who is there?

use std::{io, net::TcpStream};

use async_io::{Async, Timer};
use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _, future};

use super::{
    driver::connect,
    resp::{Reply, Scanner},
    router::{CONNECT_TIMEOUT, Config},
    slots::{Address, SlotRange, parse_slots},
};

pub(super) struct Seed {
    pub(super) address: Address,
    /// The script's name.
    pub(super) script: Vec<u8>,
    pub(super) slots: Vec<SlotRange>,
}

/// Asks a node. `publish` is a command that it has to allow, on a channel that nobody has. The error is for a
/// person, and shows no secret.
pub(super) async fn ask(node: &str, config: &Config, publish: &[u8]) -> Result<Seed, String> {
    if node.starts_with("rediss://") {
        return Err("TLS to a cluster is not supported".into());
    }
    let name = node.strip_prefix("redis://").unwrap_or(node);
    let address =
        Address::parse(name.trim_end_matches('/'), "127.0.0.1").ok_or("that is not HOST:PORT")?;
    let ask = async {
        let mut stream = connect(address.clone()).await.map_err(text)?;
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
        let slots = call(&mut stream, b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n").await?;
        let slots = parse_slots(&slots, &address.host).ok_or("it is no node of a cluster")?;
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

async fn call(stream: &mut Async<TcpStream>, command: &[u8]) -> Result<Vec<u8>, String> {
    stream.write_all(command).await.map_err(text)?;
    let mut scanner = Scanner::default();
    let mut reply = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes).await.map_err(text)? {
            0 => return Err("it has closed the connection".into()),
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
