//! Plain loops over arrays: the oracle that the other instruction sets are tested against.
//!
//! Its operations are calls on purpose: inlined and unrolled into every kernel they took most of the time to
//! compile and half of the code, for an instruction set that is never chosen to be fast.
use super::simd::WIDE_OFFSET;
use super::{Bytes, Dots, Floats, Isa, Levels, Op, Panel, Simd, Words};
use bytemuck::cast;
use half::{bf16, f16};
use std::array::from_fn;

/// Plain loops over arrays.
#[derive(Clone, Copy, Debug)]
pub struct Scalar(());

impl Scalar {
    /// The token; every machine has it.
    pub fn new() -> Option<Self> {
        Some(Self(()))
    }
}

impl Simd for Scalar {
    const ISA: Isa = Isa::Scalar;

    #[inline(always)]
    fn run<O: Op>(self, op: O) -> O::Output {
        op.call(self)
    }
}

/// Lane-wise function of one vector.
#[inline(always)]
fn map<T: Copy, U, const N: usize>(a: [T; N], f: impl Fn(T) -> U) -> [U; N] {
    a.map(f)
}

/// Lane-wise function of two vectors.
#[inline(always)]
fn zip<T: Copy, U, const N: usize>(a: [T; N], b: [T; N], f: impl Fn(T, T) -> U) -> [U; N] {
    from_fn(|i| f(a[i], b[i]))
}

impl Floats for Scalar {
    const ACCUMULATORS: usize = 1;
    type F = [f32; 16];

