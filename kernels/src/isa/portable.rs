//! The vectors that every processor of a family has, through `wide`: SSE2 on x86-64, NEON on aarch64.
//!
//! There is no other context to enter, so unlike those of other instruction sets these operations leave inlining to
//! the compiler.
use super::{Bytes, Dots, Floats, Isa, Levels, Op, Panel, Simd, Words, two};
use bytemuck::cast;
use half::{bf16, f16};
use std::array::from_fn;
use wide::{f32x4, i16x8, i32x4, u8x16, u16x8};

/// The baseline of the processor's family.
#[derive(Clone, Copy, Debug)]
pub struct Portable(());

impl Portable {
    /// The token; every machine has it.
    pub fn new() -> Option<Self> {
        Some(Self(()))
    }
}

impl Simd for Portable {
    const ISA: Isa = Isa::Portable;

    #[inline]
    fn run<O: Op>(self, op: O) -> O::Output {
        op.call(self)
    }
}

/// The value of an f16, in operations that a compiler makes vectors of.
#[inline]
fn f16_value(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    // The exponent's bias is 112 larger in f32; this makes subnormal numbers right as well.
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = if magnitude >= 0x7c00 << 13 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | u32::from(bits & 0x8000) << 16)
}

/// 16 lanes from a function of the lane's number.
#[inline]
fn lanes(f: impl Fn(usize) -> f32) -> [f32x4; 4] {
    from_fn(|i| f32x4::new(from_fn(|j| f(4 * i + j))))
}

/// Lane-wise function of two vectors of registers.
#[inline]
fn zip<T: Copy, const N: usize>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> T) -> [T; N] {
    from_fn(|i| f(a[i], b[i]))
}

/// A register of 16 bytes.
#[inline]
fn bytes(f: impl Fn(usize) -> u8) -> u8x16 {
    u8x16::new(from_fn(f))
}

impl Floats for Portable {
    type F = [f32x4; 4];

