//! Scaled dot-product attention over cache blocks: one call for decode and prefill.
//!
//! The unit of meaning is a *row*: one query of one head. The rows of a tile (queries and heads that share a
//! key/value head) walk the 64-position blocks that they see in ascending order with an online softmax. Every 512
//! positions (a *chunk*, at fixed places of the sequence) the result is merged into a running one, so chunks can
//! also be computed on different threads. What a row computes depends neither on the tile it sits in nor on the
//! threads: blocks that it does not see leave its state as it is, bit by bit.
mod floats;
mod kernel;
#[cfg(test)]
mod tests;
mod tile;
mod words;

use crate::buffer::Buffer;
use crate::isa::{Op, Simd};
use crate::kv::{KvBlock, KvType};
use crate::team::{SharedMut, Team};
use half::f16;
use kernel::Products;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tile::{Job, Step, TILE};

/// Fewer multiply-adds than this (scores or values) are done faster by the leader alone than shared: about a
/// microsecond's worth.
const ALONE: usize = 1 << 15;

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
        KvType::F32 => run::<f32>(team, job, out),
        KvType::F16 => run::<f16>(team, job, out),
        KvType::Q8_0 => run::<i8>(team, job, out),
    }
}

fn run<E: Products>(team: &Team, job: Job<'_>, out: &mut [f32]) {
    if job.rows() > TILE {
        prefill::<E>(team, &job, out)
    } else {
        decode::<E>(team, &job.split(team.threads()), out)
    }
}

/// Many rows: the threads take tiles, whole rows at a time.
fn prefill<E: Products>(team: &Team, job: &Job<'_>, out: &mut [f32]) {
    let (tiles, next, out) = (job.rows().div_ceil(TILE), AtomicUsize::new(0), SharedMut::new(out));
    let size = job.q_size::<E>() + 2 * job.state_size();
    team.run(|worker| {
        let scratch = worker.scratch.get(size);
        team.isa().dispatch_floats(Tiles::<E> {
            job,
            tiles,
            next: &next,
            scratch,
            out: &out,
            of: PhantomData,
        });
    });
}

/// Takes (tile, kv head) units until none is left.
struct Tiles<'a, E> {
    job: &'a Job<'a>,
    tiles: usize,
    next: &'a AtomicUsize,
    scratch: &'a mut [f32],
    out: &'a SharedMut<'a, f32>,
    of: PhantomData<E>,
}

impl<E: Products> Op for Tiles<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Tiles { job, tiles, next, scratch, out, of } = self;
        let (q, states) = scratch.split_at_mut(job.q_size::<E>());
        let (state, total) = states.split_at_mut(job.state_size());
        loop {
            let unit = next.fetch_add(1, Ordering::Relaxed);
            if unit >= tiles * job.kv_heads {
                return;
            }
            // Later queries see more: the dearest tiles first leave the smallest gap at the end.
            let (tile, kv_head) = (tiles - 1 - unit / job.kv_heads, unit % job.kv_heads);
            let rows = tile * TILE..job.rows().min((tile + 1) * TILE);
            let mut state = job.state(rows.len(), state);
            let mut total = job.state(rows.len(), total);
            job.pack_queries::<S, E>(s, kv_head, rows.clone(), q);
            total.reset();
            for chunk in job.chunks(rows.clone()) {
                state.reset();
                let blocks = job.blocks(rows.clone(), chunk);
                for index in blocks.clone() {
                    let ahead = ((index + 1).min(blocks.end - 1), kv_head);
                    let (rows, q, state) = (rows.clone(), &*q, &mut state);
                    s.run(Step::<E> { job, cell: (index, kv_head), ahead, rows, q, state, of });
                }
                total.merge(s, &state);
            }
            job.finish(s, kv_head, rows, &total, out);
        }
    }
}

thread_local! {
    /// What the threads hand to the leader, and its own memory when it works alone.
    static LEADER: RefCell<Buffer<f32>> = RefCell::default();
}

