//! Writing keys and values into cache blocks.
use super::{BLOCK, Elem, KvBlock, KvShape, KvType, SCALED};
use crate::isa::{Op, Simd};
use crate::team::{SharedMut, Team};
use half::f16;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// Fewer values than this are stored faster by the leader alone than shared. Few they are: each key value of a position
/// has a cache line of its own, which another thread has read.
const ALONE: usize = 128;

/// Writes the keys and values of positions `pos0 ..` of one layer, `k` and `v` of shape `[n][kv_heads · dim]`, into
/// the blocks of a cache; `blocks[0]` holds position 0. A block that is shared is copied first.
///
/// # Panics
/// If the shapes do not fit, or `blocks` do not reach the last position.
pub fn store(team: &Team, blocks: &mut [Arc<KvBlock>], layer: usize, pos0: usize, k: &[f32], v: &[f32]) {
    let Some(first) = blocks.first() else {
        assert!(k.is_empty() && v.is_empty(), "no cache block to store in");
        return;
    };
    let shape = first.shape;
    let width = shape.kv_heads * shape.dim;
    assert!(k.len() == v.len() && k.len().is_multiple_of(width), "keys and values [n][{width}]");
    let n = k.len() / width;
    let reach = blocks.len() * BLOCK;
    assert!(n <= reach && pos0 <= reach - n, "positions {pos0} + {n} in {} blocks", blocks.len());
    let blocks = &mut blocks[pos0 / BLOCK..(pos0 + n).div_ceil(BLOCK)];
    let input = Input { shape, layer, pos0, n, k, v };
    match shape.ty {
        KvType::F32 => store_as::<f32>(team, blocks, input),
        KvType::F16 => store_as::<f16>(team, blocks, input),
        KvType::Q8_0 => store_as::<i8>(team, blocks, input),
    }
}

#[derive(Clone, Copy)]
struct Input<'a> {
    shape: KvShape,
    layer: usize,
    pos0: usize,
    n: usize,
    k: &'a [f32],
    v: &'a [f32],
}

fn store_as<E: Elem>(team: &Team, blocks: &mut [Arc<KvBlock>], input: Input<'_>) {
    let Input { shape, layer, .. } = input;
    let part = |size: usize| shape.index(layer, 0) * size..(shape.index(layer, 0) + shape.kv_heads) * size;
    let cells: Vec<_> = blocks
        .iter_mut()
        .map(|block| {
            assert_eq!(block.shape, shape, "cache blocks differ in shape");
            let KvBlock { data, scales, .. } = Arc::make_mut(block);
            let numbers = &mut E::cells_mut(data)[part(shape.cell())];
            (SharedMut::new(numbers), SharedMut::new(&mut scales[part(2 * shape.scales())]))
        })
        .collect();
    let units = cells.len() * shape.kv_heads;
    let write =
        |units| team.isa().dispatch_floats(Write::<E> { input, cells: &cells, units, of: PhantomData });
    if input.k.len() < ALONE { write(0..units) } else { team.run(|worker| write(worker.share(units))) }
}

/// Writes (block, head) units.
struct Write<'a, E> {
    input: Input<'a>,
    /// Of each block, the cells of the layer's heads, and their scales.
    cells: &'a [(SharedMut<'a, E>, SharedMut<'a, f16>)],
    units: Range<usize>,
    of: PhantomData<E>,
}

impl<E: Elem> Op for Write<'_, E> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Input { shape, pos0, n, k, v, .. } = self.input;
        let (dim, stride, size) = (shape.dim, shape.v_stride(), shape.cell());
        let width = shape.kv_heads * dim;
        // Rounded keys of the positions of a block, of which only those stored here are written and read.
        let mut keys = [[[E::ZERO; 16]; 2]; BLOCK];
        for unit in self.units {
            let (block, head) = (unit / shape.kv_heads, unit % shape.kv_heads);
            // SAFETY: each unit, and so each cell, belongs to one thread.
            let (cell, factors) = unsafe {
                let (cells, factors) = &self.cells[block];
                let scales = 2 * shape.scales();
                (
                    cells.slice(head * size..(head + 1) * size),
                    factors.slice(head * scales..(head + 1) * scales),
                )
            };
            let (panel, rows) = cell.split_at_mut(dim * BLOCK);
            let (k_scales, v_scales) = factors.split_at_mut(shape.scales());
            let start = pos0 / BLOCK * BLOCK + block * BLOCK;
            let here = start.max(pos0)..(start + BLOCK).min(pos0 + n);
            let place = |position: usize, d: usize| (position - pos0) * width + head * dim + d;
            for d in (0..dim).step_by(SCALED) {
                let count = (dim - d).min(SCALED);
                let load =
                    |x: &[f32]| [s.load_part(&x[..count.min(16)]), s.load_part(&x[count.min(16)..count])];
                // Rounded rows first: then only small elements are transposed.
                for position in here.clone() {
                    let (at, lane) = (place(position, d), position - start);
                    let scale = E::encode(s, load(&k[at..at + count]), &mut keys[lane]);
                    let mut values = [[E::ZERO; 16]; 2];
                    let v_scale = E::encode(s, load(&v[at..at + count]), &mut values);
                    let row = &mut rows[lane * stride + d..(lane + 1) * stride];
                    for (out, values) in row.as_chunks_mut::<16>().0.iter_mut().zip(values) {
                        *out = values;
                    }
                    if E::SCALES {
                        k_scales[d / SCALED * BLOCK + lane] = scale;
                        v_scales[d / SCALED * BLOCK + lane] = v_scale;
                    }
                }
                let lanes = here.start - start..here.end - start;
                for (i, column) in panel[d * BLOCK..].chunks_exact_mut(BLOCK).take(count).enumerate() {
                    for (stored, key) in column[lanes.clone()].iter_mut().zip(&keys[lanes.clone()]) {
                        *stored = key[i / 16][i % 16];
                    }
                }
            }
        }
    }
}
