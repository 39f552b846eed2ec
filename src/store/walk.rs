//! `GetPrefix` and `Keys`: a walk over the keys that begin with a prefix.
//!
//! In: pages of key names, from the store. Out: a block for each page, with a `Get` for each key. So the
//! reading of a key is ordered, answered and bounded like any `Get`, and other clients are served
//! between two keys.

use std::{fmt, future::Ready};

use super::{Submission, batch::TurnGuard, request::Request, turn::Turn};
use crate::protocol::{Code, LineBlock};

/// Bytes of a page from which on it is full.
const PAGE_BYTES: usize = 64 * 1024;

/// A walk, while it lasts.
pub(crate) struct Walk {
    prefix: Vec<u8>,
    /// Where the next page begins, in the store's own terms.
    cursor: Vec<u8>,
    /// Whether a page follows.
    more: bool,
    page: Request,
    line: WalkLine,
    /// The client's own lines, and how far they are handled.
    block: LineBlock,
    offset: usize,
}

/// How the lines of a page are answered.
#[derive(Clone, Copy)]
pub(crate) struct WalkLine {
    /// With the number of values, not with the values.
    pub(super) counts: bool,
    /// With nothing more: an error has ended the walk.
    pub(crate) ended: bool,
}

impl Turn {
    /// Begins a walk. Its first page is wanted next.
    pub(crate) fn start_walk(&mut self, prefix: Vec<u8>, counts: bool) {
        let progress = &mut self.progress;
        let line = WalkLine {
            counts,
            ended: false,
        };
        progress.walk_line = Some(line);
        self.walk = Some(Box::new(Walk {
            prefix,
            more: true,
            cursor: Vec::new(),
            page: Request::None,
            line,
            block: std::mem::take(&mut self.block),
            offset: std::mem::take(&mut progress.cursor.offset),
        }));
    }

    /// Whether the walk, if there is one, has come to the end of its page.
    pub(crate) fn is_page_done(&self) -> bool {
        self.walk.is_some() && (self.is_ended() || self.block.is_end(self.progress.cursor.offset))
    }

    /// Whether nothing more comes of the walk: it has shown all keys, or an error ended it, or the client is
    /// gone.
    pub(crate) fn is_walk_over(&self) -> bool {
        let no_more = self.walk.as_ref().is_none_or(|walk| !walk.more);
        self.is_ended() || self.progress.is_closed() || (no_more && self.is_page_done())
    }

    fn is_ended(&self) -> bool {
        self.progress.walk_line.is_some_and(|walk| walk.ended)
    }

    /// Ends the walk: the client's own lines go on.
    pub(crate) fn end_walk(&mut self) {
        if let Some(walk) = self.walk.take() {
            self.block = walk.block;
            self.progress.cursor.offset = walk.offset;
        }
        self.progress.walk_line = None;
    }

    /// Takes the walk out of the turn, to go on with it in another.
    pub(crate) fn suspend_walk(&mut self) -> Option<Box<Walk>> {
        let line = self.progress.walk_line.take();
        if let (Some(walk), Some(line)) = (&mut self.walk, line) {
            walk.line = line;
        }
        self.walk.take()
    }

    pub(crate) fn resume_walk(&mut self, walk: Option<Box<Walk>>) {
        self.progress.walk_line = walk.as_ref().map(|walk| walk.line);
        self.walk = walk;
    }

    /// Whether the store was asked for a page, and not for operations.
    pub(crate) fn has_page(&self) -> bool {
        let walk = self.walk.as_ref();
        walk.is_some_and(|walk| !walk.page.is_none())
    }

    /// A page has come, or was lost.
    pub(crate) fn on_page(&mut self) {
        let Some(walk) = &mut self.walk else {
            return;
        };
        self.progress.cursor.offset = 0;
        if let Err(error) = walk.page.take("the store gave no keys") {
            self.progress.push_error(Code::Store, error);
        }
    }
}

