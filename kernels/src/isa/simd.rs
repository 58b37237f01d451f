//! The small operations that kernels are written in: 16 f32 lanes, 32 bytes with four f32 lanes, integer
//! dot products, and panels of many rows.
//!
//! Vectors have the same logical width on every instruction set (a token may hold several registers
//! for one), so an algorithm is written once and its summation order is the same everywhere. Float
//! results are equal bit by bit between the instruction sets that have a fused multiply-add (all but
//! [`Portable`](super::Isa)); integer results are always equal.
use super::Isa;
use half::f16;

/// A kernel that runs on any instruction set. Mark `call` `#[inline(always)]`.
pub trait Op {
    /// What the kernel returns.
    type Output;

    /// Runs the kernel with the operations of `simd`.
    fn call<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set. A value of the type proves that this machine has it.
pub trait Simd: Dots + Panel + Words + Send + Sync + 'static {
    /// The run-time name of this instruction set.
    const ISA: Isa;

    /// Runs `op` compiled for this instruction set.
    fn run<O: Op>(self, op: O) -> O::Output;
}

/// Operations on vectors of 16 f32 lanes.
pub trait Floats: Copy {
    /// 16 f32 lanes.
    type F: Copy;

    /// How many of these vectors a kernel can accumulate into without spilling registers; two more and one
    /// broadcast value stay free. 6 suits 16 registers of 8 lanes and 32 of 4.
    const ACCUMULATORS: usize = 6;

    /// The registers of a vector, where kernels that need them all should work on one after the other.
    const PARTS: usize = 1;

    /// a · b + c in the lanes of part `part` of [`Floats::PARTS`], as [`Floats::fma`]; the others are those of c.
    #[inline(always)]
    fn fma_part(self, _part: usize, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.fma(a, b, c)
    }
    /// Keeps the compiler from reading memory for what follows before what precedes is done.
    #[inline(always)]
    fn in_turn(self) {}

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// Lane i = `x[i]`.
    fn load(self, x: &[f32; 16]) -> Self::F;
    /// Lane i = `x[i]`, zero beyond the end of `x`; at most 16 values are read.
    fn load_part(self, x: &[f32]) -> Self::F;
    /// Lane i = the i-th little-endian f32.
    fn load_le(self, x: &[u8; 64]) -> Self::F;
    /// Lane i = the i-th little-endian f16.
    fn load_f16_le(self, x: &[u8; 32]) -> Self::F;
    /// Lane i = the i-th little-endian bf16.
    fn load_bf16_le(self, x: &[u8; 32]) -> Self::F;
    /// Lane i = `x[i]`.
    fn load_f16(self, x: &[f16; 16]) -> Self::F;
    /// Lane i = `x[i]`.
    fn load_i8(self, x: &[i8; 16]) -> Self::F;
    /// `out[i]` = lane i.
    fn store(self, v: Self::F, out: &mut [f32; 16]);
    /// `out[i]` = lane i, for as many as `out` holds (at most 16).
    fn store_part(self, v: Self::F, out: &mut [f32]);
    /// `out[i]` = lane i rounded to f16, to nearest even.
    fn store_f16(self, v: Self::F, out: &mut [f16; 16]);
    /// Lane i rounded to the nearest integer (ties to even), as i8; lanes must lie in -127..=127.
    fn store_i8(self, v: Self::F, out: &mut [i8; 16]);

    /// a + b
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a − b
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a · b + c, rounded once where the instruction set can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger of a and b (unspecified for NaN).
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller of a and b (unspecified for NaN).
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// |a|
    fn abs(self, a: Self::F) -> Self::F;
    /// The nearest integer, ties to even; |a| < 2³¹.
    fn round(self, a: Self::F) -> Self::F;
    /// 2ⁿ for integral lanes n in −126..=127.
    fn pow2(self, n: Self::F) -> Self::F;
    /// Where a < b the lane of x, else that of y (NaN compares as not less).
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// Sum of the lanes in the fixed tree order: lanes i and i+8, then i+4, i+2, i+1.
    fn sum(self, a: Self::F) -> f32;
    /// The largest lane (unspecified with NaN).
    fn max_lane(self, a: Self::F) -> f32;
}

/// Operations on vectors of 32 bytes and of four f32 lanes, which unpack the block formats.
pub trait Bytes: Floats {
    /// 32 bytes.
    type B: Copy;
    /// Four f32 lanes.
    type F4: Copy;

