//! A store in memory that lists its keys in their order, so that a run can be repeated.

use keywire::store::{Batch, KeyPage, Memory, Store, StoreSize, Submission};

#[derive(Default)]
pub(super) struct Ordered(pub(super) Memory);

impl Store for Ordered {
    fn submit(
        &mut self,
        mut batch: Batch,
    ) -> Submission<Batch, impl Future<Output = Batch> + Send + 'static> {
        let limits = self.0.limits(&batch);
        batch.each(|operation, answer| self.0.apply(operation, answer, limits));
        batch.done()
    }

    /// One key a page, so that others come in between.
    fn keys(
        &mut self,
        mut page: KeyPage,
    ) -> Submission<KeyPage, impl Future<Output = KeyPage> + Send + 'static> {
        let keys = self.0.iter().map(|(key, _)| key);
        let left = keys.filter(|key| key.starts_with(page.prefix()) && *key > page.cursor());
        let mut left: Vec<_> = left.map(<[u8]>::to_vec).collect();
        left.sort();
        if let [first, rest @ ..] = &left[..] {
            page.push(first);
            if !rest.is_empty() {
                page.set_next(first);
            }
        }
        page.done()
    }

    fn size(&self) -> StoreSize {
        self.0.size()
    }
}
