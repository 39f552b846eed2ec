//! The comparison with a guess, for the server.

use subtle::ConstantTimeEq as _;

use super::{MAX_BYTES, Secret, padded};

impl Secret {
    /// Whether the guess is the secret. The time that takes depends on nothing of the secret, not even
    /// its length.
    pub(crate) fn is(&self, guess: &[u8]) -> bool {
        let fits = guess.len() <= MAX_BYTES;
        let guess = &guess[..guess.len().min(MAX_BYTES)];
        let same = self.padded.ct_eq(&padded(guess));
        let as_long = (self.len as u64).ct_eq(&(guess.len() as u64));
        fits & bool::from(same & as_long)
    }
}