    /// All bytes `x`.
    fn b_splat(self, x: u8) -> Self::B;
    /// Bytes 0..16 are `lo`, 16..32 are `hi`.
    fn b_pair(self, lo: u8, hi: u8) -> Self::B;
    /// Loads 32 bytes.
    fn b_load(self, x: &[u8; 32]) -> Self::B;
    /// Bytes 0..8 are those of `lo`, bytes 16..24 those of `hi`, little-endian; the others are zero.
    #[inline(always)]
    fn b_words(self, lo: u64, hi: u64) -> Self::B {
        let mut x = [0; 32];
        x[..8].copy_from_slice(&lo.to_le_bytes());
        x[16..24].copy_from_slice(&hi.to_le_bytes());
        self.b_load(&x)
    }
    /// Loads 16 bytes into both halves.
    fn b_load_twice(self, x: &[u8; 16]) -> Self::B;
    /// Low nibbles of the 16 bytes, then their high nibbles.
    fn b_nibbles(self, x: &[u8; 16]) -> Self::B;
    /// Byte i is `value` when bit i of `bits` is set, else 0.
    fn b_bits(self, bits: u32, value: u8) -> Self::B;
    /// Stores 32 bytes.
    fn b_store(self, v: Self::B, out: &mut [u8; 32]);
    /// a & b
    fn b_and(self, a: Self::B, b: Self::B) -> Self::B;
    /// a | b
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B;
    /// a ^ b
    fn b_xor(self, a: Self::B, b: Self::B) -> Self::B;
    /// a + b modulo 256
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B;
    /// a − b modulo 256
    fn b_sub(self, a: Self::B, b: Self::B) -> Self::B;
    /// Each byte shifted right by `N` < 8, zeros enter.
    fn b_shr<const N: u32>(self, a: Self::B) -> Self::B;
    /// Each byte shifted left by `N` < 8, zeros enter.
    fn b_shl<const N: u32>(self, a: Self::B) -> Self::B;
    /// Byte i = `table[index[i]]` in its own half: bytes 0..16 of `index` look into bytes 0..16 of
    /// `table`, the others into 16..32. Indices must be below 16.
    fn b_lut(self, table: Self::B, index: Self::B) -> Self::B;

    /// Transposes 8 × 8 dwords: dword j of result i is dword i of `rows[j]`.
    fn b_transpose(self, rows: [&[u8; 32]; 8]) -> [Self::B; 8];

    /// All lanes `x`.
    fn f4_splat(self, x: f32) -> Self::F4;
    /// Lane i = `x[i]`.
    fn f4_load(self, x: &[f32; 4]) -> Self::F4;
    /// Lane i = the little-endian f16 `x[i]`.
    fn f4_f16(self, x: [[u8; 2]; 4]) -> Self::F4;
    /// All lanes the little-endian f16 `x`.
    #[inline(always)]
    fn f4_f16_splat(self, x: [u8; 2]) -> Self::F4 {
        self.f4_f16([x; 4])
    }
    /// Lane i = `x[i]`, exact for |x| < 2²⁴.
    fn f4_i32(self, x: [i32; 4]) -> Self::F4;
    /// Lane i = `x[i]`.
    #[inline(always)]
    fn f4_u8(self, x: [u8; 4]) -> Self::F4 {
        self.f4_i32(x.map(i32::from))
    }
    /// Lane i = `x[i]`.
    #[inline(always)]
    fn f4_i8(self, x: [i8; 4]) -> Self::F4 {
        self.f4_i32(x.map(i32::from))
    }
    /// The bytes of the lanes of `a`, then of `b`.
    fn b_floats(self, a: Self::F4, b: Self::F4) -> Self::B;
    /// The four lanes.
    fn f4_array(self, a: Self::F4) -> [f32; 4];
    /// a · b
    fn f4_mul(self, a: Self::F4, b: Self::F4) -> Self::F4;
    /// a · b + c, rounded once where the instruction set can.
    fn f4_fma(self, a: Self::F4, b: Self::F4, c: Self::F4) -> Self::F4;
    /// (lane 0 + lane 1) + (lane 2 + lane 3): the order that ends every quantised product.
    #[inline(always)]
    fn f4_sum(self, a: Self::F4) -> f32 {
        let [a, b, c, d] = self.f4_array(a);
        (a + b) + (c + d)
    }
}

/// Integer dot products of unsigned weights with signed activations.
pub trait Dots: Bytes {
    /// Four i32 lanes, one per block of a group of 128 values.
    type I4: Copy;

