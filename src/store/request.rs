//! What a store is asked that is no batch: for a page of keys, or to watch.

/// How far it is.
#[derive(Debug, Default)]
pub(super) enum Request {
    /// Nothing is asked.
    #[default]
    None,
    /// It is with the store.
    Asked,
    /// The store has given it back.
    Returned,
    /// The store has said that it fails.
    Failed(String),
}

impl Request {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The store gives it back.
    pub(super) fn give_back(&mut self) {
        if let Self::Asked = self {
            *self = Self::Returned;
        }
    }

    /// What came of it. If the store has lost it, the error says so.
    pub(super) fn take(&mut self, lost: &str) -> Result<(), String> {
        match std::mem::take(self) {
            Self::Returned => Ok(()),
            Self::Failed(error) => Err(error),
            Self::None | Self::Asked => Err(lost.to_string()),
        }
    }
}
