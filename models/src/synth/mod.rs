//! Models of random weights in real shapes, for benchmarks and tests. Any runtime can load them.
mod shape;
mod vocabulary;

pub use shape::{Bias, OPTIONS, Rope, Shape, Vocabulary};

use lapwing_kernels::TensorType;
use lapwing_kernels::format::random_row;

use crate::error::{Class, Error, Result};
use crate::gguf::Value;
use crate::mix::Mix;

/// A model of random weights: all metadata, the table of tensors, and the data of any row.
///
/// Weights are N(0, σ²) with σ = gain/√columns, so that activations keep about their size from layer to layer
/// and logits are finite and far from flat. The same shape, mix and seed give the same bytes.
#[derive(Debug)]
pub struct Synth {
    entries: Vec<(String, Value)>,
    tensors: Vec<Planned>,
    seed: u64,
}

/// A tensor of a [`Synth`].
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
    /// Row length first.
    pub shape: Vec<usize>,
    fill: Fill,
}

#[derive(Clone, Debug)]
enum Fill {
    /// N(mean, σ²).
    Normal { mean: f32, std: f32 },
    /// These values, one row of f32.
    Exact(Vec<f32>),
}

impl Planned {
    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.shape[0]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.ty.row_bytes(self.cols()).unwrap_or(0)
    }
}

impl Synth {
    /// Plans a model.
    ///
    /// # Errors
    /// [`Class::Usage`] for a shape that no program could load.
    pub fn new(shape: &Shape, mix: Mix, seed: u64) -> Result<Self> {
        shape.check()?;
        let tensors = Plan { shape, mix, tensors: Vec::new() }.run();
        Ok(Self { entries: entries(shape, mix)?, tensors, seed })
    }

    /// Plans a LoRA adapter of this rank on all linear layers of the model that [`new`](Self::new) plans.
    ///
    /// Its factors are as large as those of a strong tune: each delta moves a product by about a tenth.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and for rank 0.
    pub fn adapter(shape: &Shape, mix: Mix, seed: u64, rank: usize) -> Result<Self> {
        if rank == 0 {
            return Err(
                Error::new(Class::Usage, "an adapter has at least rank 1").expected_got("1 or more", 0)
            );
        }
        let base = Self::new(shape, mix, seed)?;
        let linear = |t: &&Planned| t.shape.len() == 2 && t.name.starts_with("blk.");
        let mut tensors = Vec::new();
        for t in base.tensors.iter().filter(linear) {
            let mut factor = |part: &str, dims: Vec<usize>, std: f32| {
                let name = format!("{}.{part}", t.name);
                let ty = mix.type_of(&name, &dims, shape.layers, shape.tied);
                tensors.push(Planned { name, ty, shape: dims, fill: Fill::Normal { mean: 0.0, std } });
            };
            factor("lora_a", vec![t.cols(), rank], 1.0 / (t.cols() as f32).sqrt());
            factor("lora_b", vec![rank, t.rows()], 0.1 / (rank as f32).sqrt());
        }
        let entries = vec![
            ("general.architecture".into(), shape.arch.into()),
            ("general.type".into(), "adapter".into()),
            ("general.name".into(), format!("{} with a random adapter", shape.name).into()),
            ("general.file_type".into(), mix.file_type().into()),
            ("adapter.type".into(), "lora".into()),
            ("adapter.lora.alpha".into(), (rank as f32).into()),
        ];
        Ok(Self { entries, tensors, seed })
    }

    /// A shape and a mix from `SHAPE:TYPE`.
    ///
    /// # Errors
    /// [`Class::Usage`] when either is unknown.
    pub fn parse(name: &str) -> Result<(Shape, Mix)> {
        let usage = || Error::new(Class::Usage, "this does not name a synthetic model");
        let (shape, mix) = name
            .split_once(':')
            .ok_or_else(|| usage().expected_got("SHAPE:TYPE, such as llama-7b:q4_0", name))?;
        let mix = Mix::from_name(mix)
            .ok_or_else(|| usage().expected_got(Mix::names().collect::<Vec<_>>().join(", "), mix))?;
        Ok((Shape::named(shape)?, mix))
    }

    /// All metadata.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.entries
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> &[Planned] {
        &self.tensors
    }

