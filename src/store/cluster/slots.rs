//! Keys → buckets → slots → nodes.
//!
//! The hash tag of a key's name is its bucket, so all keys of a bucket are in one slot, and on one node.

use std::{collections::HashMap, fmt};

use super::resp::Reply;

/// Buckets of all keys. What is stored depends on it, so it can't be changed.
pub(super) const BUCKETS: u16 = 1024;

pub(super) const SLOTS: u16 = 16384;

/// Their replies belong together: [`parse_epochs`], [`parse_slots`].
pub(super) const NODES_COMMAND: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n";
pub(super) const SLOTS_COMMAND: &[u8] = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";

/// CRC16/XMODEM, by which Redis chooses slots.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = match crc & 0x8000 {
                0 => crc << 1,
                _ => (crc << 1) ^ 0x1021,
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, &byte| {
        (crc << 8) ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

pub(super) fn bucket(key: &[u8]) -> u16 {
    crc16(key) % BUCKETS
}

/// The slot of a bucket: that of its hash tag, the number in decimal.
pub(super) fn slot(bucket: u16) -> u16 {
    crc16(bucket.to_string().as_bytes()) % SLOTS
}

/// Where a node listens.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl Address {
    /// An empty host, which a node gives that does not know its own, is `default`. So is `?`, which stands for
    /// a host that the node does not know.
    fn new(host: &str, port: u16, default: &str) -> Self {
        let host = match host {
            "" | "?" => default,
            host => host,
        };
        Self {
            host: host.to_string(),
            port,
        }
    }

    /// `HOST:PORT`.
    pub(super) fn parse(text: &str, default: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(Self::new(host, port.parse().ok()?, default))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A row of the reply to `CLUSTER SLOTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotRange {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
    pub(super) replicas: Vec<Address>,
    /// The configuration epoch of the master, if the node has given it. Whoever takes a slot over has a later
    /// one than who had it.
    pub(super) epoch: Option<u64>,
}

/// The configuration epochs of nodes, by their ids.
pub(super) type Epochs = HashMap<Vec<u8>, u64>;

/// Reads the reply to `CLUSTER NODES`. A user may have no right to ask: then there are none.
pub(super) fn parse_epochs(reply: &[u8]) -> Epochs {
    let Some(Reply::Bytes(text)) = Reply::parse(reply) else {
        return Epochs::new();
    };
    let nodes = text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut words = line.split(|&byte| byte == b' ');
        let id = words.next()?.to_vec();
        let epoch = std::str::from_utf8(words.nth(5)?).ok()?.parse().ok()?;
        Some((id, epoch))
    });
    nodes.collect()
}

/// Reads the reply to `CLUSTER SLOTS` of a node at this host. `None` if it is none.
pub(super) fn parse_slots(reply: &[u8], host: &str, epochs: &Epochs) -> Option<Vec<SlotRange>> {
    let Reply::Array(rows) = Reply::parse(reply)? else {
        return None;
    };
    rows.map(|row| {
        let Reply::Array(mut row) = row else {
            return None;
        };
        let first = row.next()?.integer()?.try_into().ok()?;
        let last = row.next()?.integer()?.try_into().ok()?;
        let mut epoch = None;
        let mut nodes = row.enumerate().map(|(index, node)| {
            let Reply::Array(mut node) = node else {
                return None;
            };
            let name = std::str::from_utf8(node.next()?.bytes().unwrap_or_default()).ok()?;
            let port = node.next()?.integer()?.try_into().ok()?;
            if index == 0 {
                let id = node.next().and_then(|id| id.bytes());
                epoch = id.and_then(|id| epochs.get(id)).copied();
            }
            Some(Address::new(name, port, host))
        });
        let master = nodes.next()??;
        let replicas = nodes.collect::<Option<_>>()?;
        Some(SlotRange {
            first,
            last,
            master,
            replicas,
            epoch,
        })
    })
    .collect()
}

/// The masters, also those without slots, in the reply to `CLUSTER SHARDS` of a node at this host. A reply that is
/// none names none: not every service that offers a cluster has the command.
pub(super) fn masters(reply: Reply<'_>, host: &str, is_tls: bool) -> Vec<Address> {
    let port: &[u8] = if is_tls { b"tls-port" } else { b"port" };
    let nodes = elements(Some(reply)).flat_map(|shard| elements(field(&shard, b"nodes")));
    let address = |node| {
        let text = |name| std::str::from_utf8(field(&node, name)?.bytes()?).ok();
        let port = field(&node, port)?.integer()?.try_into().ok()?;
        let is_up = text(b"role") == Some("master") && text(b"health") == Some("online");
        is_up.then(|| Address::new(text(b"endpoint").unwrap_or_default(), port, host))
    };
    nodes.filter_map(address).collect()
}

fn elements(reply: Option<Reply<'_>>) -> impl Iterator<Item = Reply<'_>> {
    let replies = match reply {
        Some(Reply::Array(replies)) => Some(replies),
        _ => None,
    };
    replies.into_iter().flatten()
}

/// A value of a map, which is an array of names and values in turns.
fn field<'a>(map: &Reply<'a>, name: &[u8]) -> Option<Reply<'a>> {
    let mut elements = elements(Some(map.clone()));
    while let Some(key) = elements.next() {
        let value = elements.next();
        if key.bytes() == Some(name) {
            return value;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As `CLUSTER KEYSLOT` gives them.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(354), crc16(b"354") % SLOTS);
        assert_eq!(crc16(b"foo") % SLOTS, 12182);
        assert!(slot(BUCKETS - 1) < SLOTS);
    }

    #[test]
    fn addresses_are_read() {
        let parse = |text| Address::parse(text, "seed").map(|it| it.to_string());
        assert_eq!(parse("::1:6379").as_deref(), Some("[::1]:6379"));
        assert_eq!(parse("[::1]:6379").as_deref(), Some("[::1]:6379"));
        assert_eq!(parse(":6379").as_deref(), Some("seed:6379"));
        assert_eq!(parse("host"), None);
    }

    #[test]
    fn a_slot_map_is_read() {
        let reply = b"*1\r\n*4\r\n:0\r\n:5460\r\n*3\r\n$0\r\n\r\n:7610\r\n$2\r\nid\r\n\
                      *3\r\n$4\r\nhost\r\n:7611\r\n$2\r\nid\r\n";
        let nodes = "id 127.0.0.1:7610@17610,name myself,master - 0 0 12 connected 0-5460\n\
                     other 127.0.0.1:7611@17611 slave id 0 1 12 connected\n";
        let nodes = format!("${}\r\n{nodes}\r\n", nodes.len());
        let epochs = parse_epochs(nodes.as_bytes());
        assert_eq!(epochs.len(), 2);
        let rows = parse_slots(reply, "seed", &epochs).unwrap();
        assert_eq!(rows[0].epoch, Some(12));
        assert_eq!((rows[0].first, rows[0].last), (0, 5460));
        assert_eq!(rows[0].master.to_string(), "seed:7610");
        assert_eq!(rows[0].replicas[0].to_string(), "host:7611");
        let epochs = parse_epochs(b"-NOPERM x\r\n");
        let rows = parse_slots(reply, "seed", &epochs).unwrap();
        assert_eq!(rows[0].epoch, None);
        assert_eq!(parse_slots(b"-ERR\r\n", "seed", &epochs), None);
    }
    #[test]
    fn masters_are_read() {
        let node = |port: u16, role: &str, health: &str| {
            let text = |text: &str| format!("${}\r\n{text}\r\n", text.len());
            let fields = [
                (text("port"), format!(":{port}\r\n")),
                (text("endpoint"), text("")),
                (text("role"), text(role)),
                (text("health"), text(health)),
            ];
            let fields = fields.map(|(name, value)| name + &value).concat();
            format!("*8\r\n{fields}")
        };
        let shard = |slots: &str, nodes: &[String]| {
            let nodes = format!("*{}\r\n{}", nodes.len(), nodes.concat());
            format!("*4\r\n$5\r\nslots\r\n{slots}$5\r\nnodes\r\n{nodes}")
        };
        let reply = [
            shard("*2\r\n:0\r\n:16383\r\n", &[node(1, "master", "online")]),
            shard(
                "*0\r\n",
                &[node(2, "master", "online"), node(3, "replica", "online")],
            ),
            shard("*0\r\n", &[node(4, "master", "failed")]),
        ];
        let reply = format!("*3\r\n{}", reply.concat());
        let read = |reply: &str, is_tls| {
            let reply = Reply::parse(reply.as_bytes()).unwrap();
            let masters = masters(reply, "seed", is_tls);
            masters.iter().map(Address::to_string).collect::<Vec<_>>()
        };
        assert_eq!(read(&reply, false), ["seed:1", "seed:2"]);
        assert!(read(&reply, true).is_empty());
        assert!(read("-ERR unknown subcommand\r\n", false).is_empty());
    }
}
