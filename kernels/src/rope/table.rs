//! The angles of rotary embeddings: one frequency per pair of dimensions, with every scaling in use.
//!
//! All scalings in use are linear in the position, so a table is one angular frequency per pair (f64) and one
//! magnitude. Cosines and sines are computed in f64 and rounded once, for just the positions of a batch:
//! a table for 128 Ki positions would cost 64 MB, one batch of 512 costs a millisecond.
use std::f64::consts::TAU;

/// YaRN ("Yet another RoPE extensioN", Peng et al. 2023) as llama.cpp computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    /// Weight of the extrapolated angles, `0.0 ..= 1.0` (`yarn_ext_factor`, 1 in practice).
    pub ext_factor: f32,
    /// Dimensions that turn more often than this over the original context keep their frequency (32).
    pub beta_fast: f32,
    /// Dimensions that turn less often than this are interpolated fully (1).
    pub beta_slow: f32,
    /// Context length of training before the extension, in positions.
    pub orig_ctx: usize,
    /// DeepSeek's `mscale_all_dim`; 0 where absent.
    pub log_mul: f32,
}

impl Default for Yarn {
    fn default() -> Self {
        Self { ext_factor: 1.0, beta_fast: 32.0, beta_slow: 1.0, orig_ctx: 4096, log_mul: 0.0 }
    }
}

/// Everything that decides the angles of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeParams {
    /// Rotated dimensions of a head (even, at most the head dimension); the rest pass through.
    pub n_rot: usize,
    /// Base of the geometric series of frequencies (`rope.freq_base`).
    pub freq_base: f32,
    /// Multiplier of all angles: 1 / `rope.scaling.factor`, 1 without scaling. Linear scaling is this alone.
    pub freq_scale: f32,
    /// Divisor of each frequency, `[n_rot / 2]`: the tensors `rope_freqs` (llama3) and `rope_factors_short` or
    /// `rope_factors_long` (longrope; long when the context exceeds the original one).
    pub factors: Option<Vec<f32>>,
    /// Magnitude of the rotation (`rope.scaling.attn_factor`; longrope sets it), 1 otherwise.
    pub attn_factor: f32,
    /// Set for YaRN scaling.
    pub yarn: Option<Yarn>,
}

impl RopeParams {
    /// Plain rotary embeddings.
    pub fn new(n_rot: usize, freq_base: f32) -> Self {
        Self { n_rot, freq_base, freq_scale: 1.0, factors: None, attn_factor: 1.0, yarn: None }
    }
}

/// Cosines and sines for a run of positions.
#[derive(Clone, Debug)]
pub struct RopeTable {
    /// Radians per position of each pair.
    omega: Vec<f64>,
    magnitude: f64,
    /// First position covered, and how many.
    first: usize,
    len: usize,
    /// `[len][n_rot / 2]`, magnitude included.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table for `params` that covers no position yet.
    ///
    /// # Panics
    /// If `n_rot` is odd or `factors` does not have `n_rot / 2` entries.
    pub fn new(params: &RopeParams) -> Self {
        assert!(params.n_rot.is_multiple_of(2), "n_rot {} is odd", params.n_rot);
        let pairs = params.n_rot / 2;
        if let Some(factors) = &params.factors {
            assert_eq!(factors.len(), pairs, "one frequency factor per pair");
        }
        let scale = f64::from(params.freq_scale);
        let base = f64::from(params.freq_base);
        let ramp = params.yarn.map(|yarn| Ramp::new(&yarn, params.n_rot, base));
        let omega = (0..pairs)
            .map(|i| {
                let factor = params.factors.as_ref().map_or(1.0, |f| f64::from(f[i]));
                let extrapolated = base.powf(-2.0 * i as f64 / params.n_rot as f64) / factor;
                let mix = ramp.as_ref().map_or(0.0, |ramp| ramp.at(i));
                extrapolated * (scale * (1.0 - mix) + mix)
            })
            .collect();
        let magnitude = f64::from(params.attn_factor) * yarn_magnitude(params.yarn, 1.0 / scale);
        Self { omega, magnitude, first: 0, len: 0, cos: Vec::new(), sin: Vec::new() }
    }

    /// Rotated dimensions of a head.
    pub fn n_rot(&self) -> usize {
        self.omega.len() * 2
    }

    /// Makes the table cover positions `first .. first + n` (and perhaps others no longer). A row depends on its
    /// position only. Costs about 30 ns a pair and position; free when already covered.
    pub fn cover(&mut self, first: usize, n: usize) {
        if n == 0 || (self.first <= first && first + n <= self.first + self.len) {
            return;
        }
        (self.first, self.len) = (first, n);
        self.cos.clear();
        self.sin.clear();
        for pos in first..first + n {
            for &omega in &self.omega {
                let (sin, cos) = (pos as f64 * omega).sin_cos();
                self.cos.push((cos * self.magnitude) as f32);
                self.sin.push((sin * self.magnitude) as f32);
            }
        }
    }

