//! How a store on a cluster is set up, and its first words with the cluster.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Cluster,
    driver::Shared,
    layout::{self, Layout},
    resp,
    router::{Config, Router},
    seed,
    stream::Connector,
};
#[cfg(feature = "tls")]
use crate::tls::rustls::{ClientConfig, pki_types::ServerName};
use crate::{Error, Secret};

/// The shortest time that may be set by [`ClusterBuilder::timeout`].
const MIN_TIMEOUT: Duration = Duration::from_millis(10);

/// The longest one: a day.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Sets up a [`Cluster`]. Made by [`Cluster::builder`].
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    prefix: Vec<u8>,
    replicas: usize,
    timeout: Duration,
    secret: Option<Secret>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<ClientConfig>>,
    #[cfg(feature = "tls")]
    tls_name: Option<ServerName<'static>>,
}

impl ClusterBuilder {
    pub(super) fn new() -> Self {
        Self {
            prefix: b"keywire:".to_vec(),
            replicas: 0,
            timeout: Duration::from_secs(5),
            secret: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            tls_name: None,
        }
    }

    /// How the names of all keys in the cluster begin. Services with different prefixes share a cluster. It
    /// may hold any bytes but `{`. Default: `keywire:`.
    #[must_use]
    pub fn prefix(self, prefix: impl AsRef<[u8]>) -> Self {
        Self {
            prefix: prefix.as_ref().to_vec(),
            ..self
        }
    }

    /// Replicas that have to have a write before it is answered. If fewer have it within a quarter of the
    /// [`timeout`](Self::timeout), it is `unconfirmed`. Default: 0.
    ///
    /// The node is asked by `WAIT`, once for all writes that were sent together. Until it answers, it
    /// answers nothing else on that connection. So while replicas are missing, a write on that node may take
    /// half of the timeout. Nodes whose replicas are there are not concerned, and reads have a second
    /// connection.
    ///
    /// A `Get` shows what the master has. This may be another client's write that is not answered yet, or one
    /// that was `unconfirmed`: such a write may be gone after a failover.
    #[must_use]
    pub fn replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// How long a command waits for its node. Then a command that was not sent fails, and a write that was
    /// sent is `unconfirmed`. Default: 5 s; minimum: 10 ms; maximum: a day.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT),
            ..self
        }
    }

    /// The password of the nodes (`requirepass`). Default: none.
    #[must_use]
    pub fn secret(self, secret: Secret) -> Self {
        Self {
            secret: Some(secret),
            ..self
        }
    }

    /// Speaks TLS to all nodes, as this configuration says: one of
    /// [`client_config`](crate::tls::client_config), or one's own. Default: no TLS.
    ///
    /// A node's certificate has to hold its host: the one that was given for the first node, and for the
    /// others the one that the cluster gives, which is an address unless the nodes are set up to give names
    /// (`cluster-preferred-endpoint-type hostname`). If the certificates hold another name, see
    /// [`tls_name`](Self::tls_name).
    ///
    /// ```no_run
    /// use keywire::{store::Cluster, tls};
    ///
    /// # futures_lite::future::block_on(async {
    /// let config = tls::client_config(&tls::Pem::from_file("ca.pem")?, None)?;
    /// let cluster = Cluster::builder().tls(config).connect(["rediss://10.0.0.1:6379"]).await?;
    /// # drop(cluster);
    /// # Ok::<(), keywire::Error>(())
    /// # }).unwrap();
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(self, config: Arc<ClientConfig>) -> Self {
        Self {
            tls: Some(config),
            ..self
        }
    }

    /// The name that the certificates of all nodes have to hold, for [`tls`](Self::tls). Default: each node's
    /// host.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls_name(self, name: ServerName<'static>) -> Self {
        Self {
            tls_name: Some(name),
            ..self
        }
    }

    fn connector(&self) -> Connector {
        Connector {
            #[cfg(feature = "tls")]
            tls: self.tls.as_ref().map(|config| super::stream::Tls {
                connector: config.clone().into(),
                name: self.tls_name.clone(),
            }),
        }
    }

    /// Asks one of these nodes, `HOST:PORT`, which others there are. The first that answers will do. All of
    /// them are asked again, their names resolved anew, if later no known node answers. With `redis://` in
    /// front, it has to be without TLS, and with `rediss://`, it has to be with TLS.
    ///
    /// # Errors
    ///
    /// [`Error::Store`] if no node answers, if the secret is wrong, if the cluster is none, if its user may not
    /// publish to the prefix's shard channels (`&keywire:*`), if the prefix holds a `{`, or if a node's
    /// `redis://` or `rediss://` contradicts another's or what was set up.
    pub async fn connect<A: AsRef<str>>(
        self,
        nodes: impl IntoIterator<Item = A>,
    ) -> Result<Cluster, Error> {
        if self.prefix.contains(&b'{') {
            return Err(Error::store("the prefix of a cluster's keys holds a {"));
        }
        let auth = self.secret.as_ref().map(|secret| {
            let mut auth = Vec::new();
            resp::push_command(&mut auth, &[b"AUTH", secret.expose()]);
            auth
        });
        let mut load = Vec::new();
        let command: [&[u8]; 3] = [b"SCRIPT", b"LOAD", layout::SCRIPT.as_bytes()];
        resp::push_command(&mut load, &command);
        let config = Config {
            timeout: self.timeout,
            replicas: self.replicas,
            auth,
            load,
        };
        let mut publish = Vec::new();
        let channel = [&self.prefix[..], b"{0}#check"].concat();
        resp::push_command(&mut publish, &[b"SPUBLISH", &channel, b""]);
        let nodes = nodes.into_iter().map(|node| node.as_ref().to_owned());
        let nodes: Vec<String> = nodes.collect();
        let connector = self.connector();
        seed::check_schemes(&nodes, &connector).map_err(Error::store)?;
        let mut reasons = Vec::new();
        for node in &nodes {
            match seed::ask(node, &config, &connector, &publish).await {
                Ok(seed) => {
                    let now = Instant::now();
                    let layout = Layout::new(&self.prefix, &seed.script);
                    let mut router = Router::new(config, now);
                    router.node(&seed.address, now);
                    router.seeds = nodes
                        .iter()
                        .filter_map(|node| seed::address(node))
                        .collect();
                    router.on_slots(None, &seed.slots, now);
                    return Ok(Cluster {
                        shared: Arc::new(Shared::new(layout, connector, router)),
                    });
                }
                Err(reason) => reasons.push(format!("{node}: {reason}")),
            }
        }
        match reasons[..] {
            [] => Err(Error::store("no node of the cluster was named")),
            _ => Err(Error::store(reasons.join("; "))),
        }
    }
}