/// A page of the names of keys that begin with a prefix, for [`Store::keys`](super::Store::keys) to fill.
///
/// The store pushes keys until the page [is full](Self::is_full), and says by
/// [`set_next`](Self::set_next) where the next page begins; if it does not, this page is the last. The
/// server reads each key with a `Get` of its own, so a key that is gone by then does no harm.
///
/// What a store has to guarantee over all pages of one walk: a key that is there during the whole walk is
/// pushed exactly once, any other key at most once.
///
/// ```
/// use keywire::store::{Batch, KeyPage, Store, Submission};
/// use std::{collections::BTreeMap, future::Future, ops::Bound};
///
/// struct Sorted(BTreeMap<Vec<u8>, Vec<Vec<u8>>>);
///
/// impl Store for Sorted {
///     fn keys(
///         &mut self,
///         mut page: KeyPage,
///     ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
///         let prefix = page.prefix().to_vec();
///         let from = match page.cursor() {
///             b"" => Bound::Included(&prefix[..]), // the first page
///             last => Bound::Excluded(last),
///         };
///         let from = from.map(<[u8]>::to_vec);
///         for key in self.0.range((from, Bound::Unbounded)).map(|(key, _)| key) {
///             if !key.starts_with(&prefix) {
///                 break;
///             }
///             page.push(key);
///             if page.is_full() {
///                 page.set_next(key);
///                 break;
///             }
///         }
///         page.done()
///     }
///     // `submit` stands here.
///     # fn submit(
///     #     &mut self,
///     #     batch: Batch,
///     # ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
///     #     batch.done()
///     # }
/// }
/// ```
///
/// A page that is dropped ends the walk with a store error.
pub struct KeyPage(TurnGuard);

impl KeyPage {
    pub(crate) fn new(mut guard: TurnGuard) -> Self {
        if let Some(turn) = guard.turn_mut() {
            let buffer = std::mem::take(&mut turn.block).into_buffer();
            turn.block = LineBlock::page(buffer);
            if let Some(walk) = &mut turn.walk {
                walk.more = false;
                walk.page = Request::Asked;
            }
        }
        Self(guard)
    }

    pub(crate) fn into_turn(mut self) -> Option<Box<Turn>> {
        if let Some(walk) = self.walk_mut() {
            walk.page.give_back();
        }
        self.0.into_turn()
    }

    fn walk_mut(&mut self) -> Option<&mut Walk> {
        self.0.turn_mut()?.walk.as_deref_mut()
    }

    fn walk(&self) -> Option<&Walk> {
        self.0.turn()?.walk.as_deref()
    }

    /// How the keys begin; empty for all keys.
    pub fn prefix(&self) -> &[u8] {
        self.walk().map_or(b"", |walk| &walk.prefix)
    }

    /// What the store said by [`set_next`](Self::set_next) on the page before; empty for the first page.
    pub fn cursor(&self) -> &[u8] {
        self.walk().map_or(b"", |walk| &walk.cursor)
    }

    /// Whether the page holds as much as it should: 64 KiB. More keys may be pushed all the same, if that
    /// is simpler for the store.
    pub fn is_full(&self) -> bool {
        self.0
            .turn()
            .is_none_or(|turn| turn.block.bytes().len() >= PAGE_BYTES)
    }

    /// Adds a key. One that does not begin with the prefix, or that no line can carry, is left out.
    pub fn push(&mut self, key: &[u8]) {
        let Some(turn) = self.0.turn_mut() else {
            return;
        };
        let Some(walk) = &turn.walk else {
            return;
        };
        let is_key = !key.is_empty() && memchr::memchr2(b':', b'\n', key).is_none();
        if is_key && key.starts_with(&walk.prefix) {
            turn.block.push_line(&[b"Get:", key]);
        }
    }

    /// Says that another page follows. It gets these bytes as its [`cursor`](Self::cursor).
    pub fn set_next(&mut self, cursor: &[u8]) {
        if let Some(walk) = self.walk_mut() {
            walk.more = true;
            walk.cursor.clear();
            walk.cursor.extend_from_slice(cursor);
        }
    }

    /// Says that the keys can't be read. The walk ends here, with `:error:LINE:store:` and the reason.
    pub fn fail(&mut self, reason: impl fmt::Display) {
        if let Some(walk) = self.walk_mut() {
            walk.page = Request::Failed(reason.to_string());
        }
    }

    /// The page, as what [`Store::keys`](super::Store::keys) returns if it does not wait.
    pub fn done(self) -> Submission<Self, Ready<Self>> {
        Submission::Done(self)
    }
}

impl fmt::Debug for KeyPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.turn().map_or(0, |turn| turn.block.bytes().len());
        f.debug_struct("KeyPage").field("bytes", &bytes).finish()
    }
}
