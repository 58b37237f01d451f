//! Blocks of the key/value cache.
//!
//! A [`KvBlock`] holds 64 positions of every layer and key/value head. Blocks are meant to sit in `Arc`s: sessions
//! that share a prefix share its blocks, and [`store`] copies a block only when it writes to a shared one.
//!
//! Inside a block each layer and head has a cell. Its keys are transposed, `[dim][64]`: the scores of 64 positions
//! are 64 lanes that never need a horizontal sum. Its values are `[64][dim]`, rows padded to 16 values: their weighted
//! sum has the dimensions as lanes. Numbers of 8 bits share a scale along 32 dimensions of a key or value; the
//! scales of a cell stand apart, `[groups of dimensions][64]`, so that those of 64 positions are lanes, too.
mod elem;
mod store;

pub(crate) use elem::{Cell, Elem};
pub use store::store;

use crate::buffer::{Buffer, NoMemory};
use half::f16;

/// Positions in one block.
pub const BLOCK: usize = 64;

/// Dimensions that share a scale where numbers have one, as in the format Q8_0.
pub(crate) const SCALED: usize = 32;

/// Names how the bytes of a block are arranged and what they stand for, for caches on disk: it changes with whatever
/// would be read differently. Since 2, keys in bytes are transformed ([`hadamard`](crate::hadamard)).
pub const LAYOUT: &str = if cfg!(target_endian = "little") { "2-le" } else { "2-be" };

/// What the cache stores a number as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// 32-bit floats: exact, twice the memory.
    F32,
    /// 16-bit floats, rounded to nearest even; values beyond ±65504 become ±65504.
    F16,
    /// 8-bit integers with one f16 scale per 32 dimensions: the largest becomes ±127.
    Q8_0,
}

impl KvType {
    /// Every type.
    pub const ALL: &'static [KvType] = &[KvType::F32, KvType::F16, KvType::Q8_0];

    /// Lower-case name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }

    /// The type of this name (case is ignored).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a value, its scale not counted.
    const fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
            KvType::Q8_0 => 1,
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
        let Some(cells) = self.layers.checked_mul(self.kv_heads) else { return None };
        let Some(values) = cells.checked_mul(self.cell()) else { return None };
        let Some(values) = values.checked_mul(self.ty.bytes()) else { return None };
        let Some(scales) = cells.checked_mul(2 * self.scales() * size_of::<f16>()) else { return None };
        values.checked_add(scales)
    }

    /// Values between two rows of V.
    pub(crate) const fn v_stride(&self) -> usize {
        self.dim.saturating_add(15) / 16 * 16
    }

    /// Values of the keys and values of one layer and head.
    const fn cell(&self) -> usize {
        self.dim.saturating_add(self.v_stride()).saturating_mul(BLOCK)
    }

    /// Scales of the keys, and of the values, of one layer and head.
    const fn scales(&self) -> usize {
        match self.ty {
            KvType::F32 | KvType::F16 => 0,
            KvType::Q8_0 => self.dim.div_ceil(SCALED).saturating_mul(BLOCK),
        }
    }

    /// Which cell.
    fn index(&self, layer: usize, kv_head: usize) -> usize {
        assert!(
            layer < self.layers && kv_head < self.kv_heads,
            "layer {layer}, kv head {kv_head} of {self:?}"
        );
        layer * self.kv_heads + kv_head
    }
}

#[cold]
fn other_type(ty: KvType) -> ! {
    panic!("the cache block stores {ty}")
}

/// Keys and values as numbers of one type: `[layer][kv head]` cells of a key panel `[dim][64]` and, right behind it,
/// value rows `[64][v_stride]`. Decoding reads the cells of neighbouring heads one after the other, and long runs are
/// what memory is fast at.
pub(crate) type Cells<E> = Buffer<E>;

/// The numbers of a block.
#[derive(Clone)]
pub(crate) enum Data {
    F32(Cells<f32>),
    F16(Cells<f16>),
    Q8_0(Cells<i8>),
}

impl Data {
    fn ty(&self) -> KvType {
        match self {
            Data::F32(_) => KvType::F32,
            Data::F16(_) => KvType::F16,
            Data::Q8_0(_) => KvType::Q8_0,
        }
    }
}

/// 64 positions of all layers and key/value heads.
#[derive(Clone)]
pub struct KvBlock {
    shape: KvShape,
    data: Data,
    /// `[layer][kv head][keys, values][groups][64]`, empty for floats.
    scales: Buffer<f16>,
}

impl KvBlock {
    /// A block of zeros.
    ///
    /// # Errors
    /// When the memory is not to be had.
    pub fn try_new(shape: KvShape) -> Result<Self, NoMemory> {
        let len = shape.layers.saturating_mul(shape.kv_heads).saturating_mul(shape.cell());
        let data = match shape.ty {
            KvType::F32 => Data::F32(Buffer::try_zeros(len)?),
            KvType::F16 => Data::F16(Buffer::try_zeros(len)?),
            KvType::Q8_0 => Data::Q8_0(Buffer::try_zeros(len)?),
        };
        let scales = shape.layers.saturating_mul(shape.kv_heads).saturating_mul(2 * shape.scales());
        Ok(Self { shape, data, scales: Buffer::try_zeros(scales)? })
    }

