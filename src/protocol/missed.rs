//! How many changes were missed, which may be unknown.

/// Changes that were missed and have not been told. An unknown number, on the wire 0, and some more are
/// an unknown number.
#[derive(Clone, Copy, Default)]
pub(crate) struct MissedCount(Option<u64>);

impl MissedCount {
    /// So many more; 0 if that is unknown.
    pub(crate) fn add(&mut self, changes: u64) {
        self.0 = match self.0 {
            Some(0) => Some(0),
            _ if changes == 0 => Some(0),
            missed => Some(missed.unwrap_or_default().saturating_add(changes)),
        };
    }

    pub(crate) fn is_none(self) -> bool {
        self.0.is_none()
    }

    /// `None` if nothing was missed.
    pub(crate) fn take(&mut self) -> Option<u64> {
        self.0.take()
    }
}
