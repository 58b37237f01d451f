//! The key/value cache of a session: reference-counted blocks of 64 positions.
//!
//! Forking shares all blocks; whoever writes to a shared block first takes a copy of it. Layers with a window keep
//! their full history all the same, so that truncating (undo) is exact.
use std::collections::HashSet;
use std::sync::Arc;

use lapwing_kernels::kv::{KvBlock, KvShape, store};
use lapwing_kernels::team::Team;

pub use lapwing_kernels::kv::{BLOCK, KvType, LAYOUT};

use crate::arch::DecoderSpec;
use crate::{Class, Error, Result, os};

/// Keys and values of the positions evaluated so far.
#[derive(Clone)]
pub struct KvCache {
    shape: KvShape,
    blocks: Vec<Arc<KvBlock>>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for at most `capacity` positions of a model.
    ///
    /// Blocks are allocated as positions come; that all of them could be is checked now.
    ///
    /// # Errors
    /// [`Class::Usage`] when `capacity` is 0 or beyond the address space, [`Class::Memory`] when the machine
    /// has not that much memory left.
    pub fn new(spec: &DecoderSpec, ty: KvType, capacity: usize) -> Result<Self> {
        let shape = KvShape { ty, layers: spec.layers.len(), kv_heads: spec.kv_heads, dim: spec.head_dim };
        let mut cache = Self { shape, blocks: Vec::new(), len: 0, capacity: 0 };
        cache.set_capacity(capacity)?;
        Ok(cache)
    }

    /// Holds at most `capacity` positions from now on; those beyond it are forgotten.
    ///
    /// # Errors
    /// As for [`KvCache::new`], the memory that is held already not counted; nothing is changed then.
    pub fn set_capacity(&mut self, capacity: usize) -> Result<()> {
        let Some(bytes) = cache_bytes(&self.shape, capacity).filter(|_| capacity > 0) else {
            return Err(Error::new(Class::Usage, "this context size is impossible")
                .expected_got("at least 1 token, and no more than memory holds", capacity));
        };
        if let Some(available) = os::available_memory().map(|bytes| bytes.saturating_add(self.bytes() as u64))
            && bytes as u64 > available
        {
            return Err(Error::new(
                Class::Memory,
                format!("a context of {capacity} tokens does not fit in memory"),
            )
            .expected_got(
                format!("at most {} MiB for the cache", available >> 20),
                format!("{} MiB ({})", bytes >> 20, self.shape.ty),
            )
            .advice("choose a smaller context with --ctx-size"));
        }
        self.truncate(capacity);
        self.capacity = capacity;
        Ok(())
    }

    /// Bytes of a full cache for `capacity` positions, `None` when that overflows.
    pub fn bytes_for(spec: &DecoderSpec, ty: KvType, capacity: usize) -> Option<usize> {
        let shape = KvShape { ty, layers: spec.layers.len(), kv_heads: spec.kv_heads, dim: spec.head_dim };
        cache_bytes(&shape, capacity)
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most positions that may be held: the context of the session.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Layers, heads and type of the numbers.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Bytes of the blocks held now, shared ones included.
    pub fn bytes(&self) -> usize {
        self.blocks.len() * self.shape.block_bytes().unwrap_or_default()
    }

    /// Bytes of the blocks that `caches` hold together, each shared one counted once.
    pub fn bytes_together<'a>(caches: impl IntoIterator<Item = &'a Self>) -> usize {
        let mut seen = HashSet::new();
        let bytes = |cache: &Self| cache.shape.block_bytes().unwrap_or_default();
        let blocks = caches.into_iter().flat_map(|cache| cache.blocks.iter().map(move |b| (b, bytes(cache))));
        blocks.filter(|(block, _)| seen.insert(Arc::as_ptr(block))).map(|(_, bytes)| bytes).sum()
    }

