//! Redis's protocol, as far as the tests speak it to the nodes: one command, one reply.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    sync::Arc,
    time::Duration,
};

use keywire::tls::rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// How long a node may take for a reply. One that is stopped gives none.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Nil,
    Integer(i64),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
}

impl Value {
    /// Text, also of a number.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Integer(number) => number.to_string(),
            other => panic!("{other:?} is not text"),
        }
    }

    pub(crate) fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => panic!("{other:?} is not a number"),
        }
    }

    pub(crate) fn array(&self) -> &[Value] {
        match self {
            Self::Array(values) => values,
            other => panic!("{other:?} is not an array"),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            other => panic!("{other:?} is not a string"),
        }
    }
}

/// A connection to a node.
pub(crate) struct Resp(BufReader<Box<dyn Stream>>);

trait Stream: io::Read + io::Write + Send {}

impl<T: io::Read + io::Write + Send> Stream for T {}

impl Resp {
    pub(crate) fn connect(
        port: u16,
        secret: Option<&str>,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Self> {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let name = ServerName::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST).into());
                let connection = ClientConnection::new(config.clone(), name);
                let connection = connection.map_err(io::Error::other)?;
                Box::new(StreamOwned::new(connection, stream))
            }
        };
        let mut connection = Self(BufReader::new(stream));
        if let Some(secret) = secret {
            connection.ask(["AUTH", secret])?;
        }
        Ok(connection)
    }

    /// An error of the node is an error of the kind `Other`, with its words.
    pub(crate) fn ask<A: AsRef<[u8]>>(
        &mut self,
        words: impl IntoIterator<Item = A>,
    ) -> io::Result<Value> {
        let mut count = 0;
        let mut body = Vec::new();
        for word in words {
            let word = word.as_ref();
            count += 1;
            write!(body, "${}\r\n", word.len())?;
            body.extend_from_slice(word);
            body.extend_from_slice(b"\r\n");
        }
        let mut command = format!("*{count}\r\n").into_bytes();
        command.append(&mut body);
        self.0.get_mut().write_all(&command)?;
        self.read()
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let text = String::from_utf8_lossy(&line[1..]).into_owned();
        let number = || text.parse::<i64>().map_err(io::Error::other);
        Ok(match line[0] {
            b'+' => Value::Bytes(text.into_bytes()),
            b'-' => return Err(io::Error::other(text)),
            b':' => Value::Integer(number()?),
            b'$' => match usize::try_from(number()?) {
                Err(_) => Value::Nil,
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.0.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Value::Bytes(bytes)
                }
            },
            b'*' => match usize::try_from(number()?) {
                Err(_) => Value::Nil,
                Ok(length) => {
                    let values: io::Result<_> = (0..length).map(|_| self.read()).collect();
                    Value::Array(values?)
                }
            },
            other => return Err(io::Error::other(format!("a reply of type {other}"))),
        })
    }
}
