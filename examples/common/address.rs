//! An address as it is written on the command line of a server or a client.

use std::{fmt, path::PathBuf, str::FromStr};

/// `HOST:PORT`, `:PORT`, `PORT` or `unix:PATH`.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) text: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Without a host a server listens on all interfaces, and a client connects to this machine.
    Tcp(Option<String>, u16),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let kind = match text.strip_prefix("unix:") {
            Some("") => return Err("the path is empty"),
            Some(path) => Kind::Unix(path.into()),
            None => {
                let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
                let port = port.parse().map_err(
                    |_| "expected HOST:PORT, :PORT or PORT, with a port up to 65535, or unix:PATH",
                )?;
                Kind::Tcp(host_of(host)?, port)
            }
        };
        Ok(Self {
            text: text.to_owned(),
            kind,
        })
    }
}

fn host_of(host: &str) -> Result<Option<String>, &'static str> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bare {
        Some("") => Err("there is no address between the brackets"),
        Some(bare) => Ok(Some(bare.to_owned())),
        None if host.contains([':', '[', ']']) => {
            Err("an IPv6 address stands in brackets: [ADDRESS]:PORT")
        }
        None if host.is_empty() => Ok(None),
        None => Ok(Some(host.to_owned())),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