    /// What the block holds.
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// All numbers as bytes, then all scales, arranged as [`LAYOUT`] says: what a saved cache consists of.
    pub fn bytes(&self) -> [&[u8]; 2] {
        let numbers = match &self.data {
            Data::F32(cells) => cells.bytes(),
            Data::F16(cells) => cells.bytes(),
            Data::Q8_0(cells) => cells.bytes(),
        };
        [numbers, self.scales.bytes()]
    }

    /// Likewise, to be filled with what [`KvBlock::bytes`] of another block of this shape gave. Any other bytes are
    /// some numbers, too, perhaps not finite ones.
    pub fn bytes_mut(&mut self) -> [&mut [u8]; 2] {
        let numbers = match &mut self.data {
            Data::F32(cells) => cells.bytes_mut(),
            Data::F16(cells) => cells.bytes_mut(),
            Data::Q8_0(cells) => cells.bytes_mut(),
        };
        [numbers, self.scales.bytes_mut()]
    }

    /// The stored key and value at position `at` (in the block) of one head, `[dim]` each: for tests and tools.
    pub fn read(&self, layer: usize, kv_head: usize, at: usize, key: &mut [f32], value: &mut [f32]) {
        fn copy<E: Elem>(block: &KvBlock, place: [usize; 3], key: &mut [f32], value: &mut [f32]) {
            let [layer, kv_head, at] = place;
            let cell = E::cell(block, layer, kv_head);
            let scale =
                |scales: &[f16], d: usize| scales.get(d / SCALED * BLOCK + at).map_or(1.0, |d| d.to_f32());
            for d in 0..block.shape.dim {
                key[d] = cell.k[d * BLOCK + at].to_f32() * scale(cell.k_scales, d);
                value[d] = cell.v[at * block.shape.v_stride() + d].to_f32() * scale(cell.v_scales, d);
            }
        }
        assert!(
            at < BLOCK && key.len() == self.shape.dim && value.len() == self.shape.dim,
            "key and value [dim]"
        );
        match self.shape.ty {
            KvType::F32 => copy::<f32>(self, [layer, kv_head, at], key, value),
            KvType::F16 => copy::<f16>(self, [layer, kv_head, at], key, value),
            KvType::Q8_0 => copy::<i8>(self, [layer, kv_head, at], key, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::team::Team;
    use crate::testing::Random;
    use std::sync::Arc;

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

    /// Every value is the nearest multiple of its group's scale, which is that of Q8_0, also in the last group that is
    /// not whole; other positions stay as they are.
    #[test]
    fn eight_bits_share_a_scale_by_32_dimensions() {
        let (kv_heads, dim, n, pos0) = (2, 80, 70, 60);
        let shape = KvShape { ty: KvType::Q8_0, layers: 2, kv_heads, dim };
        let width = kv_heads * dim;
        let mut random = Random::new(9);
        let (mut k, v) = (random.normals(n * width, 3.0), random.normals(n * width, 0.01));
        k[..32].fill(0.0);
        for isa in Isa::available() {
            for threads in [1, 3] {
                let mut blocks = cache(shape, 3);
                store(&Team::new(threads, isa).unwrap(), &mut blocks, 1, pos0, &k, &v);
                let check = |stored: &[f32], x: &[f32]| {
                    for (stored, x) in stored.chunks(SCALED).zip(x.chunks(SCALED)) {
                        let largest = x.iter().fold(0f32, |max, x| max.max(x.abs()));
                        let d = f16::from_f32(largest / 127.0).to_f32();
                        for (stored, x) in stored.iter().zip(x) {
                            assert!(
                                (stored - x).abs() <= d * 0.5001 + largest / 2048.0,
                                "{isa}: {stored} for {x}"
                            );
                            let q = if d == 0.0 { 0.0 } else { stored / d };
                            assert!(
                                (q - q.round()).abs() < 1e-3 && q.abs() < 127.01,
                                "{isa}: {stored} of {d}"
                            );
                        }
                    }
                };
                for pos in 0..3 * BLOCK {
                    for head in 0..kv_heads {
                        let zeros = (vec![0.0; dim], vec![0.0; dim]);
                        assert_eq!(read(&blocks, 0, head, pos), zeros);
                        let (key, value) = read(&blocks, 1, head, pos);
                        match pos.checked_sub(pos0).filter(|&at| at < n) {
                            Some(at) => {
                                let range = at * width + head * dim..at * width + (head + 1) * dim;
                                check(&key, &k[range.clone()]);
                                check(&value, &v[range]);
                            }
                            None => assert_eq!((key, value), zeros),
                        }
                    }
                }
            }
        }
        assert_eq!(
            cache(shape, 1)[0].bytes().map(<[u8]>::len).iter().sum::<usize>(),
            shape.block_bytes().unwrap()
        );
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
