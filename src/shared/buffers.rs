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
