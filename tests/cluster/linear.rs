//! Whether a history of one key is linearizable: whether its calls could have taken effect one by one,
//! each between its begin and its end, with the answers that they got.
//!
//! The search of Wing and Gong, with the states remembered in which it has been (Lowe).

use std::collections::{HashMap, HashSet};

/// The values of the key.
pub(crate) type List = Vec<Vec<u8>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op<V = Vec<u8>> {
    Put(V),
    Set(V),
    Update(V, V),
    Remove(V),
    Delete,
    /// With its answer.
    Get(Vec<V>),
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Answered calls of one client take effect in the order in which they begin, and if they begin at
    /// the same time, in which they stand in the history.
    pub(crate) client: usize,
    /// Times are of one clock, or just numbers.
    pub(crate) begin: u64,
    /// `None` if its fate is unknown: it takes effect at any later time, or never.
    pub(crate) end: Option<u64>,
    pub(crate) op: Op,
}

impl<V: Clone + PartialEq> Op<V> {
    /// The state after it; `None` if its answer does not fit the state before.
    fn apply(&self, list: &[V]) -> Option<Vec<V>> {
        let mut list = list.to_vec();
        let position = |list: &[V], value: &V| list.iter().position(|other| other == value);
        match self {
            Self::Put(value) => list.push(value.clone()),
            Self::Set(value) => list = vec![value.clone()],
            Self::Update(old, new) => match position(&list, old) {
                Some(at) => list[at].clone_from(new),
                None => list.push(new.clone()),
            },
            Self::Remove(value) => {
                if let Some(at) = position(&list, value) {
                    list.remove(at);
                }
            }
            Self::Delete => list.clear(),
            Self::Get(answer) => {
                if *answer != list {
                    return None;
                }
            }
        }
        Some(list)
    }

    fn map<'a, T>(&'a self, mut map: impl FnMut(&'a V) -> T) -> Op<T> {
        match self {
            Self::Put(value) => Op::Put(map(value)),
            Self::Set(value) => Op::Set(map(value)),
            Self::Update(old, new) => Op::Update(map(old), map(new)),
            Self::Remove(value) => Op::Remove(map(value)),
            Self::Delete => Op::Delete,
            Self::Get(list) => Op::Get(list.iter().map(map).collect()),
        }
    }
}

/// Which calls have taken effect, and what came of it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    /// All answered calls before this one have.
    first: usize,
    /// Answered calls behind it that have, in order.
    ahead: Vec<usize>,
    /// Calls of unknown fate that have, in order.
    unknown: Vec<usize>,
    /// Values by number.
    list: Vec<u32>,
}

/// The calls, with a number in place of each value: states are copied and compared all the time.
fn numbered<'a>(
    calls: &'a [Call],
    values: &mut Vec<&'a [u8]>,
    numbers: &mut HashMap<&'a [u8], u32>,
) -> Vec<Op<u32>> {
    let mut number = |value: &'a Vec<u8>| {
        *numbers.entry(value).or_insert_with(|| {
            values.push(value);
            values.len() as u32 - 1
        })
    };
    calls.iter().map(|call| call.op.map(&mut number)).collect()
}