    #[inline(never)]
    fn splat(self, x: f32) -> Self::F {
        [x; 16]
    }
    #[inline(never)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        *x
    }
    #[inline(never)]
    fn load_part(self, x: &[f32]) -> Self::F {
        from_fn(|i| x.get(i).copied().unwrap_or(0.0))
    }
    #[inline(never)]
    fn load_le(self, x: &[u8; 64]) -> Self::F {
        from_fn(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline(never)]
    fn load_f16_le(self, x: &[u8; 32]) -> Self::F {
        from_fn(|i| f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(never)]
    fn load_bf16_le(self, x: &[u8; 32]) -> Self::F {
        from_fn(|i| bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(never)]
    fn load_f16(self, x: &[f16; 16]) -> Self::F {
        map(*x, f16::to_f32)
    }
    #[inline(never)]
    fn load_i8(self, x: &[i8; 16]) -> Self::F {
        map(*x, f32::from)
    }
    #[inline(never)]
    fn store(self, v: Self::F, out: &mut [f32; 16]) {
        *out = v;
    }
    #[inline(never)]
    fn store_part(self, v: Self::F, out: &mut [f32]) {
        for (o, v) in out.iter_mut().zip(v) {
            *o = v;
        }
    }
    #[inline(never)]
    fn store_f16(self, v: Self::F, out: &mut [f16; 16]) {
        *out = map(v, f16::from_f32);
    }
    #[inline(never)]
    fn store_i8(self, v: Self::F, out: &mut [i8; 16]) {
        *out = map(v, |x| x.round_ties_even() as i8);
    }
    #[inline(never)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(never)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(never)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(never)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(never)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(never)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, f32::max)
    }
    #[inline(never)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, f32::min)
    }
    #[inline(never)]
    fn abs(self, a: Self::F) -> Self::F {
        map(a, f32::abs)
    }
    #[inline(never)]
    fn round(self, a: Self::F) -> Self::F {
        map(a, f32::round_ties_even)
    }
    #[inline(never)]
    fn pow2(self, n: Self::F) -> Self::F {
        map(n, |n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(never)]
    fn select_lt(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(never)]
    fn sum(self, mut a: Self::F) -> f32 {
        let mut half = 8;
        while half > 0 {
            for i in 0..half {
                a[i] += a[i + half];
            }
            half /= 2;
        }
        a[0]
    }
    #[inline(never)]
    fn max_lane(self, a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

impl Words for Scalar {
    type W = [[i8; 2]; 16];
    type I = [i32; 16];

    #[inline(never)]
    fn w_pairs(self, a: &[i8; 16], b: &[i8; 16]) -> Self::W {
        zip(*a, *b, |a, b| [a, b])
    }
    #[inline(never)]
    fn i_zero(self) -> Self::I {
        [0; 16]
    }
    #[inline(never)]
    fn w_dot(self, acc: Self::I, w: Self::W, x: i32) -> Self::I {
        let [first, second] = cast::<i32, [i16; 2]>(x).map(i32::from);
        let sums = map(w, |[a, b]| i32::from(a) * first + i32::from(b) * second);
        zip(acc, sums, |acc, sum| acc + sum)
    }
    #[inline(never)]
    fn i_float(self, a: Self::I) -> Self::F {
        map(a, |a| a as f32)
    }
    #[inline(never)]
    fn store_i16(self, v: Self::F, out: &mut [i16; 16]) {
        *out = map(v, |x| x.round_ties_even() as i16);
    }
}

impl Bytes for Scalar {
    type B = [u8; 32];
    type F4 = [f32; 4];

    #[inline(never)]
    fn b_splat(self, x: u8) -> Self::B {
        [x; 32]
    }
    #[inline(never)]
    fn b_pair(self, lo: u8, hi: u8) -> Self::B {
        from_fn(|i| if i < 16 { lo } else { hi })
    }
    #[inline(never)]
    fn b_load(self, x: &[u8; 32]) -> Self::B {
        *x
    }
    #[inline(never)]
    fn b_load_twice(self, x: &[u8; 16]) -> Self::B {
        from_fn(|i| x[i % 16])
    }
    #[inline(never)]
    fn b_nibbles(self, x: &[u8; 16]) -> Self::B {
        from_fn(|i| if i < 16 { x[i] & 15 } else { x[i - 16] >> 4 })
    }
    #[inline(never)]
    fn b_bits(self, bits: u32, value: u8) -> Self::B {
        from_fn(|i| if bits >> i & 1 == 1 { value } else { 0 })
    }
    #[inline(never)]
    fn b_store(self, v: Self::B, out: &mut [u8; 32]) {
        *out = v;
    }
    #[inline(never)]
    fn b_and(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a & b)
    }
    #[inline(never)]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a | b)
    }
    #[inline(never)]
    fn b_xor(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, |a, b| a ^ b)
    }
    #[inline(never)]
    fn b_add(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, u8::wrapping_add)
    }
    #[inline(never)]
    fn b_sub(self, a: Self::B, b: Self::B) -> Self::B {
        zip(a, b, u8::wrapping_sub)
    }
    #[inline(never)]
    fn b_shr<const N: u32>(self, a: Self::B) -> Self::B {
        map(a, |a| a >> N)
    }
    #[inline(never)]
    fn b_shl<const N: u32>(self, a: Self::B) -> Self::B {
        map(a, |a| a << N)
    }
    #[inline(never)]
    fn b_lut(self, table: Self::B, index: Self::B) -> Self::B {
        from_fn(|i| table[i / 16 * 16 + usize::from(index[i] & 15)])
    }
    #[inline(never)]
    fn b_transpose(self, rows: [&[u8; 32]; 8]) -> [Self::B; 8] {
        from_fn(|i| from_fn(|j| rows[j / 4][4 * i + j % 4]))
    }
    #[inline(never)]
    fn f4_splat(self, x: f32) -> Self::F4 {
        [x; 4]
    }
    #[inline(never)]
    fn f4_load(self, x: &[f32; 4]) -> Self::F4 {
        *x
    }
    #[inline(never)]
    fn f4_f16(self, x: [[u8; 2]; 4]) -> Self::F4 {
        map(x, |x| f16::from_le_bytes(x).to_f32())
    }
    #[inline(never)]
    fn f4_i32(self, x: [i32; 4]) -> Self::F4 {
        map(x, |x| x as f32)
    }
    #[inline(never)]
    fn b_floats(self, a: Self::F4, b: Self::F4) -> Self::B {
        from_fn(|i| [a, b][i / 16][i % 16 / 4].to_le_bytes()[i % 4])
    }
    #[inline(never)]
    fn f4_array(self, a: Self::F4) -> [f32; 4] {
        a
    }
    #[inline(never)]
    fn f4_mul(self, a: Self::F4, b: Self::F4) -> Self::F4 {
        zip(a, b, |a, b| a * b)
    }
    #[inline(never)]
    fn f4_fma(self, a: Self::F4, b: Self::F4, c: Self::F4) -> Self::F4 {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}

