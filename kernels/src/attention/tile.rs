//! A tile of rows walking the blocks of a chunk.
use super::AttnArgs;
use super::kernel::{Block, MAX_ROWS, Products, Rows, rows_at_once};
use crate::isa::{Op, Simd};
use crate::kv::{BLOCK, KvShape};
use crate::math;
use crate::team::SharedMut;
use std::array::from_fn;
use std::marker::PhantomData;
use std::ops::Range;

/// Most rows (queries × heads of one key/value head) of a tile: keys and values of a block come from the L2 cache
/// once and serve this many rows. A multiple of [`MAX_ROWS`].
pub(super) const TILE: usize = 8 * MAX_ROWS;

/// Positions whose online softmax is one chain; chunks start at multiples of this.
pub(super) const CHUNK: usize = 512;

/// A checked call of attention.
pub(super) struct Job<'a> {
    args: &'a AttnArgs<'a>,
    pub shape: KvShape,
    /// Queries.
    n: usize,
    /// Key/value heads, counted as often as they have parts: see [`Job::split`].
    pub kv_heads: usize,
    /// Query heads that share a key/value head, or the part of one.
    group: usize,
}

impl<'a> Job<'a> {
    /// # Panics
    /// If sizes do not fit; see [`super::attention`].
    pub fn new(args: &'a AttnArgs<'a>) -> Self {
        let shape = *args.blocks.first().expect("a cache block").shape();
        assert!(args.blocks.iter().all(|block| *block.shape() == shape), "cache blocks differ in shape");
        let AttnArgs { q, heads, pos0, .. } = *args;
        assert!(heads > 0 && heads.is_multiple_of(shape.kv_heads), "{heads} heads over {shape:?}");
        let width = heads * shape.dim;
        assert!(q.len().is_multiple_of(width), "{} query values in rows of {width}", q.len());
        assert!(args.layer < shape.layers, "layer {} of {}", args.layer, shape.layers);
        let n = q.len() / width;
        let reach = args.blocks.len() * BLOCK;
        assert!(n <= reach && pos0 <= reach - n, "positions {pos0} + {n} in a cache of {reach}");
        assert_ne!(args.window, Some(0), "a window sees at least its own position");
        Self { args, shape, n, kv_heads: shape.kv_heads, group: heads / shape.kv_heads }
    }

    /// The same work in more cells, if there are fewer than threads: the query heads of a key/value head in parts that
    /// are walked as if each had keys and values of its own.
    pub fn split(mut self, threads: usize) -> Self {
        let cells = self.kv_heads * self.chunks(0..self.rows()).len();
        let enough = |&parts: &usize| self.group.is_multiple_of(parts) && cells * parts >= threads;
        let parts = (1..self.group).find(enough).unwrap_or(self.group);
        self.kv_heads *= parts;
        self.group /= parts;
        self
    }

    /// Rows of each of [`Job::kv_heads`]: row r is head r % group of query r / group.
    pub fn rows(&self) -> usize {
        self.n * self.group
    }

    /// Rows of the largest tile.
    pub fn tile_rows(&self) -> usize {
        self.rows().min(TILE)
    }

    pub fn v_stride(&self) -> usize {
        self.shape.v_stride()
    }

    /// Values of packed queries of a tile.
    pub fn q_size<E: Products>(&self) -> usize {
        (self.tile_rows() * E::packed_len(self.shape.dim)).next_multiple_of(16)
    }

    /// Values of the softmax of a tile.
    pub fn state_size(&self) -> usize {
        Softmax::size(self.tile_rows(), self.v_stride())
    }

