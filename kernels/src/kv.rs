//! Blocks of the key/value cache.
//!
//! A [`KvBlock`] holds 64 positions of every layer and key/value head. Blocks are meant to sit in `Arc`s: sessions
//! that share a prefix share its blocks, and [`store`] copies a block only when it writes to a shared one.
//!
//! Inside a block, keys are transposed, `[layer][kv head][dim][64]`: the scores of 64 positions are 64 lanes that
//! never need a horizontal sum. Values are `[layer][kv head][64][dim]`, rows padded to 16 values: their weighted
//! sum has the dimensions as lanes.
use crate::buffer::{Buffer, Plain};
use crate::team::Team;
use half::f16;
use std::collections::TryReserveError;
use std::sync::Arc;

/// Positions in one block.
pub const BLOCK: usize = 64;

/// What the cache stores a number as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 32-bit floats: exact, twice the memory.
    F32,
    /// 16-bit floats, rounded to nearest even; values beyond ±65504 become ±65504.
    F16,
}

impl KvType {
    /// Every type.
    pub const ALL: &'static [KvType] = &[KvType::F32, KvType::F16];

    /// Lower-case name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        }
    }

    /// The type of this name (case is ignored).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of `rows` rows of `len` values.
    const fn bytes(self, rows: usize, len: usize) -> Option<usize> {
        let size = match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        };
        match rows.checked_mul(len) {
            Some(values) => values.checked_mul(size),
            None => None,
        }
    }
}

impl std::fmt::Display for KvType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvShape {
    /// Type of the stored numbers.
    pub ty: KvType,
    /// Layers of the model.
    pub layers: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Values in the key, and in the value, of one head.
    pub dim: usize,
}

impl KvShape {
    /// Bytes of one block; `None` when that overflows.
    pub const fn block_bytes(&self) -> Option<usize> {
        let Some(planes) = self.layers.checked_mul(self.kv_heads) else { return None };
        let (Some(k), Some(v)) = (self.ty.bytes(self.dim, BLOCK), self.ty.bytes(BLOCK, self.v_stride()))
        else {
            return None;
        };
        let Some(plane) = k.checked_add(v) else { return None };
        planes.checked_mul(plane)
    }

    /// Values between two rows of V.
    pub(crate) const fn v_stride(&self) -> usize {
        self.dim.saturating_add(15) / 16 * 16
    }

    /// Which (layer, kv head) plane.
    fn plane(&self, layer: usize, kv_head: usize) -> usize {
        assert!(
            layer < self.layers && kv_head < self.kv_heads,
            "layer {layer}, kv head {kv_head} of {self:?}"
        );
        layer * self.kv_heads + kv_head
    }
}

/// A floating-point number as the cache stores it.
pub(crate) trait Elem: Plain {
    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
    /// The key panel `[dim][64]` and the value rows `[64][v_stride]` of one head.
    ///
    /// # Panics
    /// If the block stores another type.
    fn plane(block: &KvBlock, layer: usize, kv_head: usize) -> (&[Self], &[Self]);
}

#[cold]
fn other_type(block: &KvBlock) -> ! {
    panic!("the cache block stores {}", block.shape.ty)
}

impl Elem for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }

    fn to_f32(self) -> f32 {
        self
    }

    fn plane(block: &KvBlock, layer: usize, kv_head: usize) -> (&[Self], &[Self]) {
        let Data::F32(planes) = &block.data else { other_type(block) };
        planes.plane(&block.shape, layer, kv_head)
    }
}

impl Elem for f16 {
    fn from_f32(x: f32) -> Self {
        // An infinity would turn masked products of later positions, 0 · ∞, into NaN.
        f16::from_f32(x.clamp(-65504.0, 65504.0))
    }

    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    fn plane(block: &KvBlock, layer: usize, kv_head: usize) -> (&[Self], &[Self]) {
        let Data::F16(planes) = &block.data else { other_type(block) };
        planes.plane(&block.shape, layer, kv_head)
    }
}

/// Keys and values as floats of one type: K `[plane][dim][64]`, V `[plane][64][v_stride]`, plane = (layer, kv head).
#[derive(Clone)]
struct Planes<E> {
    k: Buffer<E>,
    v: Buffer<E>,
}

impl<E: Elem> Planes<E> {
    fn try_new(shape: &KvShape) -> Result<Self, TryReserveError> {
        let planes = shape.layers.saturating_mul(shape.kv_heads).saturating_mul(BLOCK);
        let v = Buffer::try_zeros(planes.saturating_mul(shape.v_stride()))?;
        Ok(Self { k: Buffer::try_zeros(planes.saturating_mul(shape.dim))?, v })
    }

