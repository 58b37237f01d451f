//! Every operation of every instruction set against the scalar one.
use super::*;
use crate::testing::Random;
use half::f16;
use std::array::from_fn;

/// Random bits.
fn rng(seed: u64) -> impl FnMut() -> u64 {
    let mut random = Random::new(seed);
    move || random.bits()
}

/// What the operations returned, by name.
type Results = Vec<(&'static str, Vec<u32>)>;

/// Runs `op` on every instruction set of this machine and compares with the scalar results.
#[track_caller]
fn check<O: Op<Output = Results> + Clone>(op: O) {
    let want = Isa::Scalar.dispatch(op.clone());
    for isa in Isa::available() {
        for ((name, got), (_, want)) in isa.dispatch(op.clone()).iter().zip(&want) {
            assert_eq!(got, want, "{isa} {name}");
        }
    }
}

fn bits<const N: usize>(x: [f32; N]) -> Vec<u32> {
    x.map(f32::to_bits).to_vec()
}

#[derive(Clone)]
struct FloatOps {
    a: [f32; 16],
    b: [f32; 16],
    c: [f32; 16],
    bytes: [u8; 64],
}

impl Op for FloatOps {
    type Output = Results;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Results {
        let mut r = Results::new();
        let out = |v: S::F| {
            let mut out = [0.0; 16];
            s.store(v, &mut out);
            bits(out)
        };
        let [a, b, c] = [&self.a, &self.b, &self.c].map(|x| s.load(x));
        r.push(("splat", out(s.splat(self.a[3]))));
        r.push(("load", out(a)));
        for n in [0, 1, 7, 15, 16] {
            r.push(("load_part", out(s.load_part(&self.a[..n]))));
            let mut part = self.b;
            s.store_part(a, &mut part[..n]);
            r.push(("store_part", bits(part)));
        }
        r.push(("load_le", out(s.load_le(&self.bytes))));
        let half: &[u8; 32] = self.bytes.first_chunk().unwrap();
        // The sign and payload of a NaN are of no interest.
        let nan_free = |v: Vec<u32>| -> Vec<u32> {
            v.into_iter().map(|x| if f32::from_bits(x).is_nan() { u32::MAX } else { x }).collect()
        };
        r.push(("load_f16_le", nan_free(out(s.load_f16_le(half)))));
        r.push(("load_bf16_le", nan_free(out(s.load_bf16_le(half)))));
        let mut h = [f16::ZERO; 16];
        s.store_f16(a, &mut h);
        r.push(("store_f16", h.map(|h| u32::from(h.to_bits())).to_vec()));
        r.push(("load_f16", out(s.load_f16(&h))));
        let mut q = [0i8; 16];
        s.store_i8(s.max(s.min(a, s.splat(127.0)), s.splat(-127.0)), &mut q);
        r.push(("load_i8", out(s.load_i8(&q))));
        r.push(("store_i8", q.map(|q| q as u32).to_vec()));
        r.push(("add", out(s.add(a, b))));
        r.push(("sub", out(s.sub(a, b))));
        r.push(("mul", out(s.mul(a, b))));
        r.push(("div", out(s.div(a, b))));
        if S::ISA.is_fused() {
            r.push(("fma", out(s.fma(a, b, c))));
        } else {
            r.push(("fma", bits::<16>(from_fn(|i| self.a[i].mul_add(self.b[i], self.c[i])))));
        }
        r.push(("max", out(s.max(a, b))));
        r.push(("min", out(s.min(a, b))));
        r.push(("abs", out(s.abs(a))));
        r.push(("round", out(s.round(a))));
        let exponents = s.load(&self.b.map(|b| (b * 1e6).clamp(-126.0, 127.0).round()));
        r.push(("pow2", out(s.pow2(exponents))));
        r.push(("select_lt", out(s.select_lt(a, b, c, s.splat(1.0)))));
        r.push(("sum", vec![s.sum(a).to_bits()]));
        r.push(("max_lane", vec![s.max_lane(a).to_bits()]));
        r
    }
}

#[test]
fn floats_equal_scalar() {
    let mut rng = rng(1);
    for round in 0..200 {
        let mut values = || from_fn(|_| ((rng() >> 40) as f32 / 65536.0 - 128.0) * 10f32.powi(round % 7 - 3));
        let mut a: [f32; 16] = values();
        // Ties, for the roundings.
        a[5] = 2.5;
        a[6] = -3.5;
        a[7] = 1.0 + 1.0 / 2048.0;
        check(FloatOps { a, b: values(), c: values(), bytes: from_fn(|_| rng() as u8) });
    }
}

#[derive(Clone)]
struct WordOps {
    a: [i8; 16],
    b: [i8; 16],
    x: [i32; 2],
    f: [f32; 16],
}

impl Op for WordOps {
    type Output = Results;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Results {
        let w = s.w_pairs(&self.a, &self.b);
        let sums = s.w_dot(s.w_dot(s.i_zero(), w, self.x[0]), w, self.x[1]);
        let (mut floats, mut words) = ([0.0; 16], [0; 16]);
        s.store(s.i_float(sums), &mut floats);
        s.store_i16(s.load(&self.f), &mut words);
        vec![("w_dot", bits(floats)), ("store_i16", words.map(|word| word as u32).to_vec())]
    }
}

#[test]
fn words_equal_scalar() {
    let mut rng = rng(5);
    for _ in 0..200 {
        let mut bytes = || from_fn(|_| rng() as i8);
        let (mut a, b) = (bytes(), bytes());
        a[0] = -128;
        let mut f: [f32; 16] = from_fn(|_| ((rng() >> 40) as f32 / 256.0 - 32768.0).max(-32767.0));
        (f[0], f[1], f[2], f[3]) = (32767.0, -32767.0, 2.5, -3.5);
        check(WordOps { a, b, x: [rng() as i32, 0x7fff_8001], f });
    }
    let sum = WordOps { a: [2; 16], b: [-3; 16], x: [bytemuck::cast([5i16, 7]), 0], f: [0.0; 16] };
    assert_eq!(Isa::Scalar.dispatch(sum)[0].1, vec![(2f32 * 5.0 - 3.0 * 7.0).to_bits(); 16]);
}

#[derive(Clone)]
struct ByteOps {
    a: [u8; 32],
    b: [u8; 32],
    x: [u8; 16],
    f: [f32; 4],
    i: [i32; 4],
    bits: u32,
}

impl Op for ByteOps {
    type Output = Results;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Results {
        let mut r = Results::new();
        let out = |v: S::B| {
            let mut out = [0; 32];
            s.b_store(v, &mut out);
            out.map(u32::from).to_vec()
        };
        let (a, b) = (s.b_load(&self.a), s.b_load(&self.b));
        r.push(("b_load", out(a)));
        r.push(("b_splat", out(s.b_splat(self.x[0]))));
        r.push(("b_pair", out(s.b_pair(self.x[1], self.x[2]))));
        r.push(("b_load_twice", out(s.b_load_twice(&self.x))));
        r.push(("b_nibbles", out(s.b_nibbles(&self.x))));
        r.push(("b_bits", out(s.b_bits(self.bits, self.x[3]))));
        r.push(("b_and", out(s.b_and(a, b))));
        r.push(("b_or", out(s.b_or(a, b))));
        r.push(("b_xor", out(s.b_xor(a, b))));
        r.push(("b_add", out(s.b_add(a, b))));
        r.push(("b_sub", out(s.b_sub(a, b))));
        r.push(("b_shr 1", out(s.b_shr::<1>(a))));
        r.push(("b_shr 6", out(s.b_shr::<6>(a))));
        r.push(("b_shl 2", out(s.b_shl::<2>(a))));
        r.push(("b_shl 7", out(s.b_shl::<7>(a))));
        r.push(("b_lut", out(s.b_lut(a, s.b_and(b, s.b_splat(15))))));
        let rows: [[u8; 32]; 8] = from_fn(|i| self.a.map(|a| a.wrapping_add(i as u8)));
        r.push(("b_transpose", s.b_transpose(rows.each_ref()).into_iter().flat_map(out).collect()));

        let (f, g) = (s.f4_load(&self.f), s.f4_splat(self.f[1]));
        let f4 = |v: S::F4| bits(s.f4_array(v));
        r.push(("f4_load", f4(f)));
        r.push(("f4_splat", f4(g)));
        // Finite f16 values: the exponent is not all ones.
        r.push(("b_floats", out(s.b_floats(f, g))));
        r.push(("f4_f16", f4(s.f4_f16(from_fn(|i| [self.x[i], self.x[i + 4] & 0xbb])))));
        r.push(("f4_i32", f4(s.f4_i32(self.i))));
        r.push(("f4_mul", f4(s.f4_mul(f, g))));
        if S::ISA.is_fused() {
            r.push(("f4_fma", f4(s.f4_fma(f, g, f))));
        } else {
            r.push(("f4_fma", bits(self.f.map(|f| f.mul_add(self.f[1], f)))));
        }
        r.push(("f4_sum", vec![s.f4_sum(f).to_bits()]));
        let i = s.i4_load(&self.i);
        r.push(("i4_array", s.i4_array(s.i4_add(i, i)).map(|x| x as u32).to_vec()));
        r.push(("i4_float", f4(s.i4_float(s.i4_add(i, i)))));
        r
    }
}

#[test]
fn bytes_equal_scalar() {
    let mut rng = rng(2);
    for _ in 0..200 {
        check(ByteOps {
            a: from_fn(|_| rng() as u8),
            b: from_fn(|_| rng() as u8),
            x: from_fn(|_| rng() as u8),
            f: from_fn(|_| rng() as i32 as f32 / 1e5),
            i: from_fn(|_| rng() as i32 >> 9),
            bits: rng() as u32,
        });
    }
}

#[derive(Clone)]
struct DotOps {
    max: u8,
    q: [[u8; 32]; 4],
    a: [i8; 128],
}

impl Op for DotOps {
    type Output = Results;

    #[inline(always)]
    fn call<S: Simd>(self, s: S) -> Results {
        let dots = s.dots(self.max, self.q.map(|q| s.b_load(&q)), &self.a);
        // Instruction sets may subtract an offset from the weights: this makes up for it.
        let offset = s.offset(self.max);
        let dots = from_fn::<_, 2, _>(|half| {
            let init: [i32; 4] = from_fn(|b| {
                offset * self.a[32 * b + 16 * half..][..16].iter().map(|&a| i32::from(a)).sum::<i32>()
            });
            s.f4_array(s.i4_float(s.i4_add(dots[half], s.i4_load(&init)))).map(|x| x as i32 as u32)
        });
        vec![("dots", dots.concat())]
    }
}

#[test]
fn dots_are_exact_up_to_the_extremes() {
    let mut rng = rng(3);
    for max in [3, 15, 31, 45, 63, 127, 128, 252, 255] {
        for round in 0..40 {
            let mut q = || if round < 4 { max } else { (rng() % (u64::from(max) + 1)) as u8 };
            let q = from_fn(|_| from_fn(|_| q()));
            let a = from_fn(|i| match round {
                0 => 127,
                1 => -127,
                2 if i % 2 == 0 => 127,
                2 => -127,
                _ => (rng() % 255) as i8,
            });
            check(DotOps { max, q, a: a.map(|a: i8| a.max(-127)) });
        }
    }
}

#[test]
fn names_and_availability() {
    for &isa in Isa::ALL {
        assert_eq!(isa.name().to_uppercase().parse(), Ok(isa));
    }
    assert_eq!("mmx".parse::<Isa>(), Err(UnknownIsa("mmx".into())));
    assert!(Isa::available().any(|isa| isa == Isa::Scalar));
    assert!(Isa::best().is_available());
}

/// A skipped instruction set is never silent: ./check names the file and prints its lines.
#[test]
fn skipped_instruction_sets_are_reported() {
    use std::io::Write;
    let names = |available: bool| -> String {
        let isas = Isa::ALL.iter().filter(|isa| isa.is_available() == available && isa.is_built());
        isas.map(|isa| isa.name()).collect::<Vec<_>>().join(" ")
    };
    let mut line = format!("{} kernels tested: {}", std::env::consts::ARCH, names(true));
    if !names(false).is_empty() {
        line += &format!("; not on this processor: {}", names(false));
    }
    println!("{line}");
    if let Some(path) = std::env::var_os("LAPWING_TEST_REPORT") {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}