    /// The softmax of a tile of `rows` rows, as `memory` holds it.
    pub fn state<'m>(&self, rows: usize, memory: &'m mut [f32]) -> Softmax<'m> {
        Softmax::new(memory, rows, self.v_stride())
    }

    /// Multiply-adds of all scores, at most.
    pub fn multiply_adds(&self) -> usize {
        let seen = self.seen_by(0..self.rows()).len();
        self.rows().saturating_mul(self.kv_heads * self.shape.dim).saturating_mul(seen)
    }

    /// The positions that a row sees.
    fn seen(&self, row: usize) -> Range<usize> {
        let end = self.args.pos0 + row / self.group + 1;
        end.saturating_sub(self.args.window.unwrap_or(end))..end
    }

    /// The positions that some of the rows see.
    fn seen_by(&self, rows: Range<usize>) -> Range<usize> {
        self.seen(rows.start).start..self.seen(rows.end - 1).end
    }

    /// The chunks with positions that some of the rows see.
    pub fn chunks(&self, rows: Range<usize>) -> Range<usize> {
        let seen = self.seen_by(rows);
        seen.start / CHUNK..seen.end.div_ceil(CHUNK)
    }

    /// Where the `dim` values of a row are in queries and output.
    fn place(&self, kv_head: usize, row: usize) -> Range<usize> {
        let head = row / self.group * self.args.heads + kv_head * self.group + row % self.group;
        head * self.shape.dim..(head + 1) * self.shape.dim
    }

    /// Scales and packs the queries of a tile, part after part of the rows; see [`part_size`].
    #[inline(always)]
    pub fn pack_queries<S: Simd, E: Products>(
        &self,
        s: S,
        kv_head: usize,
        rows: Range<usize>,
        packed: &mut [f32],
    ) {
        let (len, size) = (E::packed_len(self.shape.dim), part_size::<S>(rows.len()));
        for (i, packed) in packed[..rows.len() * len].chunks_mut(size * len).enumerate() {
            let count = packed.len() / len;
            for r in 0..count {
                let q = &self.args.q[self.place(kv_head, rows.start + i * size + r)];
                E::pack(s, q, self.args.scale, r, count, packed);
            }
        }
    }

    /// The blocks of a chunk with positions that some of the rows see.
    pub fn blocks(&self, rows: Range<usize>, chunk: usize) -> Range<usize> {
        let seen = self.seen_by(rows);
        seen.start.max(chunk * CHUNK) / BLOCK..seen.end.min((chunk + 1) * CHUNK).div_ceil(BLOCK)
    }

    /// Where to cut the cells (chunk, kv head) of a single tile, in the order of chunks and then heads, so that the
    /// threads before `thread` of `threads` walk their share of the blocks, as nearly as whole cells allow.
    pub fn cut(&self, thread: usize, threads: usize) -> usize {
        let rows = 0..self.rows();
        let chunks = self.chunks(rows.clone());
        let count = |chunk| self.blocks(rows.clone(), chunk).len();
        let total: usize = chunks.clone().map(count).sum();
        // In units of a block of a head, times the number of threads.
        let mut wanted = total * self.kv_heads * thread;
        for (i, chunk) in chunks.enumerate() {
            let cell = count(chunk) * threads;
            if wanted < cell * self.kv_heads {
                return i * self.kv_heads + (wanted + cell / 2) / cell;
            }
            wanted -= cell * self.kv_heads;
        }
        self.chunks(rows).len() * self.kv_heads
    }

    /// The positions of a block that each of R rows sees, counted within the block.
    fn seen_in<const R: usize>(&self, block: usize, rows: Range<usize>) -> [Range<usize>; R] {
        let start = block * BLOCK;
        let within = |position: usize| position.saturating_sub(start).min(BLOCK);
        from_fn(|r| {
            let seen = self.seen(rows.start + r);
            within(seen.start)..within(seen.end)
        })
    }

    /// Divides the weighted sums by the sums of the weights, into the rows' places of `out`.
    #[inline(always)]
    pub fn finish<S: Simd>(
        &self,
        s: S,
        kv_head: usize,
        rows: Range<usize>,
        total: &Softmax<'_>,
        out: &SharedMut<'_, f32>,
    ) {
        for (i, row) in rows.enumerate() {
            let inverse = 1.0 / s.sum(s.load(&total.sum[i]));
            // SAFETY: a row belongs to one tile, and a tile to one thread.
            let out = unsafe { out.slice(self.place(kv_head, row)) };
            for (out, acc) in out.iter_mut().zip(&total.acc[i * total.v_stride..]) {
                *out = acc * inverse;
            }
        }
    }
}

/// Rows of a tile of `rows` rows that the inner loops take at once: parts are as even as can be, since each walks
/// all keys and values.
const fn part_size<S: Simd>(rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(rows_at_once::<S>()))
}

/// Adds a block to the softmax of a tile.
pub(super) struct Step<'a, 'b, E> {
    pub job: &'a Job<'a>,
    /// Block and key/value head.
    pub cell: (usize, usize),
    /// Those that will be needed next.
    pub ahead: (usize, usize),
    pub rows: Range<usize>,
    /// Packed queries of the tile.
    pub q: &'a [f32],
    pub state: &'a mut Softmax<'b>,
    pub of: PhantomData<E>,
}

