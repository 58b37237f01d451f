//! Scaled dot-product attention over cache blocks: one call for decode and prefill.
//!
//! The unit of meaning is a *row*: one query of one head. The rows of a tile (queries and heads that share a
//! key/value head) walk the 64-position blocks that they see in ascending order with an online softmax. Every 512
//! positions (a *chunk*, at fixed places of the sequence) the result is merged into a running one, so chunks can
//! also be computed on different threads. What a row computes depends neither on the tile it sits in nor on the
//! threads: blocks that it does not see leave its state as it is, bit by bit.
mod kernel;
#[cfg(test)]
mod tests;
mod tile;

use crate::buffer::Buffer;
use crate::isa::{Op, Simd};
use crate::kv::{KvBlock, KvType};
use crate::team::{SharedMut, Team};
use half::f16;
use kernel::Load;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tile::{Job, Softmax, TILE};

/// Fewer multiply-adds than this (scores or values) are done faster by the leader alone than shared: about a
/// microsecond's worth.
const ALONE: usize = 1 << 15;
/// Units of work per thread from which on an uneven division costs little.
const EVEN_ENOUGH: usize = 8;

/// One layer's attention for a run of positions.
#[derive(Clone, Copy)]
pub struct AttnArgs<'a> {
    /// Queries, `[n][heads · dim]`, of positions `pos0 ..`; rotated, not yet scaled.
    pub q: &'a [f32],
    /// Query heads, a multiple of the cache's key/value heads: head h reads key/value head h·kv_heads / heads.
    pub heads: usize,
    /// Position of the first query. A query sees its own position and those before it.
    pub pos0: usize,
    /// Layer of the cache to read. The keys and values of the queries' positions must be stored already.
    pub layer: usize,
    /// Multiplier of the scores, usually 1/√dim.
    pub scale: f32,
    /// Caps scores (after scaling) as cap · tanh(score / cap).
    pub soft_cap: Option<f32>,
    /// Number of positions a query sees, its own included; all when absent.
    pub window: Option<usize>,
    /// The cache; `blocks[0]` holds position 0.
    pub blocks: &'a [Arc<KvBlock>],
}

/// Attention of the queries over the cache, into `out`, `[n][heads · dim]`.
///
/// The bits of a query's result depend on the query, the cache and the instruction set, never on the other queries
/// or the number of threads.
///
/// # Panics
/// If the sizes do not fit, the blocks differ in shape or do not reach the last query, or the window is 0.
pub fn attention(team: &Team, args: &AttnArgs<'_>, out: &mut [f32]) {
    assert_eq!(args.q.len(), out.len(), "queries and output");
    if args.q.is_empty() {
        return;
    }
    let job = Job::new(args);
    match job.shape.ty {
        KvType::F32 => run::<f32>(team, &job, out),
        KvType::F16 => run::<f16>(team, &job, out),
    }
}

thread_local! {
    /// Memory of the leader outside jobs.
    static LEADER: RefCell<Buffer<f32>> = RefCell::default();
}

fn run<E: Load>(team: &Team, job: &Job<'_>, out: &mut [f32]) {
    let kv_heads = job.shape.kv_heads;
    let tiles = job.rows().div_ceil(TILE);
    let units = kv_heads * tiles;
    let chunks = job.chunks(0..job.rows());
    let next = AtomicUsize::new(0);
    let out = SharedMut::new(out);
    let scratch_size = job.scratch_size();
    let tiles = |scratch: &mut [f32]| {
        team.isa().dispatch_floats(Tiles::<E> {
            job,
            tiles,
            next: &next,
            scratch,
            out: &out,
            of: PhantomData,
        });
    };
    let even = units.is_multiple_of(team.threads()) || units >= EVEN_ENOUGH * team.threads();
    if job.multiply_adds() < ALONE {
        LEADER.with_borrow_mut(|scratch| {
            scratch.grow(scratch_size);
            tiles(scratch);
        });
    } else if even || units > kv_heads || chunks.len() == 1 {
        team.run(|worker| tiles(worker.scratch.get(scratch_size)));
    } else {
        let size = Softmax::size(job.rows(), job.v_stride());
        LEADER.with_borrow_mut(|memory| {
            memory.grow((1 + units * chunks.len()) * size);
            let (total, parts) = memory.split_at_mut(size);
            let parts = &mut parts[..units * chunks.len() * size];
            let shared = SharedMut::new(parts);
            team.run(|worker| {
                let (scratch, chunks) = (worker.scratch.get(scratch_size), chunks.clone());
                let (next, parts) = (&next, &shared);
                team.isa().dispatch_floats(Chunks::<E> {
                    job,
                    chunks,
                    next,
                    scratch,
                    parts,
                    of: PhantomData,
                });
            });
            team.isa().dispatch_floats(Merge { job, chunks: chunks.len(), parts, total, out: &out });
        });
    }
}

