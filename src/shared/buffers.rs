//! Buffers for lines and replies, used again and again.
//!
//! An allocator may give memory of this size back to the system when it is freed, and then every
//! batch pays for new pages. Short ones are not kept here: to allocate them costs less than the lock.

use crate::lock::Lock;

/// The sizes that are kept. The last one holds what a turn may have replied and one reply more.
const SIZES: [usize; 3] = [4 * 1024, 16 * 1024, 68 * 1024];

/// What needs less than this has its memory from the allocator.
const SMALLEST: usize = 1024;

/// Bytes of the buffers that are kept of each size: what the replies of one round fill. Those that
/// are in use are not among them, so they belong to no client.
const KEPT_BYTES: usize = 1024 * 1024;

#[derive(Default)]
pub(crate) struct BufferPool {
    kept: Lock<[Vec<Vec<u8>>; SIZES.len()]>,
}

impl BufferPool {
    /// An empty buffer with room for so many bytes.
    pub(crate) fn take(&self, bytes: usize) -> Vec<u8> {
        let size = SIZES.iter().position(|&size| bytes <= size);
        match size {
            Some(size) if bytes >= SMALLEST => {
                let kept = self.kept.lock()[size].pop();
                kept.unwrap_or_else(|| Vec::with_capacity(SIZES[size]))
            }
            _ => Vec::with_capacity(bytes),
        }
    }

    /// Makes room for so many bytes more. Step by step to a buffer of the next size, so that a short
    /// reply that waits for its client does not hold a long buffer.
    pub(crate) fn reserve(&self, buffer: &mut Vec<u8>, more: usize) {
        let needed = buffer.len() + more;
        if needed <= buffer.capacity() {
            return;
        }
        if (SMALLEST..=SIZES[SIZES.len() - 1]).contains(&needed) {
            let mut longer = self.take(needed);
            longer.extend_from_slice(buffer);
            self.put(std::mem::replace(buffer, longer));
        } else if needed < SMALLEST {
            buffer.reserve(more.max(3 * buffer.capacity()));
        } else {
            buffer.reserve(more);
        }
    }

    /// Takes back a buffer, if it is one of these and there is room for it.
    pub(crate) fn put(&self, mut buffer: Vec<u8>) {
        let size = SIZES.iter().position(|&size| buffer.capacity() == size);
        if let Some(size) = size {
            let mut kept = self.kept.lock();
            if kept[size].len() < KEPT_BYTES / SIZES[size] {
                buffer.clear();
                kept[size].push(buffer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of its memory.
    fn address(buffer: &[u8]) -> *const u8 {
        buffer.as_ptr()
    }

    #[test]
    fn a_buffer_grows_step_by_step_and_comes_back_empty() {
        let pool = BufferPool::default();
        let mut buffer = Vec::new();
        let mut sizes = Vec::new();
        for n in 0..60 * 1024 {
            pool.reserve(&mut buffer, 1);
            buffer.push(n as u8);
            if sizes.last() != Some(&buffer.capacity()) {
                sizes.push(buffer.capacity());
            }
        }
        assert!(sizes.ends_with(&SIZES), "{sizes:?}");
        assert!((0..60 * 1024).all(|n| buffer[n] == n as u8));

        let was_at = address(&buffer);
        pool.put(buffer);
        let again = pool.take(20 * 1024);
        assert_eq!((address(&again), again.len()), (was_at, 0));
        // And so do those that it has outgrown.
        for kept in pool.kept.lock().iter().take(2) {
            assert_eq!(kept.len(), 1);
        }
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let pool = BufferPool::default();
        for size in SIZES {
            let taken: Vec<_> = (0..2 * KEPT_BYTES / size)
                .map(|_| pool.take(size))
                .collect();
            taken.into_iter().for_each(|buffer| pool.put(buffer));
        }
        // One of another size is none of these.
        pool.put(Vec::with_capacity(SIZES[2] + 1));
        pool.put(Vec::with_capacity(SMALLEST - 1));
        for (kept, size) in pool.kept.lock().iter().zip(SIZES) {
            assert!(kept.iter().all(|buffer| buffer.capacity() == size));
            let bytes: usize = kept.iter().map(Vec::capacity).sum();
            assert!(bytes <= KEPT_BYTES && bytes + size > KEPT_BYTES, "{bytes}");
        }
    }
}
