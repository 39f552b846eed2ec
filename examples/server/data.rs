//! Where the values are: in memory, on a disk as well, or on a cluster. What is built without the disk says how to
//! build with it.

use std::error::Error;

use crate::{Context, options::Options};

/// Says where the values are, and serves.
#[cfg(feature = "disk")]
pub(crate) fn serve(options: &Options, context: Context) -> Result<(), Box<dyn Error>> {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::{Duration, Instant},
    };

    use futures_lite::future;
    use keywire::store::{Disk, Memory, disk::Sync};

    use crate::log::TARGET;

    if !options.cluster.is_empty() {
        return crate::cluster::serve(options, context);
    }
    let Some(directory) = &options.data else {
        if options.sync.0.is_some() {
            return Err("--sync SECONDS wants --data".into());
        }
        return crate::serve(options, context, Memory::new(), "memory".into());
    };
    let place = directory.display();
    let sync = match options.sync.0 {
        Some(time) => Sync::Within(time),
        None => Sync::Always,
    };
    // Unknown until it begins.
    let percent = Arc::new(AtomicU64::new(u64::MAX));
    let loaded = percent.clone();
    let builder = Disk::builder()
        .sync(sync)
        .min_log(options.min_log)
        .on_progress(move |bytes, all| {
            loaded.store(bytes * 100 / all.max(1), Ordering::Relaxed);
        });
    let began = Instant::now();
    let slow = async {
        loop {
            smol::Timer::after(Duration::from_secs(1)).await;
            match percent.load(Ordering::Relaxed) {
                u64::MAX => {}
                percent => {
                    tracing::info!(target: TARGET, %place, percent, "loading");
                    context.manager.loading(percent);
                }
            }
        }
    };
    let store = smol::block_on(future::or(builder.open(directory), slow))?;
    let sync = match sync {
        Sync::Always => String::new(),
        Sync::Within(time) => format!(", at most {time:?} later"),
        _ => format!(", by {sync:?}"),
    };
    let took = began.elapsed().as_secs_f64();
    let values = format!("{place}{sync} (loaded in {took:.1} s)");
    crate::serve(options, context, store, values)
}

#[cfg(not(feature = "disk"))]
pub(crate) fn serve(options: &Options, context: Context) -> Result<(), Box<dyn Error>> {
    use keywire::store::Memory;

    if !options.cluster.is_empty() {
        return crate::cluster::serve(options, context);
    }
    if options.data.is_some() || options.sync.0.is_some() {
        return Err("this server was built without the disk; \
                    cargo build --release --features disk --example server builds it with"
            .into());
    }
    crate::serve(options, context, Memory::new(), "memory".into())
}