/// Few rows, a single tile for each key/value head: the threads share the cells (chunk, kv head), of which each takes
/// a run. Blocks are walked in the outer loop and heads in the inner one, the order of memory.
fn decode<E: Products>(team: &Team, job: &Job<'_>, out: &mut [f32]) {
    let chunks = job.chunks(0..job.rows());
    let cells = chunks.len() * job.kv_heads;
    let (state_size, q_size) = (job.state_size(), job.kv_heads * job.q_size::<E>());
    LEADER.with_borrow_mut(|memory| {
        memory.grow((cells + 1) * state_size + q_size);
        let (parts, rest) = memory.split_at_mut(cells * state_size);
        let (total, q) = rest.split_at_mut(state_size);
        let shared = SharedMut::new(parts);
        let walk = |cells: Range<usize>, q: &mut [f32]| {
            let parts = &shared;
            team.isa().dispatch_floats(Cells::<E> { job, cells, q, parts, of: PhantomData });
        };
        if job.multiply_adds() < ALONE || team.threads() == 1 {
            walk(0..cells, &mut q[..q_size]);
        } else {
            let cut = |thread| job.cut(thread, team.threads());
            team.run(|worker| walk(cut(worker.index)..cut(worker.index + 1), worker.scratch.get(q_size)));
        }
        let out = SharedMut::new(out);
        team.isa().dispatch_floats(Merge { job, parts, total, out: &out });
    });
}

/// Walks a run of the cells of a decode step, in the order of chunks and then heads.
struct Cells<'a, E> {
    job: &'a Job<'a>,
    cells: Range<usize>,
    /// Room for the packed queries of every head.
    q: &'a mut [f32],
    /// A softmax state for each cell.
    parts: &'a SharedMut<'a, f32>,
    of: PhantomData<E>,
}

impl<E: Products> Op for Cells<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Cells { job, cells, q, parts, of } = self;
        if cells.is_empty() {
            return;
        }
        let (kv_heads, rows, size) = (job.kv_heads, job.rows(), job.state_size());
        let q_size = job.q_size::<E>();
        for (kv_head, q) in q.chunks_exact_mut(q_size).enumerate() {
            job.pack_queries::<S, E>(s, kv_head, 0..rows, q);
        }
        let first_chunk = job.chunks(0..rows).start;
        for chunk in cells.start / kv_heads..cells.end.div_ceil(kv_heads) {
            let heads =
                cells.start.saturating_sub(chunk * kv_heads)..(cells.end - chunk * kv_heads).min(kv_heads);
            let at = |kv_head: usize| (chunk * kv_heads + kv_head) * size;
            // SAFETY: the counts of `Job::cut` give each cell, and so each part, to one thread.
            let parts = unsafe { parts.slice(at(heads.start)..at(heads.end)) };
            for part in parts.chunks_exact_mut(size) {
                job.state(rows, part).reset();
            }
            let blocks = job.blocks(0..rows, first_chunk + chunk);
            for index in blocks.clone() {
                for (kv_head, part) in heads.clone().zip(parts.chunks_exact_mut(size)) {
                    let ahead = if kv_head + 1 < heads.end {
                        (index, kv_head + 1)
                    } else {
                        ((index + 1).min(blocks.end - 1), heads.start)
                    };
                    let (q, state) = (&q[kv_head * q_size..][..q_size], &mut job.state(rows, part));
                    s.run(Step::<E> { job, cell: (index, kv_head), ahead, rows: 0..rows, q, state, of });
                }
            }
        }
    }
}

/// Merges what [`Cells`] left, in ascending order of the chunks.
struct Merge<'a> {
    job: &'a Job<'a>,
    parts: &'a mut [f32],
    total: &'a mut [f32],
    out: &'a SharedMut<'a, f32>,
}

impl Op for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Merge { job, parts, total, out } = self;
        let (rows, size) = (job.rows(), job.state_size());
        let mut total = job.state(rows, total);
        for kv_head in 0..job.kv_heads {
            total.reset();
            for part in parts.chunks_exact_mut(size).skip(kv_head).step_by(job.kv_heads) {
                total.merge(s, &job.state(rows, part));
            }
            job.finish(s, kv_head, 0..rows, &total, out);
        }
    }
}