    // 16 registers of four lanes on x86-64.
    const ACCUMULATORS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };

    #[inline]
    fn splat(self, x: f32) -> Self::F {
        [f32x4::splat(x); 4]
    }
    #[inline]
    fn load(self, x: &[f32; 16]) -> Self::F {
        lanes(|i| x[i])
    }
    #[inline]
    fn load_part(self, x: &[f32]) -> Self::F {
        lanes(|i| x.get(i).copied().unwrap_or(0.0))
    }
    #[inline]
    fn load_le(self, x: &[u8; 64]) -> Self::F {
        lanes(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline]
    fn load_f16_le(self, x: &[u8; 32]) -> Self::F {
        lanes(|i| f16_value(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])))
    }
    #[inline]
    fn load_bf16_le(self, x: &[u8; 32]) -> Self::F {
        lanes(|i| bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline]
    fn load_f16(self, x: &[f16; 16]) -> Self::F {
        lanes(|i| f16_value(x[i].to_bits()))
    }
    #[inline]
    fn load_i8(self, x: &[i8; 16]) -> Self::F {
        lanes(|i| f32::from(x[i]))
    }
    #[inline]
    fn store(self, v: Self::F, out: &mut [f32; 16]) {
        *out = cast(v);
    }
    #[inline]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        for (o, v) in out.iter_mut().zip(cast::<_, [f32; 16]>(v)) {
            *o = v;
        }
    }
    #[inline]
    fn store_f16(self, v: Self::F, out: &mut [f16; 16]) {
        *out = cast::<_, [f32; 16]>(v).map(f16::from_f32);
    }
    #[inline]
    fn store_i8(self, v: Self::F, out: &mut [i8; 16]) {
        let words: [i32; 16] = cast(v.map(f32x4::fast_round_int));
        *out = words.map(|x| x as i8);
    }
    #[inline]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, f32x4::fast_max)
    }
    #[inline]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, f32x4::fast_min)
    }
    #[inline]
    fn abs(self, a: Self::F) -> Self::F {
        a.map(f32x4::abs)
    }
    #[inline]
    fn round(self, a: Self::F) -> Self::F {
        // Without SSE4.1 the rounding goes through integers, which have no negative zero.
        a.map(|a| a.round_ties_even() | (a & f32x4::splat(-0.0)))
    }
    #[inline]
    fn pow2(self, n: Self::F) -> Self::F {
        n.map(|n| cast((n.fast_round_int() + i32x4::splat(127)) << 23))
    }
    #[inline]
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        from_fn(|i| a[i].simd_lt(b[i]).bitselect(x[i], y[i]))
    }
    #[inline]
    fn sum(self, a: Self::F) -> f32 {
        let [a, b, c, d] = ((a[0] + a[2]) + (a[1] + a[3])).to_array();
        (a + c) + (b + d)
    }
    #[inline]
    fn max_lane(self, a: Self::F) -> f32 {
        let quarters = a[0].fast_max(a[1]).fast_max(a[2].fast_max(a[3]));
        quarters.to_array().into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

impl Words for Portable {
    type W = [i16x8; 4];
    type I = [i32x4; 4];

    #[inline]
    fn w_pairs(self, a: &[i8; 16], b: &[i8; 16]) -> Self::W {
        from_fn(|i| {
            let word = |j: usize| i16::from([a, b][j % 2][4 * i + j / 2]);
            i16x8::new(from_fn(word))
        })
    }
    #[inline]
    fn i_zero(self) -> Self::I {
        [i32x4::splat(0); 4]
    }
    #[inline]
    fn w_dot(self, acc: Self::I, w: Self::W, x: i32) -> Self::I {
        let x: i16x8 = cast(i32x4::splat(x));
        from_fn(|i| acc[i] + w[i].dot(x))
    }
    #[inline]
    fn i_float(self, a: Self::I) -> Self::F {
        a.map(i32x4::round_float)
    }
    #[inline]
    fn store_i16(self, v: Self::F, out: &mut [i16; 16]) {
        let words: [i32; 16] = cast(v.map(f32x4::fast_round_int));
        *out = words.map(|x| x as i16);
    }
}

impl Bytes for Portable {
    type B = [u8x16; 2];
    type F4 = f32x4;

    #[inline]
    fn b_splat(self, x: u8) -> Self::B {
        [u8x16::splat(x); 2]
    }
    #[inline]
    fn b_pair(self, lo: u8, hi: u8) -> Self::B {
        [u8x16::splat(lo), u8x16::splat(hi)]
    }
    #[inline]
    fn b_load(self, x: &[u8; 32]) -> Self::B {
        cast(*x)
    }
    #[inline]
    fn b_load_twice(self, x: &[u8; 16]) -> Self::B {
        [u8x16::new(*x); 2]
    }
    #[inline]
    fn b_nibbles(self, x: &[u8; 16]) -> Self::B {
        let x = u8x16::new(*x);
        [x & u8x16::splat(15), x.unbounded_shr_scalar(4)]
    }
    #[inline]
    fn b_bits(self, bits: u32, value: u8) -> Self::B {
        two!(half => bytes(|i| if bits >> (16 * half + i) & 1 == 1 { value } else { 0 }))
    }
    #[inline]
    fn b_store(self, v: Self::B, out: &mut [u8; 32]) {
        *out = cast(v);
    }
    #[inline]
    fn b_and(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a & b)
    }
    #[inline]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a | b)
    }
    #[inline]
    fn b_xor(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline]
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a + b)
    }
    #[inline]
    fn b_sub(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a - b)
    }
    #[inline]
    fn b_shr<const N: u32>(self, a: Self::B) -> Self::B {
        a.map(|a| a.unbounded_shr_scalar(N))
    }
    #[inline]
    fn b_shl<const N: u32>(self, a: Self::B) -> Self::B {
        a.map(|a| a.unbounded_shl_scalar(N))
    }
    #[inline]
    fn b_lut(self, table: Self::B, index: Self::B) -> Self::B {
        zip(table, index, |table, index| table.shuffle(index))
    }
    #[inline]
    fn b_transpose(self, rows: [&[u8; 32]; 8]) -> [Self::B; 8] {
        let rows: [[u32; 8]; 8] = cast(rows.map(|row| *row));
        let columns: [[u32; 8]; 8] = from_fn(|i| from_fn(|j| rows[j][i]));
        cast(columns)
    }
    #[inline]
    fn f4_splat(self, x: f32) -> f32x4 {
        f32x4::splat(x)
    }
    #[inline]
    fn f4_load(self, x: &[f32; 4]) -> f32x4 {
        f32x4::new(*x)
    }
    #[inline]
    fn f4_f16(self, x: [[u8; 2]; 4]) -> f32x4 {
        f32x4::new(x.map(|x| f16_value(u16::from_le_bytes(x))))
    }
    #[inline]
    fn f4_i32(self, x: [i32; 4]) -> f32x4 {
        i32x4::new(x).round_float()
    }
    #[inline]
    fn b_floats(self, a: f32x4, b: f32x4) -> Self::B {
        cast([a, b])
    }
    #[inline]
    fn f4_array(self, a: f32x4) -> [f32; 4] {
        a.to_array()
    }
    #[inline]
    fn f4_mul(self, a: f32x4, b: f32x4) -> f32x4 {
        a * b
    }
    #[inline]
    fn f4_fma(self, a: f32x4, b: f32x4, c: f32x4) -> f32x4 {
        a.mul_add(b, c)
    }
}