    /// Writes rows of tensor `index` from row `first` on into `out`, which is a whole number of rows. What a row
    /// holds does not depend on how rows are divided among calls.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub fn fill(&self, index: usize, first: usize, out: &mut [u8]) {
        let tensor = &self.tensors[index];
        let row_bytes = tensor.row_bytes();
        for (i, row) in out.chunks_exact_mut(row_bytes).enumerate() {
            let mut random = Random::new(self.seed, index as u64, (first + i) as u64);
            match &tensor.fill {
                Fill::Exact(values) => {
                    for (bytes, v) in row.chunks_exact_mut(4).zip(values) {
                        bytes.copy_from_slice(&v.to_le_bytes());
                    }
                }
                Fill::Normal { mean, std } => {
                    random_row(tensor.ty, &mut || random.next(), *std, row);
                    if *mean != 0.0 {
                        // Only vectors have a mean, and they are f32.
                        for bytes in row.as_chunks_mut::<4>().0 {
                            *bytes = (f32::from_le_bytes(*bytes) + mean).to_le_bytes();
                        }
                    }
                }
            }
        }
    }
}

/// xoshiro256++ (Blackman and Vigna, public domain), seeded by splitmix64 of three numbers.
struct Random([u64; 4]);

impl Random {
    fn new(seed: u64, tensor: u64, row: u64) -> Self {
        let mut state = seed;
        let mut mix = |add: u64| {
            state = state.wrapping_add(add).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            state ^= z ^ (z >> 31);
            state
        };
        mix(tensor);
        mix(row);
        Self([mix(0), mix(0), mix(0), mix(0) | 1])
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

/// Lists the tensors.
struct Plan<'a> {
    shape: &'a Shape,
    mix: Mix,
    tensors: Vec<Planned>,
}

impl Plan<'_> {
    fn run(mut self) -> Vec<Planned> {
        let s = self.shape;
        // A tied embedding makes the logits, too: larger, so that they are not flat, but less so where it is
        // scaled up by √width, or every token would foretell itself.
        let gain = match (s.tied, s.post_norms()) {
            (true, true) => 1.5,
            (true, false) => 3.0,
            (false, _) => 1.0,
        };
        self.matrix("token_embd", s.width, s.vocab, gain);
        if !s.tied {
            self.matrix("output", s.width, s.vocab, 3.0);
        }
        self.norm("output_norm", s.width);
        self.rope_divisors();
        for i in 0..s.layers {
            self.layer(i);
        }
        self.tensors
    }

    fn layer(&mut self, i: usize) {
        let s = self.shape;
        let (q, kv) = (s.q_width(), s.kv_width());
        let name = |part: &str| format!("blk.{i}.{part}");
        self.norm(&name("attn_norm"), s.width);
        let biased = s.bias != Bias::None;
        if s.arch == "phi3" {
            self.linear(&name("attn_qkv"), s.width, q + 2 * kv, 1.0, biased);
        } else {
            // Scores that are far from equal show mistakes in rotation and masks.
            self.linear(&name("attn_q"), s.width, q, 1.5, biased);
            self.linear(&name("attn_k"), s.width, kv, 1.5, biased);
            self.linear(&name("attn_v"), s.width, kv, 1.0, biased);
        }
        if s.qk_norms() {
            self.norm(&name("attn_q_norm"), s.head_dim);
            self.norm(&name("attn_k_norm"), s.head_dim);
        }
        let all = s.bias == Bias::All;
        self.linear(&name("attn_output"), q, s.width, 1.0, all);
        if s.post_norms() {
            self.norm(&name("post_attention_norm"), s.width);
        }
        self.norm(&name("ffn_norm"), s.width);
        if s.arch == "phi3" {
            self.linear(&name("ffn_up"), s.width, 2 * s.ffn, 1.0, all);
        } else {
            self.linear(&name("ffn_gate"), s.width, s.ffn, 1.0, all);
            self.linear(&name("ffn_up"), s.width, s.ffn, 1.0, all);
        }
        self.linear(&name("ffn_down"), s.ffn, s.width, 1.0, all);
        if s.post_norms() {
            self.norm(&name("post_ffw_norm"), s.width);
        }
    }

    fn push(&mut self, name: String, shape: Vec<usize>, fill: Fill) {
        let ty = self.mix.type_of(&name, &shape, self.shape.layers, self.shape.tied);
        self.tensors.push(Planned { name, ty, shape, fill });
    }

