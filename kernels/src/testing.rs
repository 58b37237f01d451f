//! Helpers of this crate's tests.
use crate::isa::Isa;
use crate::team::Team;
use proptest::test_runner::{Config as ProptestConfig, RngSeed};

/// Whether the tests run in an emulator, so slowly that fewer cases must do; all are run on the machine itself.
pub fn emulated() -> bool {
    std::env::var_os("LAPWING_EMULATED").is_some()
}

/// Properties are tried on the same `cases` cases in each run, or, under an emulator, on the first quarter of them;
/// others come with `PROPTEST_RNG_SEED=N`. A failing case is printed whole.
pub fn repeatable(cases: u32) -> ProptestConfig {
    let usual = ProptestConfig::default();
    let rng_seed = match usual.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        given => given,
    };
    let cases = if emulated() { cases.div_ceil(4) } else { cases };
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..usual }
}

/// A small deterministic generator (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0.0 .. 1.0.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed with this standard deviation.
    pub fn normal(&mut self, std: f32) -> f32 {
        let (u, v) = (1.0 - self.unit(), self.unit());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32 * std
    }

    pub fn normals(&mut self, n: usize, std: f32) -> Vec<f32> {
        (0..n).map(|_| self.normal(std)).collect()
    }
}

/// Teams of 1, 2 and 3 threads on every instruction set of this machine.
pub fn teams() -> impl Iterator<Item = Team> {
    Isa::available().flat_map(|isa| [1, 2, 3].map(|threads| Team::new(threads, isa).unwrap()))
}