/// The even and the odd of 16 unsigned bytes, as words.
#[inline]
fn unsigned_words(x: u8x16) -> [i16x8; 2] {
    let x: u16x8 = cast(x);
    [cast(x & u16x8::splat(0xff)), cast(x >> 8)]
}

/// The even and the odd of 16 signed bytes, as words.
#[inline]
fn signed_words(x: u8x16) -> [i16x8; 2] {
    let x: i16x8 = cast(x);
    [(x << 8) >> 8, x >> 8]
}

/// Sums of four neighbouring products.
#[inline]
fn dot4(w: [i16x8; 2], a: [i16x8; 2]) -> i32x4 {
    w[0].dot(a[0]) + w[1].dot(a[1])
}

impl Dots for Portable {
    type I4 = i32x4;

    // Bytes are multiplied as words.
    const NARROW_MAX: u8 = 255;

    #[inline]
    fn dots(self, _max: u8, q: [Self::B; 4], a: &[i8; 128]) -> [i32x4; 2] {
        let a: [[u8x16; 2]; 4] = cast(*a);
        two!(half => i32x4::new(from_fn(|block| {
            dot4(unsigned_words(q[block][half]), signed_words(a[block][half])).to_array().into_iter().sum()
        })))
    }
    #[inline]
    fn i4_load(self, x: &[i32; 4]) -> i32x4 {
        i32x4::new(*x)
    }
    #[inline]
    fn i4_add(self, a: i32x4, b: i32x4) -> i32x4 {
        a + b
    }
    #[inline]
    fn i4_float(self, a: i32x4) -> f32x4 {
        a.round_float()
    }
    #[inline]
    fn i4_array(self, a: i32x4) -> [i32; 4] {
        a.to_array()
    }
}

impl Panel for Portable {
    type P = [i32x4; 2];
    type PF = [f32x4; 2];
    const ROWS: usize = 8;
    const TOKENS: usize = 3;
    const LEVELS: Levels = Levels::All32;

    #[inline]
    unsafe fn p_dots<const T: usize, const LEVEL: usize>(
        self,
        mut acc: [Self::P; T],
        w: *const u8,
        a: *const i32,
        steps: usize,
    ) -> [Self::P; T] {
        // SAFETY: the caller gives `steps` steps of weights and activations.
        let (w, a) =
            unsafe { (std::slice::from_raw_parts(w, steps * 32), std::slice::from_raw_parts(a, steps * T)) };
        for (w, a) in w.as_chunks::<32>().0.iter().zip(a.as_chunks::<T>().0) {
            let w = self.b_load(w).map(unsigned_words);
            for (acc, &a) in acc.iter_mut().zip(a) {
                let a = signed_words(cast(i32x4::splat(a)));
                *acc = two!(i => acc[i] + dot4(w[i], a));
            }
        }
        acc
    }
    #[inline]
    fn p_splat(self, x: i32) -> Self::P {
        [i32x4::splat(x); 2]
    }
    #[inline]
    fn p_float(self, a: Self::P) -> Self::PF {
        a.map(i32x4::round_float)
    }
    #[inline]
    fn pf_splat(self, x: f32) -> Self::PF {
        [f32x4::splat(x); 2]
    }
    #[inline]
    fn pf_add(self, a: Self::PF, b: Self::PF) -> Self::PF {
        zip(a, b, |a, b| a + b)
    }
    #[inline]
    fn pf_mul(self, a: Self::PF, b: Self::PF) -> Self::PF {
        zip(a, b, |a, b| a * b)
    }
    #[inline]
    fn pf_fma(self, a: Self::PF, b: Self::PF, c: Self::PF) -> Self::PF {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline]
    unsafe fn pf_load(self, x: *const f32) -> Self::PF {
        // SAFETY: the caller gives eight values.
        cast(unsafe { x.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline]
    unsafe fn pf_store(self, a: Self::PF, out: *mut f32) {
        // SAFETY: the caller gives room for eight values.
        unsafe { out.cast::<[f32; 8]>().write_unaligned(cast(a)) }
    }
}
