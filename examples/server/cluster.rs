//! Values on a Redis or Valkey Cluster. What is built without it says how to build with it.

use std::error::Error;

use crate::{options::Options, output::Output};

/// Connects to the cluster, and serves.
#[cfg(feature = "cluster")]
pub(crate) fn serve(options: &Options, output: &Output) -> Result<(), Box<dyn Error>> {
    use keywire::store::Cluster;

    if options.max_store.is_some() {
        return Err(
            "--max-store can't be kept with --cluster: no server knows how much the others store; \
             set maxmemory on the nodes"
                .into(),
        );
    }
    let mut builder = Cluster::builder()
        .replicas(options.replicas.unwrap_or(0))
        .timeout(options.store_timeout);
    if let Some(prefix) = &options.cluster_prefix {
        builder = builder.prefix(prefix);
    }
    if let Some(file) = &options.cluster_secret_file {
        builder = builder.secret(crate::read_secret(file, &output.err)?);
    }
    let store = smol::block_on(builder.connect(&options.cluster))?;
    let replicas = match options.replicas {
        None | Some(0) => String::new(),
        Some(1) => " and at 1 replica".into(),
        Some(replicas) => format!(" and at {replicas} replicas"),
    };
    let values = format!(
        "values in the cluster at {}{replicas}",
        options.cluster.join(",")
    );
    crate::serve(options, output, store, values)
}

#[cfg(not(feature = "cluster"))]
pub(crate) fn serve(_: &Options, _: &Output) -> Result<(), Box<dyn Error>> {
    Err("this server was built without the cluster; \
         cargo build --release --features cluster --example server builds it with"
        .into())
}
