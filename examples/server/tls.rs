//! TLS around whatever listens. What is built without it says how to build with it.

use keywire::{Listener, Server, store::Store};

use crate::options::Options;

#[cfg(feature = "tls")]
pub(crate) type Config = std::sync::Arc<keywire::tls::rustls::ServerConfig>;

#[cfg(not(feature = "tls"))]
pub(crate) type Config = std::convert::Infallible;

#[cfg(feature = "tls")]
pub(crate) fn config(options: &Options) -> Result<Option<Config>, keywire::Error> {
    use keywire::tls::{Pem, server_config};

    let (Some(certificate), Some(key)) = (&options.tls_cert, &options.tls_key) else {
        return Ok(None);
    };
    let (certificate, key) = (Pem::from_file(certificate)?, Pem::from_file(key)?);
    let client_ca = options
        .tls_client_ca
        .as_ref()
        .map(Pem::from_file)
        .transpose()?;
    server_config(&certificate, &key, client_ca.as_ref()).map(Some)
}

#[cfg(not(feature = "tls"))]
pub(crate) fn config(options: &Options) -> Result<Option<Config>, &'static str> {
    match options.tls_cert {
        Some(_) => Err("this server was built without TLS; \
                        cargo build --release --features tls --example server builds it with"),
        None => Ok(None),
    }
}

pub(crate) fn listen<S: Store>(
    server: &mut Server<S>,
    listener: impl Listener,
    config: Option<&Config>,
) {
    match config {
        #[cfg(feature = "tls")]
        Some(config) => server.listen(keywire::tls::TlsListener::new(listener, config.clone())),
        #[cfg(not(feature = "tls"))]
        Some(&none) => match none {},
        None => server.listen(listener),
    };
}