/// The final state of one order that explains the history, which begins without values. Otherwise the
/// call, at the farthest, at which no order goes on.
pub(crate) fn linearize(mut history: Vec<Call>) -> Result<List, String> {
    history.sort_by_key(|call| call.begin);
    let (answered, unknown): (Vec<Call>, Vec<Call>) =
        history.into_iter().partition(|call| call.end.is_some());
    let (mut values, mut numbers) = (Vec::new(), HashMap::new());
    let answered_ops = numbered(&answered, &mut values, &mut numbers);
    let unknown_ops = numbered(&unknown, &mut values, &mut numbers);
    let shown = |list: &[u32]| -> List {
        let values = list.iter().map(|&number| values[number as usize].to_vec());
        values.collect()
    };
    let mut stack = vec![State {
        first: 0,
        ahead: Vec::new(),
        unknown: Vec::new(),
        list: Vec::new(),
    }];
    let mut seen = HashSet::new();
    let mut farthest = stack[0].clone();
    while let Some(state) = stack.pop() {
        if state.first == answered.len() {
            return Ok(shown(&state.list));
        }
        if !seen.insert(state.clone()) {
            continue;
        }
        if state.first > farthest.first {
            farthest = state.clone();
        }
        // Whatever comes next began before any other call that is still to come has ended.
        let waiting = |&index: &usize| state.ahead.binary_search(&index).is_err();
        let mut latest = u64::MAX;
        let mut candidates = Vec::new();
        let mut clients = HashSet::new();
        for index in (state.first..answered.len()).filter(waiting) {
            let call = &answered[index];
            if call.begin > latest {
                break;
            }
            latest = latest.min(call.end.unwrap_or(u64::MAX));
            if clients.insert(call.client) {
                candidates.push(index);
            }
        }
        candidates.retain(|&index| answered[index].begin <= latest);
        // The last that is pushed is tried first.
        for (index, call) in unknown.iter().enumerate() {
            let Err(at) = state.unknown.binary_search(&index) else {
                continue;
            };
            if call.begin <= latest {
                let list = unknown_ops[index].apply(&state.list).expect("a write");
                let mut unknown = state.unknown.clone();
                unknown.insert(at, index);
                stack.push(State {
                    unknown,
                    list,
                    ..state.clone()
                });
            }
        }
        for &index in candidates.iter().rev() {
            let Some(list) = answered_ops[index].apply(&state.list) else {
                continue;
            };
            let mut next = State {
                list,
                ..state.clone()
            };
            let at = next.ahead.binary_search(&index).unwrap_err();
            next.ahead.insert(at, index);
            while next.ahead.first() == Some(&next.first) {
                next.ahead.remove(0);
                next.first += 1;
            }
            stack.push(next);
        }
    }
    let call = &answered[farthest.first];
    let show = |value: &Vec<u8>| value.escape_ascii().to_string();
    let list: Vec<_> = shown(&farthest.list).iter().map(show).collect();
    Err(format!(
        "no order explains the history beyond call {} of {}, {:?} ({}..{:?}), with the list {list:?}",
        farthest.first,
        answered.len(),
        call.op.map(show),
        call.begin,
        call.end,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(values: &[&str]) -> Op {
        Op::Get(
            values
                .iter()
                .map(|value| value.as_bytes().to_vec())
                .collect(),
        )
    }

    fn put(value: &str) -> Op {
        Op::Put(value.into())
    }

    /// Calls as (begin, end, what), each of another client, with 0 for an end that is not known.
    fn check(calls: &[(u64, u64, Op)]) -> Result<List, String> {
        let call = |(client, (begin, end, op)): (usize, &(u64, u64, Op))| Call {
            client,
            begin: *begin,
            end: (*end > 0).then_some(*end),
            op: op.clone(),
        };
        linearize(calls.iter().enumerate().map(call).collect())
    }

    #[test]
    fn good_histories_are_accepted() {
        let good: [&[(u64, u64, Op)]; 9] = [
            &[],
            &[(1, 2, put("a")), (3, 4, get(&["a"]))],
            // A read beside a write sees it or does not.
            &[(1, 4, put("a")), (2, 3, get(&[]))],
            &[(1, 4, put("a")), (2, 3, get(&["a"]))],
            // Two writes at once, in either order.
            &[(1, 4, put("a")), (2, 3, put("b")), (5, 6, get(&["a", "b"]))],
            &[(1, 4, put("a")), (2, 3, put("b")), (5, 6, get(&["b", "a"]))],
            // One of unknown fate: never, at once, or late.
            &[(1, 0, put("a")), (2, 3, get(&[])), (4, 5, get(&[]))],
            &[(1, 0, put("a")), (2, 3, get(&["a"]))],
            &[
                (1, 0, put("a")),
                (2, 3, get(&[])),
                (4, 5, put("b")),
                (6, 7, get(&["b", "a"])),
            ],
        ];
        for calls in good {
            check(calls).unwrap();
        }
    }

    #[test]
    fn bad_histories_are_refused() {
        let bad: [&[(u64, u64, Op)]; 9] = [
            &[(1, 2, get(&["a"]))],
            // Lost, and stale.
            &[(1, 2, put("a")), (3, 4, get(&[]))],
            // Twice.
            &[(1, 2, put("a")), (3, 4, get(&["a", "a"]))],
            // In the wrong order.
            &[(1, 2, put("a")), (3, 4, put("b")), (5, 6, get(&["b", "a"]))],
            // Two readers that disagree on the order.
            &[
                (1, 10, put("a")),
                (1, 10, put("b")),
                (2, 3, get(&["a"])),
                (4, 5, get(&["b"])),
            ],
            // Seen, and then not any more.
            &[(1, 10, put("a")), (2, 3, get(&["a"])), (4, 5, get(&[]))],
            // Of unknown fate: seen, and then not any more.
            &[(1, 0, put("a")), (2, 3, get(&["a"])), (4, 5, get(&[]))],
            // Twice.
            &[(1, 0, put("a")), (2, 3, get(&["a", "a"]))],
            // Before it began.
            &[(1, 2, get(&["a"])), (3, 0, put("a"))],
        ];
        for calls in bad {
            assert!(check(calls).is_err(), "{calls:?}");
        }
    }

    #[test]
    fn every_operation_has_its_meaning() {
        let update = |old: &str, new: &str| Op::Update(old.into(), new.into());
        let end = check(&[
            (1, 2, put("a")),
            (3, 4, put("b")),
            (5, 6, update("a", "c")),
            (7, 8, update("x", "d")),
            (9, 10, get(&["c", "b", "d"])),
            (11, 12, Op::Remove("b".into())),
            (13, 14, get(&["c", "d"])),
            (15, 16, Op::Set("e".into())),
            (17, 18, get(&["e"])),
            (19, 20, Op::Delete),
            (21, 22, get(&[])),
            (23, 24, put("f")),
        ]);
        assert_eq!(end, Ok(vec![b"f".to_vec()]));
    }

    /// Calls in one go: their client's order counts, and no other.
    #[test]
    fn a_client_has_an_order() {
        let calls = |answer: &[&str]| {
            let ops = [(0, put("a")), (0, put("b")), (1, put("c"))];
            let call = |(client, op)| Call {
                client,
                begin: 1,
                end: Some(2),
                op,
            };
            let mut calls = Vec::from(ops.map(call));
            calls.push(Call {
                client: 2,
                begin: 3,
                end: Some(4),
                op: get(answer),
            });
            calls
        };
        for good in [["a", "b", "c"], ["a", "c", "b"], ["c", "a", "b"]] {
            linearize(calls(&good)).unwrap();
        }
        for bad in [["b", "a", "c"], ["b", "c", "a"], ["c", "b", "a"]] {
            assert!(linearize(calls(&bad)).is_err());
        }
    }

    /// A store that takes each call at a random moment between its begin and its end gives good
    /// histories; a read that is one write behind does not.
    #[test]
    fn random_histories_are_told_apart() {
        for seed in 0..60 {
            let mut random = fastrand::Rng::with_seed(seed);
            // (takes effect, begin, end, client)
            let mut moments = Vec::new();
            for client in 0..4 {
                let mut now = random.u64(1..20);
                for number in 0..40 {
                    let effect = now + random.u64(1..30);
                    let end = effect + random.u64(1..30);
                    moments.push((effect, now, end, (client, number)));
                    now = end + random.u64(1..10);
                }
            }
            moments.sort_unstable();
            let mut list = List::new();
            let mut calls = Vec::new();
            for &(_, begin, end, (client, number)) in &moments {
                let value = format!("{client}.{number}").into_bytes();
                let write = match random.u8(..10) {
                    0..5 => None,
                    5..8 => Some(Op::Put(value)),
                    8 => Some(Op::Set(value)),
                    _ => Some(Op::Delete),
                };
                let op = write.unwrap_or_else(|| Op::Get(list.clone()));
                list = op.apply(&list).unwrap();
                // A write whose answer is lost.
                let lost = !matches!(op, Op::Get(_)) && random.u8(..20) == 0;
                let end = (!lost).then_some(end);
                calls.push(Call {
                    client,
                    begin,
                    end,
                    op,
                });
            }
            linearize(calls.clone()).unwrap_or_else(|error| panic!("{seed}: {error}"));
            // A write that ended before a read that sees it began has never been.
            let lost = calls.iter().position(|write| {
                let Op::Put(value) = &write.op else {
                    return false;
                };
                let sees = |call: &Call| matches!(&call.op, Op::Get(list) if list.contains(value));
                calls.iter().any(sees)
            });
            if let Some(lost) = lost {
                calls.remove(lost);
                assert!(linearize(calls).is_err(), "{seed}");
            }
        }
    }
}
