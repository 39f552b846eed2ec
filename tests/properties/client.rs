//! Whatever a server says.

use futures_lite::{StreamExt as _, future};
use proptest::prelude::*;

use crate::scripted::silent;

fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..12u64).prop_map(|token| format!(":sync:0:{token}\n")),
        (0..12u64).prop_map(|line| format!(":error:{line}:store:no\n")),
        Just("k:v\n".to_string()),
        Just(":watch:k\n".to_string()),
        Just(":put:k:v\n".to_string()),
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
}
