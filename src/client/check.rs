//! What a line can carry, checked before anything is sent.

use memchr::{memchr, memchr2};

use super::{flow::Ask, watch::Subject};
use crate::protocol::{Command, Operation};

type Checked<T> = Result<T, &'static str>;

pub(super) fn put(key: &[u8], value: &[u8]) -> Checked<Ask> {
    whole_key(key)?;
    last_field(value)?;
    Ok(write(Operation::Put { key, value }))
}

pub(super) fn get(key: &[u8]) -> Checked<Ask> {
    whole_key(key)?;
    Ok(Ask::Get {
        key: key.to_vec(),
        snapshot: None,
    })
}

pub(super) fn delete(key: &[u8]) -> Checked<Ask> {
    whole_key(key)?;
    Ok(write(Operation::Delete { key }))
}

pub(super) fn update(key: &[u8], old: &[u8], new: &[u8]) -> Checked<Ask> {
    whole_key(key)?;
    match memchr2(b':', b'\n', old) {
        Some(at) if old[at] == b':' => return Err("the old value holds a colon"),
        Some(_) => return Err("the old value holds a line feed"),
        None => {}
    }
    last_field(new)?;
    Ok(write(Operation::Update { key, old, new }))
}

pub(super) fn watch(key: &[u8]) -> Checked<Subject> {
    whole_key(key)?;
    Ok(Subject::Key(key.to_vec()))
}

pub(super) fn watch_prefix(prefix: &[u8]) -> Checked<Subject> {
    name(prefix)?;
    Ok(Subject::Prefix(prefix.to_vec()))
}

fn write(operation: Operation<'_>) -> Ask {
    let mut line = Vec::new();
    Command::Operation(operation).encode(&mut line);
    Ask::Write(line)
}

fn whole_key(key: &[u8]) -> Checked<()> {
    if key.is_empty() {
        return Err("the key is empty");
    }
    name(key)
}

/// A key ends the line in some commands, so it has to keep the rules of both.
fn name(name: &[u8]) -> Checked<()> {
    match memchr2(b':', b'\n', name) {
        Some(at) if name[at] == b':' => Err("the key holds a colon"),
        Some(_) => Err("the key holds a line feed"),
        None if name.ends_with(b"\r") => Err("the key ends in a carriage return"),
        None => Ok(()),
    }
}

fn last_field(value: &[u8]) -> Checked<()> {
    if memchr(b'\n', value).is_some() {
        Err("the value holds a line feed")
    } else if value.ends_with(b"\r") {
        Err("the value ends in a carriage return")
    } else {
        Ok(())
    }
}