    /// Forgets all positions from `len` on. Does nothing when there are no more than that.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.blocks.truncate(self.len.div_ceil(BLOCK));
    }

    /// A cache with the same content that shares memory with this one until they diverge.
    #[must_use]
    pub fn fork(&self) -> Self {
        self.clone()
    }

    /// Gives the bytes of each block, in order: what [`KvCache::restore`] makes the same cache of. They are arranged as
    /// [`LAYOUT`] says.
    ///
    /// # Errors
    /// What `write` returns.
    pub fn dump(&self, write: &mut dyn FnMut([&[u8]; 2]) -> Result<()>) -> Result<()> {
        self.blocks[..self.len.div_ceil(BLOCK)].iter().map(|block| block.bytes()).try_for_each(write)
    }

    /// Bytes that [`KvCache::dump`] gives for `len` positions, `None` when that overflows.
    pub fn dump_bytes(&self, len: usize) -> Option<usize> {
        cache_bytes(&self.shape, len)
    }

    /// Holds `len` positions instead of those before. `read` fills their blocks, each by its number, on so many threads
    /// at once. Wrong bytes make wrong numbers, perhaps infinite ones, which the forward pass reports.
    ///
    /// # Errors
    /// As when room is made for tokens, and what `read` returns; the cache is then empty.
    pub fn restore(
        &mut self,
        len: usize,
        threads: usize,
        read: impl Fn(usize, [&mut [u8]; 2]) -> Result<()> + Sync,
    ) -> Result<()> {
        self.truncate(0);
        self.check_room(len)?;
        let (shape, n) = (self.shape, len.div_ceil(BLOCK));
        let block = |at| {
            let mut block = new_block(shape, at)?;
            read(at, block.bytes_mut())?;
            Ok(Arc::new(block))
        };
        // Half of the time goes into first touches of fresh memory, which threads do at the same time.
        let threads = threads.clamp(1, n.max(1));
        let parts: Vec<Result<Vec<_>>> = std::thread::scope(|scope| {
            let part = |part: usize| (n * part / threads..n * (part + 1) / threads).map(block).collect();
            let others: Vec<_> = (1..threads).map(|at| scope.spawn(move || part(at))).collect();
            let joined = |other: std::thread::ScopedJoinHandle<'_, _>| match other.join() {
                Ok(part) => part,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            std::iter::once(part(0)).chain(others.into_iter().map(joined)).collect()
        });
        self.blocks = parts.into_iter().collect::<Result<Vec<_>>>()?.concat();
        self.len = len;
        Ok(())
    }

    /// Makes room for `n` more positions.
    ///
    /// # Errors
    /// [`Class::Usage`] when they pass the capacity, [`Class::Memory`] when there is no memory for them.
    pub(crate) fn reserve(&mut self, n: usize) -> Result<()> {
        let len = self.check_room(n)?;
        while self.blocks.len() * BLOCK < len {
            self.blocks.push(Arc::new(new_block(self.shape, self.blocks.len())?));
        }
        Ok(())
    }

    /// Positions with `n` more, if that is not beyond the capacity.
    fn check_room(&self, n: usize) -> Result<usize> {
        match self.len.checked_add(n) {
            Some(len) if len <= self.capacity => Ok(len),
            _ => Err(Error::new(Class::Usage, "the text is longer than the context")
                .expected_got(
                    format!("at most {} more tokens", self.capacity - self.len),
                    format!("{n} (the context holds {}, {} are in use)", self.capacity, self.len),
                )
                .advice("choose a larger context with --ctx-size")),
        }
    }

    /// Writes keys and values, `[n][kv_heads · head_dim]` each, of positions `len()..` of one layer. They count
    /// as held after [`advance`](Self::advance).
    ///
    /// # Panics
    /// Without room for them ([`reserve`](Self::reserve)).
    pub(crate) fn store(&mut self, team: &Team, layer: usize, k: &[f32], v: &[f32]) {
        store(team, &mut self.blocks, layer, self.len, k, v);
    }

    /// Counts `n` more positions as held, once all layers have stored them.
    pub(crate) fn advance(&mut self, n: usize) {
        self.len += n;
        debug_assert!(self.len <= self.blocks.len() * BLOCK);
    }

    /// All blocks; the first holds position 0.
    pub(crate) fn blocks(&self) -> &[Arc<KvBlock>] {
        &self.blocks
    }
}

/// An empty block, the `at`th of a cache.
fn new_block(shape: KvShape, at: usize) -> Result<KvBlock> {
    let mut block = KvBlock::try_new(shape).map_err(|_| {
        Error::new(Class::Memory, "there is no memory for more of the context")
            .at(format!("position {}", at * BLOCK))
    })?;
    for part in block.bytes_mut() {
        os::large_pages(part);
    }
    Ok(block)
}

fn cache_bytes(shape: &KvShape, capacity: usize) -> Option<usize> {
    shape.block_bytes()?.checked_mul(capacity.div_ceil(BLOCK)).filter(|&bytes| isize::try_from(bytes).is_ok())
}