/// Takes (tile, kv head) units until none is left, whole rows at a time.
struct Tiles<'a, E> {
    job: &'a Job<'a>,
    tiles: usize,
    next: &'a AtomicUsize,
    scratch: &'a mut [f32],
    out: &'a SharedMut<'a, f32>,
    of: PhantomData<E>,
}

impl<E: Load> Op for Tiles<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Tiles { job, tiles, next, scratch, out, .. } = self;
        let (q, states) = scratch.split_at_mut(job.q_size());
        let (state, total) = states.split_at_mut(Softmax::size(job.tile_rows(), job.v_stride()));
        loop {
            let unit = next.fetch_add(1, Ordering::Relaxed);
            if unit >= tiles * job.shape.kv_heads {
                return;
            }
            // Later queries see more: the dearest tiles first leave the smallest gap at the end.
            let (tile, kv_head) = (tiles - 1 - unit / job.shape.kv_heads, unit % job.shape.kv_heads);
            let rows = tile * TILE..job.rows().min((tile + 1) * TILE);
            let mut state = Softmax::new(state, rows.len(), job.v_stride());
            let mut total = Softmax::new(total, rows.len(), job.v_stride());
            job.pack_queries::<S>(kv_head, rows.clone(), q);
            total.reset();
            for chunk in job.chunks(rows.clone()) {
                job.chunk::<S, E>(s, kv_head, rows.clone(), chunk, q, &mut state);
                total.merge(s, &state);
            }
            job.finish(s, kv_head, rows, &total, out);
        }
    }
}

/// Takes (kv head, chunk) units of a single tile until none is left.
struct Chunks<'a, E> {
    job: &'a Job<'a>,
    chunks: Range<usize>,
    next: &'a AtomicUsize,
    scratch: &'a mut [f32],
    /// A softmax state for each kv head and chunk.
    parts: &'a SharedMut<'a, f32>,
    of: PhantomData<E>,
}

impl<E: Load> Op for Chunks<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Chunks { job, chunks, next, scratch, parts, .. } = self;
        let size = Softmax::size(job.rows(), job.v_stride());
        loop {
            let unit = next.fetch_add(1, Ordering::Relaxed);
            if unit >= chunks.len() * job.shape.kv_heads {
                return;
            }
            let (kv_head, chunk) = (unit / chunks.len(), chunks.start + unit % chunks.len());
            // SAFETY: the counter gives each unit, and so each part, to one thread.
            let part = unsafe { parts.slice(unit * size..(unit + 1) * size) };
            let mut state = Softmax::new(part, job.rows(), job.v_stride());
            job.pack_queries::<S>(kv_head, 0..job.rows(), scratch);
            job.chunk::<S, E>(s, kv_head, 0..job.rows(), chunk, scratch, &mut state);
        }
    }
}

/// Merges what [`Chunks`] left, in ascending order of the chunks.
struct Merge<'a> {
    job: &'a Job<'a>,
    chunks: usize,
    parts: &'a mut [f32],
    total: &'a mut [f32],
    out: &'a SharedMut<'a, f32>,
}

impl Op for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Merge { job, chunks, parts, total, out } = self;
        let mut total = Softmax::new(total, job.rows(), job.v_stride());
        let size = Softmax::size(job.rows(), job.v_stride());
        for (kv_head, parts) in parts.chunks_exact_mut(chunks * size).enumerate() {
            total.reset();
            for part in parts.chunks_exact_mut(size) {
                total.merge(s, &Softmax::new(part, job.rows(), job.v_stride()));
            }
            job.finish(s, kv_head, 0..job.rows(), &total, out);
        }
    }
}
