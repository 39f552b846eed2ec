//! A bucket that is watched: where it is subscribed, and what is known of its number.

use std::sync::Arc;

use super::retry::Retry;

/// How far the subscription to a bucket is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    #[default]
    None,
    /// Asked for on the connection with this number.
    Asked(u64),
    /// Confirmed. The number is still to come.
    Confirmed(u64),
    Live(u64),
}

impl Place {
    pub(super) fn connection(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Asked(at) | Self::Confirmed(at) | Self::Live(at) => Some(at),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Bucket {
    pub(super) place: Place,
    /// When it may be subscribed to again.
    pub(super) retry: Retry,
    /// The node that has it while its slot is moved there, as the owner has said (`ASK`).
    pub(super) asked: Option<usize>,
    /// It was live when it moved there with its number: if that is as before, nothing was missed.
    pub(super) has_moved: bool,
    /// That of the node that gave its number.
    pub(super) history: Option<Arc<[u8]>>,
}

impl Bucket {
    /// It is subscribed nowhere.
    pub(super) fn lose(&mut self) {
        self.place = Place::None;
        self.asked = None;
        self.has_moved = false;
    }
}
