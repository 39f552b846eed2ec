//! What commands do, and their answers.

use std::{sync::Mutex, vec};

use keywire::{
    protocol::{Command, Operation, Write},
    store::{Batch, Memory},
};

use super::{State, lock};

pub(super) fn line_of(command: Command<'_>) -> String {
    let mut line = Vec::new();
    command.encode(&mut line);
    line.pop();
    String::from_utf8(line).unwrap()
}

/// An answer of which the effect has been.
pub(super) enum Answered {
    Done,
    Values(Vec<Vec<u8>>),
}

pub(super) fn perform(memory: &mut Memory, operation: Operation<'_>) -> Answered {
    match operation {
        Operation::Get { key } => {
            return Answered::Values(memory.get(key).map(<[u8]>::to_vec).collect());
        }
        Operation::Write(Write::Put { key, value }) => memory.put(key, value),
        Operation::Write(Write::Delete { key }) => memory.delete(key),
        Operation::Write(Write::Update { key, old, new }) => memory.update(key, old, new),
        Operation::Write(Write::Set { key, value }) => memory.set(key, value),
        Operation::Write(Write::Remove { key, value }) => memory.remove(key, value),
        _ => panic!("{operation:?} is new"),
    }
    Answered::Done
}

/// Answers commands that have taken effect, or if there are none, lets them take effect.
pub(super) fn apply(
    state: &Mutex<State>,
    batch: &mut Batch,
    performed: Option<vec::IntoIter<Answered>>,
    panic_at: usize,
) {
    let mut performed = performed;
    let mut left = panic_at;
    let mut state = lock(state);
    let limits = state.memory.limits(batch);
    batch.each(|operation, answer| {
        assert!(
            left > 0,
            "a panic on purpose, at {}",
            line_of(operation.into())
        );
        left -= 1;
        match &mut performed {
            None => state.memory.apply(operation, answer, limits),
            Some(performed) => match performed.next().expect("no more than was asked") {
                Answered::Done => answer.done(),
                Answered::Values(values) => answer.values(values.iter().map(Vec::as_slice)),
            },
        }
    });
}