    /// Cosines and sines at `pos`, `[n_rot / 2]` each.
    ///
    /// # Panics
    /// If `pos` is not covered.
    pub fn row(&self, pos: usize) -> (&[f32], &[f32]) {
        let at = pos.checked_sub(self.first).filter(|&at| at < self.len);
        let at = at.unwrap_or_else(|| panic!("position {pos} is not covered by the rope table"));
        let range = at * self.omega.len()..(at + 1) * self.omega.len();
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// YaRN's blend between interpolated (0) and extrapolated (1) frequencies.
struct Ramp {
    low: f64,
    high: f64,
    weight: f64,
}

impl Ramp {
    fn new(yarn: &Yarn, n_rot: usize, base: f64) -> Self {
        // The pair that turns `turns` times over the original context: n_rot·ln(ctx / 2π·turns) / 2·ln(base).
        let pair = |turns: f32| {
            n_rot as f64 * (yarn.orig_ctx as f64 / (f64::from(turns) * TAU)).ln() / (2.0 * base.ln())
        };
        Self {
            low: pair(yarn.beta_fast).floor().max(0.0),
            high: pair(yarn.beta_slow).ceil().min(n_rot as f64 - 1.0),
            weight: f64::from(yarn.ext_factor),
        }
    }

    fn at(&self, pair: usize) -> f64 {
        let along = (pair as f64 - self.low) / (self.high - self.low).max(0.001);
        (1.0 - along.clamp(0.0, 1.0)) * self.weight
    }
}

/// The attention temperature of YaRN, 0.1·ln(factor) + 1, as a magnitude of cos and sin.
fn yarn_magnitude(yarn: Option<Yarn>, factor: f64) -> f64 {
    let temperature = |mul: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mul * factor.ln() + 1.0 };
    match yarn {
        Some(yarn) if yarn.ext_factor != 0.0 => {
            let all_dims = if yarn.log_mul == 0.0 { 1.0 } else { temperature(f64::from(yarn.log_mul)) };
            temperature(1.0) / all_dims
        }
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The angle of a pair, from the values that the table stores.
    fn angle(table: &RopeTable, pos: usize, pair: usize) -> f64 {
        let (cos, sin) = table.row(pos);
        f64::from(sin[pair]).atan2(f64::from(cos[pair])).rem_euclid(TAU)
    }

    fn assert_angle(table: &RopeTable, pos: usize, pair: usize, expected: f64) {
        let off = (angle(table, pos, pair) - expected).rem_euclid(TAU);
        let off = off.min(TAU - off);
        assert!(off < 2e-7, "position {pos} pair {pair}: {off} rad off");
    }

    #[test]
    fn plain_angles_are_exact_far_out() {
        let mut table = RopeTable::new(&RopeParams::new(64, 10_000.0));
        table.cover(131_000, 2);
        for pair in 0..32 {
            // 10000^(-2i/64) = 10^(-i/8)
            assert_angle(&table, 131_001, pair, 131_001.0 * 10f64.powf(-(pair as f64) / 8.0));
        }
    }

    #[test]
    fn rows_do_not_depend_on_what_is_covered() {
        let mut whole = RopeTable::new(&RopeParams::new(80, 500_000.0));
        let mut part = whole.clone();
        whole.cover(0, 700);
        part.cover(513, 1);
        assert_eq!(whole.row(513), part.row(513));
        part.cover(0, 0);
        assert_eq!(whole.row(513), part.row(513), "covering nothing keeps what is there");
    }

    #[test]
    fn linear_scaling_and_factors_divide_angles() {
        let mut params = RopeParams::new(8, 10_000.0);
        params.freq_scale = 0.25;
        params.factors = Some(vec![1.0, 2.0, 4.0, 8.0]);
        let mut table = RopeTable::new(&params);
        table.cover(100, 1);
        for (pair, factor) in [1.0, 2.0, 4.0, 8.0].into_iter().enumerate() {
            assert_angle(&table, 100, pair, 100.0 * 0.25 / factor * 10f64.powi(-(pair as i32)));
        }
    }

    #[test]
    fn yarn_keeps_fast_pairs_interpolates_slow_ones_and_sets_the_magnitude() {
        let mut params = RopeParams::new(128, 10_000.0);
        params.freq_scale = 1.0 / 16.0;
        params.yarn = Some(Yarn { orig_ctx: 4096, ..Yarn::default() });
        let mut table = RopeTable::new(&params);
        table.cover(1000, 1);
        // Pair of 32 turns: 128·ln(4096/64π)/(2·ln 10⁴) = 20.9 → 20; of 1 turn: 45.03 → 46.
        let plain = |pair: i32| 1000.0 * 10f64.powf(-f64::from(pair) / 16.0);
        assert_angle(&table, 1000, 0, plain(0));
        assert_angle(&table, 1000, 20, plain(20));
        assert_angle(&table, 1000, 33, plain(33) * (0.5 / 16.0 + 0.5));
        assert_angle(&table, 1000, 46, plain(46) / 16.0);
        assert_angle(&table, 1000, 63, plain(63) / 16.0);
        let (cos, sin) = table.row(1000);
        let magnitude = f64::from(cos[5]).hypot(f64::from(sin[5]));
        assert!((magnitude - (0.1 * 16f64.ln() + 1.0)).abs() < 1e-6, "{magnitude}");

        params.yarn = Some(Yarn { log_mul: 1.0, ..params.yarn.unwrap() });
        params.attn_factor = 1.5;
        let mut table = RopeTable::new(&params);
        table.cover(7, 1);
        let (cos, sin) = table.row(7);
        let magnitude = f64::from(cos[5]).hypot(f64::from(sin[5]));
        assert!((magnitude - 1.5).abs() < 1e-6, "both temperatures cancel: {magnitude}");
    }

    #[test]
    #[should_panic(expected = "not covered")]
    fn positions_outside_are_refused() {
        let mut table = RopeTable::new(&RopeParams::new(8, 10_000.0));
        table.cover(4, 4);
        table.row(8);
    }
}