    fn matrix(&mut self, name: &str, cols: usize, rows: usize, gain: f32) {
        let std = gain / (cols as f32).sqrt();
        self.push(format!("{name}.weight"), vec![cols, rows], Fill::Normal { mean: 0.0, std });
    }

    fn linear(&mut self, name: &str, cols: usize, rows: usize, gain: f32, bias: bool) {
        self.matrix(name, cols, rows, gain);
        if bias {
            self.push(format!("{name}.bias"), vec![rows], Fill::Normal { mean: 0.0, std: 0.1 });
        }
    }

    /// Near 1 but not 1, so that a forgotten weight shows.
    fn norm(&mut self, name: &str, n: usize) {
        self.push(format!("{name}.weight"), vec![n], Fill::Normal { mean: 1.0, std: 0.05 });
    }

    fn rope_divisors(&mut self) {
        let pairs = self.shape.rope_dim / 2;
        match self.shape.rope {
            Rope::Llama3(factor) => {
                self.push(
                    "rope_freqs.weight".into(),
                    vec![pairs],
                    Fill::Exact(llama3_divisors(self.shape, factor)),
                );
            }
            Rope::Long(factor) => {
                // Rising from 1, as trained ones do.
                let rise = |most: f32| {
                    Fill::Exact((0..pairs).map(|i| 1.0 + (most - 1.0) * i as f32 / pairs as f32).collect())
                };
                self.push("rope_factors_long.weight".into(), vec![pairs], rise(2.0 * factor));
                self.push("rope_factors_short.weight".into(), vec![pairs], rise(1.25));
            }
            _ => {}
        }
    }
}