    /// Weights up to this value are multiplied as they are. Of larger ones the dot operations
    /// subtract [`WIDE_OFFSET`], by working on the byte with its top bit flipped as a signed one;
    /// the caller makes up for it in the initial value. See [`Dots::offset`].
    const NARROW_MAX: u8;

    /// What dot products subtract from every weight of a format with values up to `max`.
    #[inline(always)]
    fn offset(self, max: u8) -> i32 {
        if max > Self::NARROW_MAX { WIDE_OFFSET } else { 0 }
    }

    /// Dot products of four blocks of 32: lane b of result h is the exact sum over the 16 values of
    /// half h of block b of (weight − `offset(max)`) · activation. Weights must not exceed `max`.
    fn dots(self, max: u8, q: [Self::B; 4], a: &[i8; 128]) -> [Self::I4; 2];
    /// Lane i = `x[i]`.
    fn i4_load(self, x: &[i32; 4]) -> Self::I4;
    /// a + b
    fn i4_add(self, a: Self::I4, b: Self::I4) -> Self::I4;
    /// Lanes as f32, rounded to nearest even.
    fn i4_float(self, a: Self::I4) -> Self::F4;
    /// The four lanes.
    fn i4_array(self, a: Self::I4) -> [i32; 4];
}

/// Exact sums of products of bytes with words, two at a time.
pub trait Words: Floats {
    /// 16 pairs of words.
    type W: Copy;
    /// 16 i32 lanes.
    type I: Copy;

    /// Pair i = `a[i]`, `b[i]`.
    fn w_pairs(self, a: &[i8; 16], b: &[i8; 16]) -> Self::W;
    /// All lanes 0.
    fn i_zero(self) -> Self::I;
    /// Lane i = lane i of `acc` + pair i · the two words of `x`, in the order in which memory has them.
    fn w_dot(self, acc: Self::I, w: Self::W, x: i32) -> Self::I;
    /// Lanes as f32, rounded to nearest even.
    fn i_float(self, a: Self::I) -> Self::F;
    /// Lane i rounded to the nearest integer (ties to even), as i16; lanes must lie in -32767..=32767.
    fn store_i16(self, v: Self::F, out: &mut [i16; 16]);
}

/// Half of the range of a byte: see [`Dots::NARROW_MAX`].
pub const WIDE_OFFSET: i32 = 128;

/// Products of a panel of [`Panel::ROWS`] weight rows with up to [`Panel::TOKENS`] tokens; a lane is a row.
pub trait Panel: Dots {
    /// One i32 per row.
    type P: Copy;
    /// One f32 per row.
    type PF: Copy;
    /// Rows of a panel, a multiple of 8.
    const ROWS: usize;
    /// Most tokens whose accumulators fit into the registers, at most 8.
    const TOKENS: usize;

    /// Which forms of [`Panel::p_dots`] there are.
    const LEVELS: Levels;

    /// Whether tiles are faster when their activations are asked for ahead.
    const PREFETCH: bool = false;

