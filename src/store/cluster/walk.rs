//! The names of all keys, for `GetPrefix` and `Keys`: bucket by bucket, from every master.
//!
//! A key that moves from one node to another has to be found at one of the two. So a slot is listed at its owner
//! first. Then its owner is asked which masters there are: if a key had left for one of them, the owner knows it,
//! and the map may not, since it is old or the other has no slots yet. Then all other masters are asked.

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use futures_lite::future;

use super::{
    Pending,
    driver::Shared,
    job::{Job, Outcome, Request},
    resp::Reply,
    slots::{self, BUCKETS},
};
use crate::{
    clock::{self, SystemClock},
    store::KeyPage,
};

/// Buckets whose keys are asked for together.
const PAGE_BUCKETS: u16 = 16;

/// Keys of a slot that are listed at most. If a slot has more, `Keys` and `GetPrefix` fail.
const MAX_SLOT_KEYS: usize = 1 << 20;

/// The time between two looks at whether other nodes have taken over.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Keys of clients.
type Keys = BTreeSet<Vec<u8>>;

/// Fills a page.
pub(super) async fn fill(shared: Arc<Shared>, mut page: KeyPage) -> KeyPage {
    let mut next = page.cursor().try_into().map_or(0, u16::from_be_bytes);
    while next < BUCKETS && !page.is_full() {
        let buckets = next..(next + PAGE_BUCKETS).min(BUCKETS);
        next = buckets.end;
        match list(&shared, buckets).await {
            Ok(keys) => keys.iter().for_each(|key| page.push(key)),
            Err(reason) => {
                page.fail(reason);
                return page;
            }
        }
    }
    if next < BUCKETS {
        page.set_next(&next.to_be_bytes());
    }
    page
}

/// Who is to be asked.
#[derive(PartialEq, Eq)]
struct View {
    buckets: Vec<Bucket>,
    masters: Vec<usize>,
}

#[derive(PartialEq, Eq)]
struct Bucket {
    number: u16,
    slot: u16,
    owner: Option<usize>,
}

impl View {
    fn new(shared: &Shared, buckets: &Range<u16>) -> Self {
        let router = &shared.state().router;
        let buckets = buckets.clone().map(|number| Bucket {
            number,
            slot: router.slot(number),
            owner: router.owner(number),
        });
        Self {
            buckets: buckets.collect(),
            masters: router.masters().collect(),
        }
    }
}

/// The keys of these buckets. If other nodes take over meanwhile, it begins again: one that was asked may be
/// gone.
async fn list(shared: &Arc<Shared>, buckets: Range<u16>) -> Result<Keys, String> {
    let clock = shared.state().clock.clone();
    let clock = clock.unwrap_or_else(|| Arc::new(SystemClock));
    let deadline = clock::later(clock.now(), shared.timeout);
    while clock.now() < deadline {
        let view = View::new(shared, &buckets);
        let changed = async {
            while clock.now() < deadline && View::new(shared, &buckets) == view {
                clock::sleep(&*clock, CHECK_INTERVAL).await;
            }
            None
        };
        let listed = async { Some(list_once(shared, &view).await) };
        if let Some(listed) = future::or(listed, changed).await {
            return listed;
        }
    }
    Err("the cluster has not listed its keys in time".into())
}

async fn list_once(shared: &Arc<Shared>, view: &View) -> Result<Keys, String> {
    let buckets = &view.buckets;
    let mut keys = Keys::new();
    let at_owners = buckets
        .iter()
        .filter_map(|bucket| Some((bucket.owner?, bucket)));
    let at_owners: Vec<_> = at_owners.collect();
    list_at(shared, &at_owners, &mut keys).await?;
    let owners = at_owners.iter().map(|&(owner, _)| owner).collect();
    let mut nodes = masters(shared, owners).await?;
    nodes.extend(&view.masters);
    let at_others: Vec<_> = buckets
        .iter()
        .flat_map(|bucket| nodes.iter().map(move |&node| (node, bucket)))
        .filter(|&(node, bucket)| Some(node) != bucket.owner)
        .collect();
    list_at(shared, &at_others, &mut keys).await?;
    Ok(keys)
}

/// Adds the keys of buckets that these nodes have.
async fn list_at(
    shared: &Arc<Shared>,
    places: &[(usize, &Bucket)],
    keys: &mut Keys,
) -> Result<(), String> {
    let max = MAX_SLOT_KEYS.to_string();
    let mut job = Job::default();
    for &(node, bucket) in places {
        let slot = bucket.slot.to_string();
        let command: [&[u8]; 4] = [
            b"CLUSTER",
            b"GETKEYSINSLOT",
            slot.as_bytes(),
            max.as_bytes(),
        ];
        job.push(node, &command);
    }
    let job = Pending::submit(shared, job).finish().await;
    for (request, (_, bucket)) in job.requests.iter().zip(places) {
        let Some(Reply::Array(names)) = reply(&job, request)? else {
            return Err("the cluster did not list its keys".into());
        };
        if names.len() >= MAX_SLOT_KEYS {
            return Err(format!("a slot has more than {MAX_SLOT_KEYS} keys"));
        }
        let names = names.values();
        let of_bucket = names.filter_map(|name| shared.layout.key(bucket.number, name));
        keys.extend(of_bucket.map(<[u8]>::to_vec));
    }
    Ok(())
}

/// The masters that these nodes know.
async fn masters(shared: &Arc<Shared>, asked: BTreeSet<usize>) -> Result<BTreeSet<usize>, String> {
    let mut job = Job::default();
    for &node in &asked {
        job.push(node, &[b"CLUSTER", b"SHARDS"]);
    }
    let job = Pending::submit(shared, job).finish().await;
    let mut found = BTreeSet::new();
    for (request, node) in job.requests.iter().zip(asked) {
        let Some(reply) = reply(&job, request)? else {
            continue;
        };
        let mut state = shared.state();
        let now = state.now();
        let host = state.router.nodes[node].address.host.clone();
        for address in slots::masters(reply, &host, shared.connector.is_tls()) {
            found.insert(state.router.node(&address, now));
        }
    }
    Ok(found)
}

fn reply<'a>(job: &'a Job, request: &Request) -> Result<Option<Reply<'a>>, String> {
    match &request.outcome {
        Outcome::Reply(range) => Ok(Reply::parse(&job.replies[range.clone()])),
        Outcome::Failed(reason) => Err(reason.to_string()),
        _ => Ok(None),
    }
}