    /// The key panel `[dim][64]` and the value rows `[64][v_stride]` of one plane.
    fn plane(&self, shape: &KvShape, layer: usize, kv_head: usize) -> (&[E], &[E]) {
        let plane = shape.plane(layer, kv_head);
        let (k, v) = (shape.dim * BLOCK, shape.v_stride() * BLOCK);
        (&self.k[plane * k..][..k], &self.v[plane * v..][..v])
    }
}

#[derive(Clone)]
enum Data {
    F32(Planes<f32>),
    F16(Planes<f16>),
}

/// 64 positions of all layers and key/value heads.
#[derive(Clone)]
pub struct KvBlock {
    shape: KvShape,
    data: Data,
}

impl KvBlock {
    /// A block of zeros.
    ///
    /// # Errors
    /// When the memory is not to be had.
    pub fn try_new(shape: KvShape) -> Result<Self, TryReserveError> {
        let data = match shape.ty {
            KvType::F32 => Data::F32(Planes::try_new(&shape)?),
            KvType::F16 => Data::F16(Planes::try_new(&shape)?),
        };
        Ok(Self { shape, data })
    }

    /// What the block holds.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// The stored key and value at position `at` (in the block) of one head, `[dim]` each: for tests and tools.
    pub fn read(&self, layer: usize, kv_head: usize, at: usize, key: &mut [f32], value: &mut [f32]) {
        fn copy<E: Elem>(
            planes: &Planes<E>,
            shape: &KvShape,
            place: [usize; 3],
            key: &mut [f32],
            value: &mut [f32],
        ) {
            let [layer, kv_head, at] = place;
            let (k, v) = planes.plane(shape, layer, kv_head);
            for d in 0..shape.dim {
                key[d] = k[d * BLOCK + at].to_f32();
                value[d] = v[at * shape.v_stride() + d].to_f32();
            }
        }
        assert!(
            at < BLOCK && key.len() == self.shape.dim && value.len() == self.shape.dim,
            "key and value [dim]"
        );
        match &self.data {
            Data::F32(planes) => copy(planes, &self.shape, [layer, kv_head, at], key, value),
            Data::F16(planes) => copy(planes, &self.shape, [layer, kv_head, at], key, value),
        }
    }

    /// Writes rows of keys and values at positions `at ..` of the block; `k` and `v` are `[n][kv_heads·dim]`.
    fn write(&mut self, layer: usize, at: usize, k: &[f32], v: &[f32]) {
        let shape = self.shape;
        match &mut self.data {
            Data::F32(planes) => planes.write(&shape, layer, at, k, v),
            Data::F16(planes) => planes.write(&shape, layer, at, k, v),
        }
    }
}

impl<E: Elem> Planes<E> {
    fn write(&mut self, shape: &KvShape, layer: usize, at: usize, k: &[f32], v: &[f32]) {
        let (dim, stride) = (shape.dim, shape.v_stride());
        let width = shape.kv_heads * dim;
        for head in 0..shape.kv_heads {
            let plane = shape.plane(layer, head);
            let panel = &mut self.k[plane * dim * BLOCK..][..dim * BLOCK];
            let rows = &mut self.v[plane * stride * BLOCK..][..stride * BLOCK];
            for (i, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
                let (k, v) = (&k[head * dim..][..dim], &v[head * dim..][..dim]);
                for (column, &x) in panel.chunks_exact_mut(BLOCK).zip(k) {
                    column[at + i] = E::from_f32(x);
                }
                for (y, &x) in rows[(at + i) * stride..][..dim].iter_mut().zip(v) {
                    *y = E::from_f32(x);
                }
            }
        }
    }
}