impl<E: Products> Op for Step<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Step { job, cell: (index, kv_head), ahead, rows, q, state, .. } = self;
        let args = job.args;
        let parts = job.kv_heads / job.shape.kv_heads;
        let cell = E::cell(&args.blocks[index], args.layer, kv_head / parts);
        let ahead = E::cell(&args.blocks[ahead.0], args.layer, ahead.1 / parts);
        let block = Block { cell, ahead, v_stride: job.v_stride(), soft_cap: args.soft_cap };
        let size = part_size::<S>(rows.len());
        for first in (0..rows.len()).step_by(size) {
            let part = first..rows.len().min(first + size);
            let here = rows.start + part.start..rows.start + part.end;
            let seen = job.seen_by(here.clone());
            if seen.end <= index * BLOCK || seen.start >= (index + 1) * BLOCK {
                continue;
            }
            let len = E::packed_len(job.shape.dim);
            let q = &q[part.start * len..part.end * len];
            let state = state.rows(part);
            // Arms that an instruction set never takes are not compiled for it.
            match here.len() {
                2 if const { rows_at_once::<S>() >= 2 } => {
                    block.attend::<S, 2>(s, q, &job.seen_in(index, here), state);
                }
                3 if const { rows_at_once::<S>() >= 3 } => {
                    block.attend::<S, 3>(s, q, &job.seen_in(index, here), state);
                }
                4 if const { rows_at_once::<S>() >= 4 } => {
                    block.attend::<S, 4>(s, q, &job.seen_in(index, here), state);
                }
                5 if const { rows_at_once::<S>() >= 5 } => {
                    block.attend::<S, 5>(s, q, &job.seen_in(index, here), state);
                }
                6 if const { rows_at_once::<S>() >= 6 } => {
                    block.attend::<S, 6>(s, q, &job.seen_in(index, here), state);
                }
                _ => block.attend::<S, 1>(s, q, &job.seen_in(index, here), state),
            }
        }
    }
}

/// The state of an online softmax for some rows.
pub(super) struct Softmax<'a> {
    v_stride: usize,
    /// See [`Rows`].
    acc: &'a mut [f32],
    sum: &'a mut [[f32; 16]],
    max: &'a mut [f32],
}

impl<'a> Softmax<'a> {
    /// f32 values that the state of `rows` rows takes: a multiple of 16.
    fn size(rows: usize, v_stride: usize) -> usize {
        rows * (v_stride + 16) + rows.next_multiple_of(16)
    }

    /// A state in `memory`, as it is there.
    fn new(memory: &'a mut [f32], rows: usize, v_stride: usize) -> Self {
        let (acc, memory) = memory.split_at_mut(rows * v_stride);
        let (sum, memory) = memory.split_at_mut(rows * 16);
        Self { v_stride, acc, sum: sum.as_chunks_mut().0, max: &mut memory[..rows] }
    }

    /// No position seen.
    pub fn reset(&mut self) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill([0.0; 16]);
        self.acc.fill(0.0);
    }

    fn rows(&mut self, rows: Range<usize>) -> Rows<'_> {
        Rows {
            acc: &mut self.acc[rows.start * self.v_stride..rows.end * self.v_stride],
            sum: &mut self.sum[rows.clone()],
            max: &mut self.max[rows],
        }
    }

    /// Adds the positions of `other`.
    #[inline(always)]
    pub fn merge<S: Simd>(&mut self, s: S, other: &Softmax<'_>) {
        for r in 0..self.max.len() {
            let max = self.max[r].max(other.max[r]);
            let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
            let ours = math::exp_neg(s, s.splat(self.max[r] - base));
            let theirs = math::exp_neg(s, s.splat(other.max[r] - base));
            let add = |a: &mut [f32; 16], b: &[f32; 16]| {
                let sum = s.fma(s.load(b), theirs, s.mul(s.load(a), ours));
                s.store(sum, a);
            };
            self.max[r] = max;
            add(&mut self.sum[r], &other.sum[r]);
            let acc = self.acc[r * self.v_stride..][..self.v_stride].as_chunks_mut::<16>().0;
            for (a, b) in acc.iter_mut().zip(other.acc[r * self.v_stride..].as_chunks::<16>().0) {
                add(a, b);
            }
        }
    }
}
