//! TLS around a client's connection.

use std::{io, sync::Arc};

use futures_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use crate::transport::Transport;

#[derive(Clone)]
pub(super) struct TlsOptions {
    pub(super) config: Arc<ClientConfig>,
    /// The name in the server's certificate, if that is not the host of the address.
    pub(super) name: Option<String>,
}

impl TlsOptions {
    pub(super) async fn connect(
        &self,
        address: &str,
        stream: Box<dyn Transport>,
    ) -> io::Result<Box<dyn Transport>> {
        let host = self.name.as_deref().unwrap_or_else(|| host(address));
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let message = format!("{host:?} can't be the name of a server");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let connector = TlsConnector::from(self.config.clone());
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// What stands before the port.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host)
}
