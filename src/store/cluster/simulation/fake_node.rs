//! What a node does with a command.

use super::Simulation;
use crate::store::cluster::{
    resp::{push_argument, push_array},
    slots,
};

/// The key of a bucket's number.
pub(super) fn number_key(bucket: u16) -> Vec<u8> {
    format!("#{bucket}").into_bytes()
}

impl Simulation {
    pub(super) fn execute(&mut self, node: usize, words: &[Vec<u8>], asking: bool) -> Vec<u8> {
        match &words[0][..] {
            b"ASKING" => return b"+OK\r\n".to_vec(),
            b"SCRIPT" => {
                self.nodes[node].knows_script = true;
                return b"$1\r\nx\r\n".to_vec();
            }
            b"WAIT" => return format!(":{}\r\n", self.random.usize(..3)).into_bytes(),
            b"CLUSTER" => return self.map_reply(node, words[1] == b"NODES"),
            _ => {}
        }
        let is_script = words[0] == b"EVALSHA";
        let name = if is_script { &words[3] } else { &words[1] };
        let name = std::str::from_utf8(name).unwrap();
        let bucket = name[3..].split('}').next().unwrap().parse().unwrap();
        let key_of = |name: &[u8]| {
            name.splitn(2, |&byte| byte == b':')
                .nth(1)
                .unwrap()
                .splitn(2, |&byte| byte == b':')
                .nth(1)
                .unwrap()
                .to_vec()
        };
        let keys: Vec<Vec<u8>> = match is_script {
            true => {
                let count: usize = String::from_utf8_lossy(&words[2]).parse().unwrap();
                words[4..3 + count]
                    .iter()
                    .map(|name| key_of(name))
                    .collect()
            }
            false => vec![key_of(&words[1])],
        };
        let (owner, target) = self.owners[&bucket];
        let slot = slots::slot(bucket);
        if self.random.u32(..300) == 0 {
            let errors: [&[u8]; 3] = [b"-CLUSTERDOWN x\r\n", b"-TRYAGAIN x\r\n", b"-LOADING x\r\n"];
            return errors[self.random.usize(..3)].to_vec();
        }
        let number = is_script.then(|| number_key(bucket));
        let of_request = keys.iter().chain(&number);
        let count = of_request.clone().count();
        let has = of_request.filter(|&key| !self.moved.contains(key)).count();
        if owner != node && !(asking && target == Some(node)) {
            let old_rows = self.nodes[node].old_rows.iter().flatten();
            let mut known = old_rows.filter(|row| row.first == slot);
            let owner = known.next().map_or(owner, |row| row.master.port.into());
            if owner == node {
                // It has lost the slot and can't know it.
                return b"-CLUSTERDOWN x\r\n".to_vec();
            }
            return format!("-MOVED {slot} sim:{owner}\r\n").into_bytes();
        }
        if let Some(target) = target.filter(|_| owner == node) {
            match has {
                0 => return format!("-ASK {slot} sim:{target}\r\n").into_bytes(),
                _ if has < count => return b"-TRYAGAIN x\r\n".to_vec(),
                _ => {}
            }
        } else if owner != node && has > 0 && count > 1 {
            return b"-TRYAGAIN x\r\n".to_vec();
        }
        if is_script && !self.nodes[node].knows_script {
            return b"-NOSCRIPT x\r\n".to_vec();
        }
        let mut reply = Vec::new();
        if !is_script {
            self.push_list(&mut reply, &keys[0]);
            return reply;
        }
        push_array(&mut reply, keys.len());
        let mut arguments = words[3 + 1 + keys.len() + 1..].iter();
        for key in keys {
            match &arguments.next().unwrap()[..] {
                b"G" => {
                    reply.extend_from_slice(b"*2\r\n:1\r\n");
                    self.push_list(&mut reply, &key);
                }
                _ => {
                    let value = String::from_utf8_lossy(arguments.next().unwrap())
                        .parse()
                        .unwrap();
                    assert!(self.applied.insert(value), "{value} is sent twice");
                    self.lists.entry(key).or_default().push(value);
                    reply.extend_from_slice(b":1\r\n");
                }
            }
        }
        reply
    }

    fn push_list(&self, reply: &mut Vec<u8>, key: &[u8]) {
        let list = self.lists.get(key).map_or(&[][..], Vec::as_slice);
        push_array(reply, list.len());
        for value in list {
            push_argument(reply, value.to_string().as_bytes());
        }
    }

    /// `CLUSTER NODES` or `CLUSTER SLOTS`, as this node knows it. The id of a node is its port.
    fn map_reply(&self, node: usize, is_nodes: bool) -> Vec<u8> {
        let rows = self.nodes[node].old_rows.clone();
        let rows = rows.unwrap_or_else(|| self.rows());
        let mut reply = Vec::new();
        if is_nodes {
            let lines = rows.iter().map(|row| {
                let (port, epoch) = (row.master.port, row.epoch.unwrap_or(0));
                format!(
                    "{port} sim:{port}@1 master - 0 0 {epoch} connected {}\n",
                    row.first
                )
            });
            push_argument(&mut reply, lines.collect::<String>().as_bytes());
            return reply;
        }
        push_array(&mut reply, rows.len());
        for row in rows {
            let (slot, port) = (row.first, row.master.port);
            reply.extend_from_slice(format!("*3\r\n:{slot}\r\n:{slot}\r\n").as_bytes());
            reply.extend_from_slice(format!("*3\r\n$3\r\nsim\r\n:{port}\r\n").as_bytes());
            push_argument(&mut reply, port.to_string().as_bytes());
        }
        reply
    }
}
