//! What a line can carry, validated before anything is sent.
//!
//! In: the arguments of a call. Out: the request, or what is wrong with them.

use memchr::{memchr, memchr2};

use super::{call::Request, watch::OwnedTopic};
use crate::{
    Secret,
    protocol::{Command, Operation, Write},
};

type Validated<T> = Result<T, &'static str>;

pub(super) fn put(key: &[u8], value: &[u8]) -> Validated<Request> {
    whole_key(key)?;
    last_field(value)?;
    Ok(write(Write::Put { key, value }))
}

pub(super) fn get(key: &[u8]) -> Validated<Request> {
    whole_key(key)?;
    Ok(Request::Get {
        key: key.to_vec(),
        snapshot: None,
    })
}

pub(super) fn delete(key: &[u8]) -> Validated<Request> {
    whole_key(key)?;
    Ok(write(Write::Delete { key }))
}

pub(super) fn update(key: &[u8], old: &[u8], new: &[u8]) -> Validated<Request> {
    whole_key(key)?;
    match memchr2(b':', b'\n', old) {
        Some(at) if old[at] == b':' => return Err("the old value holds a colon"),
        Some(_) => return Err("the old value holds a line feed"),
        None => {}
    }
    last_field(new)?;
    Ok(write(Write::Update { key, old, new }))
}

pub(super) fn watch(key: &[u8]) -> Validated<OwnedTopic> {
    whole_key(key)?;
    Ok(OwnedTopic::Key(key.to_vec()))
}

pub(super) fn watch_prefix(prefix: &[u8]) -> Validated<OwnedTopic> {
    name(prefix)?;
    Ok(OwnedTopic::Prefix(prefix.to_vec()))
}

pub(super) fn set(key: &[u8], value: &[u8]) -> Validated<Request> {
    whole_key(key)?;
    last_field(value)?;
    Ok(write(Write::Set { key, value }))
}

pub(super) fn remove(key: &[u8], value: &[u8]) -> Validated<Request> {
    whole_key(key)?;
    last_field(value)?;
    Ok(write(Write::Remove { key, value }))
}

pub(super) fn prefix(prefix: &[u8]) -> Validated<Vec<u8>> {
    name(prefix)?;
    Ok(prefix.to_vec())
}

fn write(write: Write<'_>) -> Request {
    let mut line = Vec::new();
    Command::Operation(Operation::Write(write)).encode(&mut line);
    Request::Write(line)
}

fn whole_key(key: &[u8]) -> Validated<()> {
    if key.is_empty() {
        return Err("the key is empty");
    }
    name(key)
}

/// A key ends the line in some commands, so it has to keep the rules of both places.
fn name(name: &[u8]) -> Validated<()> {
    match memchr2(b':', b'\n', name) {
        Some(at) if name[at] == b':' => Err("the key holds a colon"),
        Some(_) => Err("the key holds a line feed"),
        None if name.ends_with(b"\r") => Err("the key ends in a carriage return"),
        None => Ok(()),
    }
}

fn last_field(value: &[u8]) -> Validated<()> {
    if memchr(b'\n', value).is_some() {
        Err("the value holds a line feed")
    } else if value.ends_with(b"\r") {
        Err("the value ends in a carriage return")
    } else {
        Ok(())
    }
}

pub(super) fn auth(secret: &Secret) -> Request {
    let mut line = Vec::new();
    let secret = secret.expose();
    Command::Auth { secret }.encode(&mut line);
    Request::Write(line)
}
