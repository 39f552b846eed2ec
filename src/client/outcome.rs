//! What a command of a pipeline has led to.

use std::fmt;

/// What a command of a [`Pipeline`](crate::Pipeline) has led to, if it did not fail.
///
/// ```
/// # use {futures_lite::future, keywire::Client};
/// # let mut server = keywire::Server::new();
/// # let listener = future::block_on(keywire::bind("127.0.0.1:0"))?;
/// # let address = listener.local_addr()?;
/// # server.listen(listener);
/// # let example = async {
/// # let client = Client::connect(address).await?;
/// use keywire::Outcome;
///
/// let commands = client.pipeline().put("user", "alice").get("user").get("nobody");
/// for outcome in commands.send().await? {
///     match outcome {
///         Ok(Outcome::Done) => println!("applied"),
///         Ok(Outcome::Values(values)) => println!("{} values", values.len()), // 1, then 0
///         Ok(_) => {} // of a kind that a later version adds
///         Err(error) => println!("this command failed: {error}"),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(()) };
/// # let server = async { server.run().await; Ok(()) };
/// # future::block_on(future::or(example, server)).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// `Debug` shows the number of the values, never a value.
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The write is applied.
    Done,
    /// The values that a `get` has read, oldest first; none if the key has none.
    Values(Vec<Vec<u8>>),
}

impl Outcome {
    /// The values that were read. `None` if the command was a write.
    ///
    /// ```
    /// use keywire::Outcome;
    ///
    /// let read = Outcome::Values(vec![b"alice".to_vec()]);
    /// assert_eq!(read.values(), Some(&[b"alice".to_vec()][..]));
    /// assert_eq!(Outcome::Done.values(), None);
    /// ```
    #[must_use]
    pub fn values(&self) -> Option<&[Vec<u8>]> {
        match self {
            Outcome::Values(values) => Some(values),
            Outcome::Done => None,
        }
    }

    /// Like [`values`](Self::values), and gives them away.
    ///
    /// ```
    /// use keywire::Outcome;
    ///
    /// let read = Outcome::Values(vec![b"alice".to_vec()]);
    /// assert_eq!(read.into_values(), Some(vec![b"alice".to_vec()]));
    /// assert_eq!(Outcome::Done.into_values(), None);
    /// ```
    #[must_use]
    pub fn into_values(self) -> Option<Vec<Vec<u8>>> {
        match self {
            Outcome::Values(values) => Some(values),
            Outcome::Done => None,
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done => f.write_str("Done"),
            Outcome::Values(values) => write!(f, "Values({})", values.len()),
        }
    }
}
