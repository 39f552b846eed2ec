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
            b"CLUSTER" => return self.slots_reply(),
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
        let mut arguments = words[3 + 1 + keys.len() + 2..].iter();
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

    fn slots_reply(&self) -> Vec<u8> {
        let rows = self.rows();
        let mut reply = Vec::new();
        push_array(&mut reply, rows.len());
        for row in rows {
            let (slot, port) = (row.first, row.master.port);
            reply.extend_from_slice(format!("*3\r\n:{slot}\r\n:{slot}\r\n").as_bytes());
            reply.extend_from_slice(format!("*2\r\n$3\r\nsim\r\n:{port}\r\n").as_bytes());
        }
        reply
    }
}
