//! Whatever a server says.

use futures_lite::{StreamExt as _, future};
use proptest::prelude::*;

use crate::scripted::silent;

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..12u64).prop_map(|token| format!(":sync:0:{token}\n")),
        (0..12u64).prop_map(|line| format!(":error:{line}:store:no\n")),
        Just("k:v\n".to_string()),
        Just("kk:2\n".to_string()),
        Just(":watch:k\n".to_string()),
        Just(":watchprefix:k\n".to_string()),
        Just(":put:k:v\n".to_string()),
        Just(":set:kk:v\n".to_string()),
        Just(":remove:k:v\n".to_string()),
        (0..12u64).prop_map(|line| format!(":error:{line}:unconfirmed:no\n")),
        Just(":missed:7\n".to_string()),
        Just(":other:7\n".to_string()),
        (0..12u64).prop_map(|line| format!(":error:{line}:other:no\n")),
        Just(":stats:active=1\n".to_string()),
        "[k:v\n0-9a-z]{0,12}",
    ]
}

proptest! {
    /// Whatever a server says, a client that is told the end of it has its answers or an error.
    #[test]
    fn no_words_of_a_server_can_hang_or_panic_a_client(
        said in prop::collection::vec(fragment(), 0..12)
    ) {
        let (client, server) = silent();
        let calls = async {
            let pipeline = client.pipeline().put("k", "v").get("k").get("k").send();
            let both = future::zip(pipeline, client.get_and_watch("k"));
            let end = async { said.iter().for_each(|words| server.send(words)); server.close() };
            let ((outcomes, watched), ()) = future::zip(both, end).await;
            if let Ok((_, watcher)) = watched {
                let events: Vec<_> = watcher.collect().await;
                prop_assert!(matches!(events.last(), Some(Err(_))));
            }
            prop_assert!(outcomes.map_or(true, |outcomes| outcomes.len() == 3));
            prop_assert!(client.get("k").await.is_err());
            Ok(())
        };
        future::block_on(calls)?;
    }

    /// The same for walks and snapshots: each ends, and a walk shows no key that lacks the prefix.
    #[test]
    fn no_words_of_a_server_can_hang_or_panic_a_walk(
        said in prop::collection::vec(fragment(), 0..12)
    ) {
        let (client, server) = silent();
        let calls = async {
            let keys = client.keys("k").collect::<Vec<_>>();
            let walks = future::zip(client.get_prefix("k").collect::<Vec<_>>(), keys);
            let both = future::zip(walks, client.get_and_watch_prefix("k"));
            let end = async { said.iter().for_each(|words| server.send(words)); server.close() };
            let (((entries, keys), read), ()) = future::zip(both, end).await;
            let names = entries.iter().flatten().map(|(key, _)| key);
            for key in names.chain(keys.iter().flatten().map(|(key, _)| key)) {
                prop_assert!(key.starts_with(b"k"));
            }
            prop_assert!(entries.iter().flatten().all(|(_, values)| !values.is_empty()));
            if let Ok((snapshot, watcher)) = read {
                prop_assert!(snapshot.iter().all(|(key, list)| key[0] == b'k' && !list.is_empty()));
                let events: Vec<_> = watcher.collect().await;
                prop_assert!(matches!(events.last(), Some(Err(_))));
            }
            prop_assert!(client.keys("k").next().await.unwrap().is_err());
            Ok(())
        };
        future::block_on(calls)?;
    }
}