    /// `acc[t][r]` + Σ weight · activation over 4 · `steps` values, exactly. `LEVEL` is `LEVELS.of(max)`; at level 0
    /// weights are signed, less [`WIDE_OFFSET`]. `steps` is 4 or 8.
    ///
    /// # Safety
    /// `w` points to `[steps][ROWS][4]` weights, aligned to 64 bytes, none above `max`; `a` to
    /// `[steps][T]` words of four i8 activations each, none of them −128.
    unsafe fn p_dots<const T: usize, const LEVEL: usize>(
        self,
        acc: [Self::P; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
    ) -> [Self::P; T];
    /// `acc[t][r]` + scale\[r\] · (Σ weight · activation over 4 · `steps` values + both words of `start[t]`), where
    /// [`Panel::LEVELS`] is [`Levels::In16`]. The first and the last two of four values are added up apart from each
    /// other, in 16 bits, from the lower and the upper word of `start` on; what they end at must fit these bits, what is
    /// on the way need not. Without `scales` they are 1.
    ///
    /// # Safety
    /// `w` and `a` as for [`Panel::p_dots`], with weights of at most 128; `scales` points to `[ROWS]` dwords, aligned to
    /// 32 bytes, both words of which are the scale.
    unsafe fn p_words<const T: usize>(
        self,
        _acc: [Self::P; T],
        _start: [i32; T],
        _w: *const u8,
        _a: *const i32,
        _steps: usize,
        _scales: Option<*const i32>,
    ) -> [Self::P; T] {
        unreachable!("{:?} has no sums of 16 bits", Self::LEVELS)
    }
    /// Whether [`Panel::p_pairs`] takes less time than [`Panel::p_dots`] at level 0. Only where [`Panel::LEVELS`] is
    /// [`Levels::In16`].
    #[inline(always)]
    fn prefers_pairs(self) -> bool {
        false
    }
    /// Stores eight rows of 32 signed weights, whose `columns` hold four values of k for each row, as
    /// [`Panel::p_pairs`] reads them: as rows `set..set + 8` of `out`, which is `[17][ROWS]` dwords.
    fn p_store_pairs(self, _columns: [Self::B; 8], _set: usize, _out: &mut [u8]) {
        unreachable!("{:?} has no products of pairs", Self::LEVELS)
    }
    /// Σ weight · activation over 32 values, exactly, with half the multiplications, as S. Winograd found ("A New
    /// Algorithm for Inner Product", 1968): w₀·a₀ + w₁·a₁ = (w₀ + a₁) · (w₁ + a₀) − w₀·w₁ − a₀·a₁, where what is
    /// subtracted is known of a row and of a token.
    ///
    /// # Safety
    /// `w` points to `[8][2][ROWS]` dwords, of four weights w the words w₀ and w₂, then w₁ and w₃; then to `[ROWS]` dwords
    /// −Σ w₀·w₁ + w₂·w₃; aligned to 32 bytes. `a` points to `[8][2][T]` dwords, of four activations a first a₁ and a₃, then
    /// a₀ and a₂; then to `[T]` dwords −Σ a₀·a₁ + a₂·a₃. All are from −128 to 127.
    unsafe fn p_pairs<const T: usize>(self, _w: *const u8, _a: *const i32) -> [Self::P; T] {
        unreachable!("{:?} has no products of pairs", Self::LEVELS)
    }
    /// All lanes `x`.
    fn p_splat(self, x: i32) -> Self::P;
    /// Lanes as f32, rounded to nearest even.
    fn p_float(self, a: Self::P) -> Self::PF;
    /// All lanes `x`.
    fn pf_splat(self, x: f32) -> Self::PF;
    /// a + b
    fn pf_add(self, a: Self::PF, b: Self::PF) -> Self::PF;
    /// a · b
    fn pf_mul(self, a: Self::PF, b: Self::PF) -> Self::PF;
    /// a · b + c, rounded once where the instruction set can.
    fn pf_fma(self, a: Self::PF, b: Self::PF, c: Self::PF) -> Self::PF;
    /// # Safety
    /// `x` points to `ROWS` values.
    unsafe fn pf_load(self, x: *const f32) -> Self::PF;
    /// # Safety
    /// `out` points to room for `ROWS` values.
    unsafe fn pf_store(self, a: Self::PF, out: *mut f32);
}

/// The dwords of eight rows of a panel from `first` on.
#[inline(always)]
pub fn eight_rows(out: &mut [u8], first: usize) -> &mut [u8; 32] {
    out[4 * first..].first_chunk_mut().expect("eight rows")
}

/// The forms of [`Panel::p_dots`], by the largest weight. A level is 0 for weights above
/// [`Dots::NARROW_MAX`], else how many products of two weights with two activations are added up in 16 bits
/// before the sum must be widened, at most 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// Products of bytes are added up in 32 bits: level 8 for all weights.
    All32,
    /// Likewise for weights up to 127; level 0 beyond.
    Signed32,
    /// Products of bytes are added up in 16 bits.
    In16,
    /// Signed products of bytes are added up in 16 bits one by one, not two together: a level counts those.
    Signed16,
}

impl Levels {
    /// The level of weights up to `max`: 0, 1, 2, 4 or 8.
    pub const fn of(self, max: u8) -> usize {
        // 2 · 8 · 16 · 127 < 2¹⁵, and so on.
        match (self, max) {
            (Levels::All32, _) | (Levels::Signed32, 0..=127) => 8,
            (Levels::In16, 0..=16) | (Levels::Signed16, 0..=32) => 8,
            (Levels::In16, 17..=32) | (Levels::Signed16, 33..=64) => 4,
            (Levels::In16, 33..=64) | (Levels::Signed16, 65..=127) => 2,
            (Levels::In16, 65..=128) => 1,
            _ => 0,
        }
    }
}
