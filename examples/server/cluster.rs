//! Values on a Redis or Valkey Cluster. What is built without it says how to build with it.

use std::error::Error;

#[cfg(feature = "cluster")]
use clap::{CommandFactory as _, error::ErrorKind};
#[cfg(feature = "cluster")]
use keywire::store::{Cluster, ClusterBuilder};

use crate::{Context, options::Options};

/// Connects to the cluster, and serves.
#[cfg(feature = "cluster")]
pub(crate) fn serve(options: &Options, context: Context) -> Result<(), Box<dyn Error>> {
    if options.max_store.is_some() {
        let reason = "--max-store can't be kept with --cluster: no server knows how much the others store; \
                      set maxmemory on the nodes";
        let error = Options::command().error(ErrorKind::ArgumentConflict, reason);
        error.exit();
    }
    let mut builder = Cluster::builder()
        .replicas(options.replicas.unwrap_or(0))
        .timeout(options.store_timeout);
    if let Some(prefix) = &options.cluster_prefix {
        builder = builder.prefix(prefix);
    }
    if let Some(file) = &options.cluster_secret_file {
        builder = builder.secret(crate::read_secret(file)?);
    }
    builder = with_tls(builder, options)?;
    let store = smol::block_on(builder.connect(&options.cluster))?;
    let replicas = match options.replicas {
        None | Some(0) => String::new(),
        Some(1) => " and at 1 replica".into(),
        Some(replicas) => format!(" and at {replicas} replicas"),
    };
    let values = format!("the cluster at {}{replicas}", options.cluster.join(","));
    crate::serve(options, context, store, values)
}

#[cfg(all(feature = "cluster", feature = "tls"))]
fn with_tls(builder: ClusterBuilder, options: &Options) -> Result<ClusterBuilder, Box<dyn Error>> {
    use keywire::tls::{Pem, client_config, rustls::pki_types::ServerName};

    let Some(ca) = &options.cluster_ca else {
        return match wants_tls(options) {
            true => Err("rediss:// is TLS, and needs --cluster-ca".into()),
            false => Ok(builder),
        };
    };
    let read = |file: &Option<_>| file.as_ref().map(Pem::from_file).transpose();
    let (certificate, key) = (read(&options.cluster_cert)?, read(&options.cluster_key)?);
    let own = certificate.as_ref().zip(key.as_ref());
    let builder = builder.tls(client_config(&Pem::from_file(ca)?, own)?);
    let Some(name) = &options.cluster_tls_name else {
        return Ok(builder);
    };
    let server_name = ServerName::try_from(name.clone());
    let server_name =
        server_name.map_err(|_| format!("{name:?} can't be the name in a certificate"))?;
    Ok(builder.tls_name(server_name))
}

#[cfg(all(feature = "cluster", not(feature = "tls")))]
fn with_tls(builder: ClusterBuilder, options: &Options) -> Result<ClusterBuilder, Box<dyn Error>> {
    match options.cluster_ca.is_some() || wants_tls(options) {
        true => Err("this server was built without TLS; \
                     cargo build --release --features cluster,tls --example server builds it with"
            .into()),
        false => Ok(builder),
    }
}

#[cfg(feature = "cluster")]
fn wants_tls(options: &Options) -> bool {
    let mut nodes = options.cluster.iter();
    nodes.any(|node| node.starts_with("rediss://"))
}

#[cfg(not(feature = "cluster"))]
pub(crate) fn serve(_: &Options, _: Context) -> Result<(), Box<dyn Error>> {
    Err("this server was built without the cluster; \
         cargo build --release --features cluster --example server builds it with"
        .into())
}
