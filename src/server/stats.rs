use std::{io::Write, time::Duration};

use crate::protocol::ReplyError;

/// A server's counters at one moment, all of the same moment.
///
/// On the wire they are the reply to `Stats`, in this order:
///
/// ```
/// use keywire::Stats;
///
/// let stats = Stats::parse(b"active=2 dropped=1 commands=7 new_in_a_later_version=9").unwrap();
/// assert_eq!((stats.active, stats.dropped, stats.commands), (2, 1, 7));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Clients connected now.
    pub active: u64,
    /// Clients gone since the start, whatever the cause.
    pub dropped: u64,
    /// Commands that were understood, `Sync` and `Stats` among them.
    pub commands: u64,
    /// `:error:` lines queued.
    pub errors: u64,
    /// Reply lines queued for clients, control lines among them.
    pub lines_queued: u64,
    /// Reply lines dropped because a client did not read.
    pub lines_dropped: u64,
    /// Times that a door failed to take a connection in, such as for want of a descriptor.
    pub accept_errors: u64,
    /// Time since `run` was first polled, in whole seconds on the wire (`uptime=N`).
    pub uptime: Duration,
}

impl Stats {
    /// Reads what stands behind `:stats:` in a reply. Names it does not know are left out, so an
    /// old client understands a newer server; counters that are not there are 0.
    ///
    /// # Errors
    ///
    /// Where a word is not `name=N`.
    pub fn parse(counters: &[u8]) -> Result<Self, ReplyError> {
        let mut stats = Stats::default();
        let counters = std::str::from_utf8(counters).map_err(|_| ReplyError)?;
        for word in counters.split(' ') {
            let (name, number) = word.split_once('=').ok_or(ReplyError)?;
            let number = number.parse().map_err(|_| ReplyError)?;
            match name {
                "active" => stats.active = number,
                "dropped" => stats.dropped = number,
                "commands" => stats.commands = number,
                "errors" => stats.errors = number,
                "lines_queued" => stats.lines_queued = number,
                "lines_dropped" => stats.lines_dropped = number,
                "accept_errors" => stats.accept_errors = number,
                "uptime" => stats.uptime = Duration::from_secs(number),
                _ => {}
            }
        }
        Ok(stats)
    }

    /// Appends the whole control line.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let Stats {
            active,
            dropped,
            commands,
            errors,
            lines_queued,
            lines_dropped,
            accept_errors,
            uptime,
        } = self;
        let uptime = uptime.as_secs();
        // Writing to a `Vec` does not fail.
        let _ = writeln!(
            out,
            ":stats:active={active} dropped={dropped} commands={commands} errors={errors} \
             lines_queued={lines_queued} lines_dropped={lines_dropped} \
             accept_errors={accept_errors} uptime={uptime}"
        );
    }
}
