//! TLS for the tools, where they are built with it.

use std::io;

use super::{Stream, Target};

impl Target {
    /// Whether TLS is asked for; an error where the options contradict each other.
    fn wants_tls(&self) -> Result<bool, String> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return Err("--tls-cert needs --tls-key".into()),
            (None, Some(_)) => return Err("--tls-key needs --tls-cert".into()),
            _ => {}
        }
        let more = self.tls_name.is_some() || self.tls_cert.is_some();
        match self.tls_ca {
            None if more => Err("--tls-name, --tls-cert and --tls-key need --tls-ca".into()),
            None => Ok(false),
            Some(_) => Ok(true),
        }
    }
}

#[cfg(feature = "tls")]
pub(crate) use with::Tls;

#[cfg(feature = "tls")]
mod with {
    use keywire::tls::{
        Pem, TlsConnector, client_config,
        rustls::{self, pki_types::ServerName},
    };

    use super::{Stream, Target, io};
    use crate::{address::Kind, say::reason};

    #[derive(Clone)]
    pub(crate) struct Tls {
        connector: TlsConnector,
        name: ServerName<'static>,
    }

    impl Tls {
        pub(crate) fn new(target: &Target) -> Result<Option<Self>, String> {
            if !target.wants_tls()? {
                return Ok(None);
            }
            let read = |file: &Option<_>| {
                let pem = file.as_ref().map(Pem::from_file).transpose();
                pem.map_err(|error| reason(&error))
            };
            let (ca, certificate) = (read(&target.tls_ca)?, read(&target.tls_cert)?);
            let (Some(ca), key) = (ca, read(&target.tls_key)?) else {
                return Ok(None);
            };
            let config = client_config(&ca, certificate.as_ref().zip(key.as_ref()));
            let config = config.map_err(|error| reason(&error))?;
            let name = match (&target.tls_name, &target.address.kind) {
                (Some(name), _) => name,
                (None, Kind::Unix(_)) => {
                    return Err(
                        "a path is no name for a server; --tls-name says which it is".into(),
                    );
                }
                (None, Kind::Tcp(host, _)) => host.as_deref().unwrap_or("localhost"),
            };
            let name = ServerName::try_from(name.to_owned()).map_err(|_| {
                format!("{name:?} can't be the name of a server; --tls-name says which it is")
            })?;
            let connector = config.into();
            Ok(Some(Self { connector, name }))
        }

        pub(crate) async fn over(self, stream: Stream) -> io::Result<Stream> {
            let stream = self.connector.connect(self.name, stream).await;
            Ok(Box::new(stream.map_err(explain)?))
        }
    }

    /// Says what is probably wrong if what came is no TLS at all.
    fn explain(error: io::Error) -> io::Error {
        use rustls::{Error::InvalidMessage, InvalidMessage::InvalidContentType};
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(InvalidMessage(InvalidContentType)) => {
                io::Error::other("the server does not seem to speak TLS; leave --tls-ca out")
            }
            _ => error,
        }
    }
}

#[cfg(not(feature = "tls"))]
#[derive(Clone)]
pub(crate) enum Tls {}

#[cfg(not(feature = "tls"))]
impl Tls {
    pub(crate) fn new(target: &Target) -> Result<Option<Self>, String> {
        match target.wants_tls()? {
            true => Err(
                "this program was built without TLS; add --features tls to its \
                         `cargo run` or `cargo build`"
                    .into(),
            ),
            false => Ok(None),
        }
    }

    pub(crate) async fn over(self, _: Stream) -> io::Result<Stream> {
        match self {}
    }
}
