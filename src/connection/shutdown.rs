//! What happens to the input of a connection when the server shuts down.
//!
//! Whole lines that stand in the socket by then are still read, and refused one by one. A line that has
//! only begun is discarded.

use super::{
    input_rules::{Environment, InputRules, Wait},
    message::InputEnd,
};

/// Bytes that are read once the server shuts down, if the system can't say how many there are.
const CLOSING_BYTES: usize = 1 << 20;

impl InputRules {
    /// The server shuts down, and there are no bytes. A line that has only begun is discarded; lines
    /// that wait for the rate limiter are sent on, to be refused.
    pub(crate) fn on_shutdown(&mut self, env: &impl Environment) {
        if self.wait == Wait::Bytes {
            self.end(InputEnd::ShuttingDown, env);
        } else if let Some(limiter) = &mut self.limiter {
            limiter.lift();
            self.deliver_limited(env);
        }
    }

    /// The server shuts down while lines of this connection are handled: what stands in the socket by
    /// now is still to be read.
    pub(super) fn begin_shutdown(&mut self, env: &impl Environment) {
        self.left_to_read = Some(env.unread().unwrap_or(CLOSING_BYTES));
    }
}