impl Dots for Scalar {
    type I4 = [i32; 4];

    // As on NEON, so that the oracle's own tests run both ways.
    const NARROW_MAX: u8 = 127;

    #[inline(never)]
    fn dots(self, max: u8, q: [Self::B; 4], a: &[i8; 128]) -> [Self::I4; 2] {
        let offset = self.offset(max);
        debug_assert!(offset == 0 || offset == WIDE_OFFSET);
        from_fn(|half| {
            from_fn(|block| {
                let range = 16 * half..16 * half + 16;
                let a = &a[32 * block..32 * block + 32];
                q[block][range.clone()]
                    .iter()
                    .zip(&a[range])
                    .map(|(&q, &a)| (i32::from(q) - offset) * i32::from(a))
                    .sum()
            })
        })
    }
    #[inline(never)]
    fn i4_load(self, x: &[i32; 4]) -> Self::I4 {
        *x
    }
    #[inline(never)]
    fn i4_add(self, a: Self::I4, b: Self::I4) -> Self::I4 {
        zip(a, b, |a, b| a + b)
    }
    #[inline(never)]
    fn i4_float(self, a: Self::I4) -> Self::F4 {
        map(a, |a| a as f32)
    }
    #[inline(never)]
    fn i4_array(self, a: Self::I4) -> [i32; 4] {
        a
    }
}

impl Panel for Scalar {
    type P = [i32; 8];
    type PF = [f32; 8];
    const ROWS: usize = 8;
    const TOKENS: usize = 2;
    const LEVELS: Levels = Levels::Signed32;

    #[inline(never)]
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
        for (w, a) in w.chunks_exact(32).zip(a.chunks_exact(T)) {
            for (acc, a) in acc.iter_mut().zip(a) {
                for (acc, w) in acc.iter_mut().zip(w.chunks_exact(4)) {
                    for (&w, a) in w.iter().zip(a.to_le_bytes()) {
                        let w = if LEVEL == 0 { i32::from(w as i8) } else { i32::from(w) };
                        *acc += w * i32::from(a as i8);
                    }
                }
            }
        }
        acc
    }
    #[inline(never)]
    fn p_splat(self, x: i32) -> Self::P {
        [x; 8]
    }
    #[inline(never)]
    fn p_float(self, a: Self::P) -> Self::PF {
        map(a, |a| a as f32)
    }
    #[inline(never)]
    fn pf_splat(self, x: f32) -> Self::PF {
        [x; 8]
    }
    #[inline(never)]
    fn pf_add(self, a: Self::PF, b: Self::PF) -> Self::PF {
        zip(a, b, |a, b| a + b)
    }
    #[inline(never)]
    fn pf_mul(self, a: Self::PF, b: Self::PF) -> Self::PF {
        zip(a, b, |a, b| a * b)
    }
    #[inline(never)]
    fn pf_fma(self, a: Self::PF, b: Self::PF, c: Self::PF) -> Self::PF {
        from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(never)]
    unsafe fn pf_load(self, x: *const f32) -> Self::PF {
        // SAFETY: the caller gives eight values.
        unsafe { x.cast::<Self::PF>().read_unaligned() }
    }
    #[inline(never)]
    unsafe fn pf_store(self, a: Self::PF, out: *mut f32) {
        // SAFETY: the caller gives room for eight values.
        unsafe { out.cast::<Self::PF>().write_unaligned(a) }
    }
}