/// Divisors of rotary frequencies as Llama 3.1 defines them: slow pairs are divided by `factor`, fast ones kept, with
/// a ramp between wavelengths of the original context divided by 1 and by 4.
fn llama3_divisors(shape: &Shape, factor: f32) -> Vec<f32> {
    let context = shape.original_context as f32;
    (0..shape.rope_dim / 2)
        .map(|i| {
            let frequency = shape.rope_base.powf(-2.0 * i as f32 / shape.rope_dim as f32);
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            let kept = ((context / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
            1.0 / ((1.0 - kept) / factor + kept)
        })
        .collect()
}

/// All metadata of a model of this shape.
fn entries(s: &Shape, mix: Mix) -> Result<Vec<(String, Value)>> {
    let mut entries: Vec<(String, Value)> = vec![
        ("general.architecture".into(), s.arch.into()),
        ("general.type".into(), "model".into()),
        ("general.name".into(), format!("{} with random weights", s.name).into()),
        ("general.file_type".into(), mix.file_type().into()),
        ("general.quantization_version".into(), 2u32.into()),
    ];
    // Checked sizes fit.
    let count = |n: usize| Value::U32(n as u32);
    let mut own: Vec<(&str, Value)> = vec![
        ("block_count", count(s.layers)),
        ("context_length", count(s.context)),
        ("embedding_length", count(s.width)),
        ("feed_forward_length", count(s.ffn)),
        ("attention.head_count", count(s.heads)),
        ("attention.head_count_kv", count(s.kv_heads)),
        ("attention.layer_norm_rms_epsilon", s.eps.into()),
        ("rope.freq_base", s.rope_base.into()),
        ("vocab_size", count(s.vocab)),
    ];
    if s.q_width() != s.width || s.post_norms() {
        own.push(("attention.key_length", count(s.head_dim)));
        own.push(("attention.value_length", count(s.head_dim)));
    }
    if matches!(s.arch, "llama" | "phi3") || s.rope_dim != s.head_dim {
        own.push(("rope.dimension_count", count(s.rope_dim)));
    }
    let mut scaling = |kind: &str, factor: f32| {
        own.push(("rope.scaling.type", kind.into()));
        own.push(("rope.scaling.factor", factor.into()));
    };
    match s.rope {
        Rope::Linear(factor) => scaling("linear", factor),
        Rope::Yarn(factor) => {
            scaling("yarn", factor);
            own.push(("rope.scaling.original_context_length", count(s.original_context)));
        }
        Rope::Long(factor) => {
            // The temperature that LongRoPE's authors derived: √(1 + ln factor / ln context).
            let amplitude = (1.0 + factor.ln() / (s.original_context as f32).ln()).sqrt();
            own.push(("rope.scaling.attn_factor", amplitude.into()));
            own.push(("rope.scaling.original_context_length", count(s.original_context)));
        }
        Rope::Plain | Rope::Llama3(_) => {}
    }
    if s.window > 0 {
        own.push(("attention.sliding_window", count(s.window)));
        let usual = if s.arch == "gemma2" { 2 } else { 6 };
        if s.window_every != usual {
            own.push(("attention.sliding_window_pattern", count(s.window_every)));
        }
    }
    if s.arch == "gemma2" {
        own.push(("attn_logit_softcapping", s.attention_cap.into()));
    }
    if s.logit_cap > 0.0 {
        own.push(("final_logit_softcapping", s.logit_cap.into()));
    }
    entries.extend(own.into_iter().map(|(key, value)| (format!("{}.{key}", s.arch), value)));
    entries.extend(vocabulary::entries(s.vocabulary, s.vocab)?);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_do_not_depend_on_how_they_are_divided() {
        let (shape, mix) = Synth::parse("tiny-llama:q4_k_m").unwrap();
        let synth = Synth::new(&shape, mix, 7).unwrap();
        for (i, t) in synth.tensors().iter().enumerate() {
            let mut whole = vec![0; t.rows() * t.row_bytes()];
            let mut parts = whole.clone();
            synth.fill(i, 0, &mut whole);
            let third = t.rows() / 3 * t.row_bytes();
            synth.fill(i, 0, &mut parts[..third]);
            synth.fill(i, t.rows() / 3, &mut parts[third..]);
            assert!(whole == parts, "{}", t.name);
            assert!(whole.iter().any(|&b| b != 0), "{}", t.name);
        }
        let other = Synth::new(&shape, mix, 8).unwrap();
        let row = |synth: &Synth, row| {
            let mut out = vec![0; synth.tensors()[0].row_bytes()];
            synth.fill(0, row, &mut out);
            out
        };
        assert_ne!(row(&synth, 0), row(&other, 0));
        assert_ne!(row(&synth, 0), row(&synth, 1));
    }

    #[test]
    fn adapters_have_two_factors_for_each_linear_layer() {
        let (shape, mix) = Synth::parse("tiny-llama:f16").unwrap();
        let synth = Synth::adapter(&shape, mix, 1, 16).unwrap();
        assert_eq!(synth.tensors().len(), shape.layers * 7 * 2);
        let down: Vec<_> =
            synth.tensors().iter().filter(|t| t.name.starts_with("blk.1.ffn_down.weight.lora_")).collect();
        assert_eq!(
            (down[0].shape.as_slice(), down[1].shape.as_slice()),
            (&[shape.ffn, 16][..], &[16, shape.width][..])
        );
        assert_eq!(Synth::adapter(&shape, mix, 1, 0).unwrap_err().class, Class::Usage);
    }

    #[test]
    fn llama_3_divisors() {
        let mut shape = Shape::named("llama-1b").unwrap();
        (shape.rope_dim, shape.head_dim) = (128, 128);
        let d = llama3_divisors(&shape, 8.0);
        // Values of Llama 3.1 8B's rope_freqs.weight.
        assert_eq!((d[0], d[28], d[63]), (1.0, 1.0, 8.0));
        assert!(d.windows(2).all(|w| w[0] <= w[1]));
        assert!(d[30] > 1.2 && d[33] > 3.0 && d[33] < 5.0, "{:?}", &d[28..36]);
    }

    #[test]
    fn sizes_of_real_models() {
        let billions = |name: &str| {
            let (shape, mix) = Synth::parse(&format!("{name}:q4_0")).unwrap();
            let synth = Synth::new(&shape, mix, 0).unwrap();
            synth.tensors().iter().map(|t| t.cols() * t.rows()).sum::<usize>() as f64 / 1e9
        };
        for (name, expected) in [
            ("llama-7b", 6.738),
            ("llama-13b", 13.016),
            ("llama-8b", 8.030),
            ("llama-1b", 1.236),
            ("smollm2-135m", 0.1345),
            ("qwen2-0.5b", 0.494),
            ("qwen2-1.5b", 1.544),
            ("qwen2-7b", 7.616),
            ("qwen3-0.6b", 0.596),
            ("qwen3-4b", 4.022),
            ("gemma2-2b", 2.614),
            ("gemma3-270m", 0.268),
            ("gemma3-1b", 1.000),
            ("phi3-mini", 3.821),
        ] {
            let got = billions(name);
            assert!((got / expected - 1.0).abs() < 2e-3, "{name}: {got} billion parameters");
        }
    }
}
