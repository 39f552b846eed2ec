//! Certificates and keys: PEM → what rustls needs.

use std::{error::Error as StdError, fmt, fs::File, io::Read as _, path::Path, sync::Arc};

use futures_rustls::{
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    rustls::{
        self, ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        server::WebPkiClientVerifier,
        sign::{CertifiedKey, SingleCertAndKey},
    },
};

use crate::Error;

/// No honest file of certificates is larger; all the authorities that a browser trusts take a quarter
/// of it.
const MAX_BYTES: u64 = 1 << 20;

/// A PEM text and where it comes from, so that an error can name it. `Debug` shows the name alone.
///
/// A text may hold certificates and a key at once; items that are not needed are skipped.
///
/// ```
/// use keywire::tls::Pem;
///
/// let pem = Pem::from_text("the built-in key", "-----BEGIN PRIVATE KEY-----\n...");
/// assert_eq!(format!("{pem:?}"), r#"Pem { name: "the built-in key", .. }"#);
///
/// let error = Pem::from_file("no/such/file.pem").unwrap_err();
/// assert!(error.to_string().starts_with("no/such/file.pem: "));
/// ```
#[derive(Clone)]
pub struct Pem {
    name: String,
    text: Vec<u8>,
}

impl Pem {
    /// A text of your own. Errors contain the name.
    pub fn from_text(name: impl Into<String>, text: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    /// Reads a file, with its path as the name.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] with the system's reason, or if the file has more than 1 MiB.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let mut text = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut text));
        match read {
            Err(error) => Err(tls_error(name, error)),
            Ok(_) if text.len() as u64 > MAX_BYTES => Err(tls_error(name, "has more than 1 MiB")),
            Ok(_) => Ok(Self { name, text }),
        }
    }

    fn error(&self, reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        tls_error(self.name.clone(), reason)
    }

    /// Every item of this type.
    fn all<T: PemObject>(&self) -> Result<Vec<T>, Error> {
        // The words of the parser could show a piece of a key.
        let found = T::pem_slice_iter(&self.text).collect::<Result<_, _>>();
        found.map_err(|error| match error {
            pem::Error::MissingSectionEnd { .. } => self.error("is cut off: there is no END line"),
            pem::Error::Base64Decode(_) => {
                self.error("is damaged: it has bytes that are no base64")
            }
            _ => self.error("is damaged: it is no PEM"),
        })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let certificates = self.all()?;
        if !certificates.is_empty() {
            return Ok(certificates);
        }
        let is_key = self.contains("PRIVATE KEY-----");
        Err(self.error(match is_key {
            true => "holds no certificate, but a key",
            false => "holds no certificate in PEM",
        }))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        // The older form of encryption looks like a key to the parser, with damage in it.
        if self.contains("BEGIN ENCRYPTED PRIVATE KEY") || self.contains("Proc-Type: 4,ENCRYPTED") {
            let message = "holds an encrypted key, and there is no way to ask for its password; \
                         decrypt it with: openssl pkey -in OLD -out NEW";
            return Err(self.error(message));
        }
        match self.all()?.into_iter().next() {
            Some(key) => Ok(key),
            None if self.contains("BEGIN CERTIFICATE-----") => {
                Err(self.error("holds no private key, but a certificate"))
            }
            None => Err(self.error("holds no private key in PEM")),
        }
    }

    fn contains(&self, message: &str) -> bool {
        memchr::memmem::find(&self.text, message.as_bytes()).is_some()
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn tls_error(what: String, reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    let source = reason.into();
    Error::Tls { what, source }
}

/// The rustls configuration of a server that speaks TLS 1.2 and 1.3. `certificate` holds its
/// certificate and then the chain behind it; `key` is the key of the first. With `client_ca`, a client
/// must show a certificate that one of these authorities vouches for.
///
/// ```no_run
/// use keywire::tls::{Pem, server_config};
///
/// let config = server_config(&Pem::from_file("cert.pem")?, &Pem::from_file("key.pem")?, None)?;
/// # drop(config);
/// # Ok::<(), keywire::Error>(())
/// ```
///
/// # Errors
///
/// [`Error::Tls`] names the text and what is wrong with it: it holds no certificate or key, it is
/// damaged or of an unknown kind, or the key is encrypted or belongs to another certificate. Dates are
/// not checked; a client checks them.
pub fn server_config(
    certificate: &Pem,
    key: &Pem,
    client_ca: Option<&Pem>,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let certified = certified_key(certificate, key, &provider)?;
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| certificate.error(error))?;
    let config = match client_ca {
        None => config.with_no_client_auth(),
        Some(ca) => {
            let roots = root_store(ca)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            config.with_client_cert_verifier(verifier.build().map_err(|error| ca.error(error))?)
        }
    };
    Ok(Arc::new(config.with_cert_resolver(Arc::new(certified))))
}

/// The rustls configuration of a client: the authorities, one of which has to vouch for the server,
/// and the client's own certificate and key, if the server asks for them.
///
/// ```no_run
/// use keywire::tls::{Pem, client_config};
///
/// let (certificate, key) = (Pem::from_file("me.pem")?, Pem::from_file("me.key")?);
/// let config = client_config(&Pem::from_file("ca.pem")?, Some((&certificate, &key)))?;
/// # drop(config);
/// # Ok::<(), keywire::Error>(())
/// ```
///
/// # Errors
///
/// The same as those of [`server_config`].
pub fn client_config(ca: &Pem, own: Option<(&Pem, &Pem)>) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let certified = own.map(|(certificate, key)| certified_key(certificate, key, &provider));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ca.error(error))?
        .with_root_certificates(root_store(ca)?);
    Ok(Arc::new(match certified {
        None => config.with_no_client_auth(),
        Some(certified) => config.with_client_cert_resolver(Arc::new(certified?)),
    }))
}

fn root_store(ca: &Pem) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    for certificate in ca.certificates()? {
        let added = store.add(certificate);
        added.map_err(|error| invalid_certificate(ca, error))?;
    }
    Ok(Arc::new(store))
}

fn certified_key(
    certificate: &Pem,
    key: &Pem,
    provider: &CryptoProvider,
) -> Result<SingleCertAndKey, Error> {
    let chain = certificate.certificates()?;
    let signer = provider.key_provider.load_private_key(key.key()?);
    let signer = signer.map_err(|_| {
        key.error("holds a key of another kind than RSA, ECDSA on P-256 or P-384, and Ed25519")
    })?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) => Ok(certified.into()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message = format!(
                "is not the key of the (first) certificate in {}",
                certificate.name
            );
            Err(key.error(message))
        }
        Err(error) => Err(invalid_certificate(certificate, error)),
    }
}

/// rustls takes every certificate for one that a peer showed.
fn invalid_certificate(pem: &Pem, error: rustls::Error) -> Error {
    let reason = match error {
        rustls::Error::InvalidCertificate(reason) => reason.to_string(),
        error => error.to_string(),
    };
    pem.error(format!("holds a certificate of no use: {reason}"))
}