/// Writes the keys and values of positions `pos0 ..` of one layer, `k` and `v` of shape `[n][kv_heads·dim]`, into
/// the blocks of a cache; `blocks[0]` holds position 0. A block that is shared is copied first.
///
/// # Panics
/// If the shapes do not fit, or `blocks` do not reach the last position.
pub fn store(team: &Team, blocks: &mut [Arc<KvBlock>], layer: usize, pos0: usize, k: &[f32], v: &[f32]) {
    let _ = team;
    let Some(first) = blocks.first() else {
        assert!(k.is_empty() && v.is_empty(), "no cache block to store in");
        return;
    };
    let width = first.shape.kv_heads * first.shape.dim;
    assert!(k.len() == v.len() && k.len().is_multiple_of(width), "keys and values [n][{width}]");
    let n = k.len() / width;
    assert!(pos0 + n <= blocks.len() * BLOCK, "positions {pos0} + {n} in {} blocks", blocks.len());
    let mut done = 0;
    while done < n {
        let (block, at) = ((pos0 + done) / BLOCK, (pos0 + done) % BLOCK);
        let rows = done * width..(done + (BLOCK - at).min(n - done)) * width;
        done = rows.end / width;
        Arc::make_mut(&mut blocks[block]).write(layer, at, &k[rows.clone()], &v[rows]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::testing::Random;

    fn cache(shape: KvShape, blocks: usize) -> Vec<Arc<KvBlock>> {
        (0..blocks).map(|_| Arc::new(KvBlock::try_new(shape).unwrap())).collect()
    }

    fn read(blocks: &[Arc<KvBlock>], layer: usize, kv_head: usize, pos: usize) -> (Vec<f32>, Vec<f32>) {
        let dim = blocks[0].shape.dim;
        let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
        blocks[pos / BLOCK].read(layer, kv_head, pos % BLOCK, &mut key, &mut value);
        (key, value)
    }

    #[test]
    fn what_is_stored_is_read_back_and_nothing_else_changes() {
        for threads in [1, 3] {
            for ty in [KvType::F32, KvType::F16] {
                let (kv_heads, dim, n, pos0) = (3, 50, 150, 30);
                let shape = KvShape { ty, layers: 2, kv_heads, dim };
                let team = Team::new(threads, Isa::best()).unwrap();
                let mut blocks = cache(shape, 4);
                let width = kv_heads * dim;
                let mut random = Random::new(7);
                let (k, v) = (random.normals(n * width, 1.0), random.normals(n * width, 1.0));
                store(&team, &mut blocks, 1, pos0, &k, &v);
                let rounded = |x: &[f32]| -> Vec<f32> {
                    x.iter().map(|&x| if ty == KvType::F16 { f16::from_f32(x).to_f32() } else { x }).collect()
                };
                for pos in 0..4 * BLOCK {
                    for head in 0..kv_heads {
                        assert_eq!(read(&blocks, 0, head, pos), (vec![0.0; dim], vec![0.0; dim]));
                        let want = match pos.checked_sub(pos0).filter(|&at| at < n) {
                            Some(at) => {
                                let range = at * width + head * dim..at * width + (head + 1) * dim;
                                (rounded(&k[range.clone()]), rounded(&v[range]))
                            }
                            None => (vec![0.0; dim], vec![0.0; dim]),
                        };
                        assert_eq!(read(&blocks, 1, head, pos), want, "{ty} head {head} position {pos}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_shared_block_is_copied_before_it_is_written() {
        let shape = KvShape { ty: KvType::F16, layers: 1, kv_heads: 1, dim: 2 };
        let team = Team::new(1, Isa::best()).unwrap();
        let mut ours = cache(shape, 2);
        store(&team, &mut ours, 0, 0, &[1.0; 4], &[2.0; 4]);
        let theirs = ours.clone();
        store(&team, &mut ours, 0, 1, &[3.0; 2], &[4.0; 2]);
        assert_eq!(read(&theirs, 0, 0, 1), (vec![1.0; 2], vec![2.0; 2]));
        assert_eq!(read(&ours, 0, 0, 0), (vec![1.0; 2], vec![2.0; 2]));
        assert_eq!(read(&ours, 0, 0, 1), (vec![3.0; 2], vec![4.0; 2]));
        assert!(Arc::ptr_eq(&ours[1], &theirs[1]), "untouched blocks stay shared");
    }

    #[test]
    fn infinities_are_stored_as_the_largest_number() {
        let shape = KvShape { ty: KvType::F16, layers: 1, kv_heads: 1, dim: 2 };
        let team = Team::new(1, Isa::best()).unwrap();
        let mut blocks = cache(shape, 1);
        store(&team, &mut blocks, 0, 0, &[1e9, f32::NEG_INFINITY], &[65519.0, 65520.0]);
        assert_eq!(read(&blocks, 0, 0, 0), (vec![65504.0, -65504.0], vec![65504.0, 65504.0]));
    }

    #[test]
    fn sizes_are_known_and_bounded() {
        let shape = KvShape { ty: KvType::F16, layers: 32, kv_heads: 32, dim: 128 };
        assert_eq!(shape.block_bytes(), Some(64 * 32 * 4096 * 2 * 2));
        let huge = KvShape { layers: usize::MAX / 2, ..shape };
        assert_eq!(huge.block_bytes(), None);
        assert!(KvBlock::try_new(huge).is_err());
        for &ty in KvType::ALL {
            assert_eq!(KvType::from_name(&ty.to_string().to_uppercase()), Some(ty));
        }
    }

    #[test]
    #[should_panic(expected = "positions 100 + 30 in 2 blocks")]
    fn storing_beyond_the_cache_is_refused() {
        let shape = KvShape { ty: KvType::F16, layers: 1, kv_heads: 1, dim: 2 };
        let team = Team::new(1, Isa::best()).unwrap();
        store(&team, &mut cache(shape, 2), 0, 100, &[0.0; 60], &[0.0; 60]);
    }
}
