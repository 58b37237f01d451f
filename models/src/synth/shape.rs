//! Shapes of models: the sizes and options that decide everything but the numbers in the weights.
use crate::error::{Class, Error, Result};

/// How rotary frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rope {
    /// Not at all.
    Plain,
    /// All of them divided by this.
    Linear(f32),
    /// YaRN by this factor.
    Yarn(f32),
    /// Llama 3.1's divisors for this factor, as the tensor `rope_freqs.weight`.
    Llama3(f32),
    /// LongRoPE's two lists of divisors (phi3 only), for this factor.
    Long(f32),
}

/// Which linear layers add a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// Queries, keys and values.
    Qkv,
    /// All linear layers of a block (llama only).
    All,
}

/// The kind of the generated vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// SentencePiece-style as in Llama 1 and 2 and Phi 3.
    Spm,
    /// SentencePiece-style as in Gemma.
    Gemma,
    /// Byte-level BPE with this pre-tokeniser.
    Bpe(&'static str),
}

/// Everything that [`Synth`](super::Synth) needs to know about a model.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The fields are explained by `OPTIONS`.
pub struct Shape {
    pub name: String,
    pub arch: &'static str,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    /// Context before any stretching.
    pub original_context: usize,
    pub rope_base: f32,
    pub rope: Rope,
    /// Rotated values of each head.
    pub rope_dim: usize,
    pub eps: f32,
    pub tied: bool,
    pub bias: Bias,
    pub window: usize,
    /// Every this-manieth layer sees everything.
    pub window_every: usize,
    pub attention_cap: f32,
    pub logit_cap: f32,
    pub vocabulary: Vocabulary,
}

/// What [`Shape::set`] understands: (name, what it is).
pub const OPTIONS: [(&str, &str); 19] = [
    ("layers", "number of layers"),
    ("width", "values in the residual stream"),
    ("heads", "query heads"),
    ("kv_heads", "key/value heads; a divisor of heads"),
    ("head_dim", "values of a head; need not be width / heads (but in qwen2 and phi3)"),
    ("ffn", "values in the feed-forward"),
    ("vocab", "tokens"),
    ("context", "context length in tokens"),
    ("original_context", "context before stretching, in tokens"),
    ("rope_base", "rotary base"),
    ("rope", "plain, linear:FACTOR, yarn:FACTOR, llama3:FACTOR, long:FACTOR (phi3)"),
    ("rope_dim", "rotated values of each head"),
    ("eps", "epsilon of the norms"),
    ("tied", "true: the embedding is the output, too"),
    ("bias", "none, qkv, all (llama)"),
    ("window", "sliding window in tokens, 0: none (gemma2, gemma3)"),
    ("window_every", "every how manieth layer sees everything (gemma2, gemma3)"),
    ("attention_cap", "soft cap of attention scores, 0: none (gemma2)"),
    ("logit_cap", "soft cap of logits, 0: none (gemma2, gemma3)"),
];

/// Named shapes: (name, architecture, layers, width, heads, kv_heads, head_dim, ffn, vocab, context).
type Row = (&'static str, &'static str, usize, usize, usize, usize, usize, usize, usize, usize);
const ROWS: [Row; 25] = [
    ("llama-7b", "llama", 32, 4096, 32, 32, 128, 11008, 32000, 4096),
    ("llama-13b", "llama", 40, 5120, 40, 40, 128, 13824, 32000, 4096),
    ("llama-8b", "llama3", 32, 4096, 32, 8, 128, 14336, 128_256, 8192),
    ("llama-1b", "llama3.2", 16, 2048, 32, 8, 64, 8192, 128_256, 131_072),
    ("smollm2-135m", "smollm", 30, 576, 9, 3, 64, 1536, 49152, 8192),
    ("qwen2-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151_936, 32768),
    ("qwen2-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151_936, 32768),
    ("qwen2-7b", "qwen2", 28, 3584, 28, 4, 128, 18944, 152_064, 32768),
    ("qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151_936, 40960),
    ("qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151_936, 40960),
    ("gemma2-2b", "gemma2", 26, 2304, 8, 4, 256, 9216, 256_000, 8192),
    ("gemma3-270m", "gemma3", 18, 640, 4, 1, 256, 2048, 262_144, 32768),
    ("gemma3-1b", "gemma3", 26, 1152, 4, 1, 256, 6912, 262_144, 32768),
    ("phi3-mini", "phi3", 32, 3072, 32, 32, 96, 8192, 32064, 4096),
    // Small ones for tests; widths of whole 256-blocks, so that every type is used.
    ("tiny-llama", "llama", 4, 256, 4, 4, 64, 512, 1024, 2048),
    ("tiny-llama3", "llama3.2", 4, 256, 4, 2, 64, 512, 2048, 8192),
    ("tiny-linear", "llama", 4, 256, 4, 2, 64, 512, 1024, 4096),
    ("tiny-yarn", "llama", 4, 256, 4, 2, 64, 512, 1024, 4096),
    ("tiny-biased", "llama", 4, 256, 4, 2, 32, 512, 1024, 2048),
    ("tiny-qwen2", "qwen2", 4, 256, 4, 2, 64, 512, 2048, 2048),
    ("tiny-qwen3", "qwen3", 4, 256, 4, 2, 128, 512, 2048, 2048),
    ("tiny-gemma2", "gemma2", 4, 256, 4, 2, 128, 512, 1024, 2048),
    ("tiny-gemma3", "gemma3", 8, 256, 4, 1, 128, 512, 1024, 2048),
    ("tiny-phi3", "phi3", 4, 256, 4, 4, 64, 512, 1024, 2048),
    ("tiny-longrope", "phi3", 4, 256, 4, 4, 64, 512, 1024, 8192),
];

impl Shape {
    /// The names of all shapes.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ROWS.iter().map(|row| row.0)
    }

    /// The shape of this name.
    ///
    /// # Errors
    /// [`Class::Usage`] when there is none.
    pub fn named(name: &str) -> Result<Self> {
        let Some(row) = ROWS.iter().find(|row| row.0.eq_ignore_ascii_case(name)) else {
            let names: Vec<_> = Self::names().collect();
            return Err(Error::new(Class::Usage, "unknown shape").expected_got(names.join(", "), name));
        };
        let &(name, family, layers, width, heads, kv_heads, head_dim, ffn, vocab, context) = row;
        let mut shape = Self {
            name: name.into(),
            arch: "llama",
            layers,
            width,
            heads,
            kv_heads,
            head_dim,
            ffn,
            vocab,
            context,
            original_context: context,
            rope_base: 10_000.0,
            rope: Rope::Plain,
            rope_dim: head_dim,
            eps: 1e-5,
            tied: false,
            bias: Bias::None,
            window: 0,
            window_every: 1,
            attention_cap: 0.0,
            logit_cap: 0.0,
            vocabulary: Vocabulary::Spm,
        };
        shape.family(family);
        let tiny = name.starts_with("tiny-");
        match name {
            "qwen2-7b" => shape.tied = false,
            "tiny-llama3" => shape.original_context = 512,
            "tiny-linear" => shape.rope = Rope::Linear(4.0),
            "tiny-yarn" => (shape.rope, shape.original_context) = (Rope::Yarn(4.0), 1024),
            "tiny-longrope" => (shape.rope, shape.original_context) = (Rope::Long(4.0), 2048),
            "tiny-biased" => shape.bias = Bias::All,
            // Short enough that a few hundred tokens pass it.
            _ if tiny && shape.window > 0 => shape.window = 48,
            _ => {}
        }
        Ok(shape)
    }

    /// What models of a family have in common.
    fn family(&mut self, family: &str) {
        match family {
            "llama3" => {
                (self.rope_base, self.vocabulary) = (500_000.0, Vocabulary::Bpe("llama-bpe"));
            }
            "llama3.2" => {
                (self.rope_base, self.vocabulary) = (500_000.0, Vocabulary::Bpe("llama-bpe"));
                (self.rope, self.original_context, self.tied) = (Rope::Llama3(32.0), 8192, true);
            }
            "smollm" => {
                (self.rope_base, self.vocabulary, self.tied) = (100_000.0, Vocabulary::Bpe("smollm"), true);
            }
            "qwen2" | "qwen3" => {
                self.arch = if family == "qwen2" { "qwen2" } else { "qwen3" };
                (self.rope_base, self.eps, self.tied) = (1_000_000.0, 1e-6, true);
                self.vocabulary = Vocabulary::Bpe("qwen2");
                if family == "qwen2" {
                    self.bias = Bias::Qkv;
                }
            }
            "gemma2" => {
                (self.arch, self.eps, self.tied, self.vocabulary) = ("gemma2", 1e-6, true, Vocabulary::Gemma);
                (self.window, self.window_every) = (4096, 2);
                (self.attention_cap, self.logit_cap) = (50.0, 30.0);
            }
            "gemma3" => {
                (self.arch, self.eps, self.tied, self.vocabulary) = ("gemma3", 1e-6, true, Vocabulary::Gemma);
                (self.window, self.window_every, self.rope_base) = (512, 6, 1_000_000.0);
            }
            "phi3" => self.arch = "phi3",
            _ => {}
        }
    }

    /// Changes one option; see [`OPTIONS`].
    ///
    /// # Errors
    /// [`Class::Usage`] for an unknown name or a value that cannot be read.
    pub fn set(&mut self, option: &str, value: &str) -> Result<()> {
        let bad = |expected: &str| {
            Error::new(Class::Usage, "impossible option of a shape").at(option).expected_got(expected, value)
        };
        let count = || value.parse::<usize>().map_err(|_| bad("a whole number"));
        let number = || {
            value
                .parse::<f32>()
                .ok()
                .filter(|x| x.is_finite() && *x >= 0.0)
                .ok_or_else(|| bad("a number from 0"))
        };
        match option {
            "layers" => self.layers = count()?,
            "width" => self.width = count()?,
            "heads" => self.heads = count()?,
            "kv_heads" => self.kv_heads = count()?,
            "head_dim" => {
                self.head_dim = count()?;
                self.rope_dim = self.head_dim;
            }
            "ffn" => self.ffn = count()?,
            "vocab" => self.vocab = count()?,
            "context" => self.context = count()?,
            "original_context" => self.original_context = count()?,
            "rope_base" => self.rope_base = number()?,
            "rope" => self.rope = rope(value).ok_or_else(|| bad(OPTIONS[10].1))?,
            "rope_dim" => self.rope_dim = count()?,
            "eps" => self.eps = number()?,
            "tied" => self.tied = value.parse().map_err(|_| bad("true or false"))?,
            "bias" => {
                self.bias = match value {
                    "none" => Bias::None,
                    "qkv" => Bias::Qkv,
                    "all" => Bias::All,
                    _ => return Err(bad("none, qkv or all")),
                }
            }
            "window" => self.window = count()?,
            "window_every" => self.window_every = count()?,
            "attention_cap" => self.attention_cap = number()?,
            "logit_cap" => self.logit_cap = number()?,
            _ => {
                let names: Vec<_> = OPTIONS.iter().map(|o| o.0).collect();
                return Err(Error::new(Class::Usage, "unknown option of a shape")
                    .expected_got(names.join(", "), option));
            }
        }
        Ok(())
    }

    /// Values of all query heads.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Values of all key (or value) heads.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Whether heads of q and k are normed.
    pub fn qk_norms(&self) -> bool {
        matches!(self.arch, "qwen3" | "gemma3")
    }

    /// Whether there are norms behind the two halves of a layer, too.
    pub fn post_norms(&self) -> bool {
        matches!(self.arch, "gemma2" | "gemma3")
    }

    /// Checks that the sizes belong together and that programs can load the result.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |option: &str, expected: String, got: &dyn std::fmt::Display| {
            Err(Error::new(Class::Usage, "impossible shape").at(option).expected_got(expected, got))
        };
        for (option, value, most) in [
            ("layers", self.layers, 512),
            ("width", self.width, 1 << 16),
            ("heads", self.heads, 1 << 10),
            ("kv_heads", self.kv_heads, self.heads),
            ("head_dim", self.head_dim, 1 << 10),
            ("ffn", self.ffn, 1 << 18),
            ("context", self.context, 1 << 24),
            ("original_context", self.original_context, self.context),
            ("rope_dim", self.rope_dim, self.head_dim),
            ("window", self.window.max(1), 1 << 24),
            ("window_every", self.window_every, 1 << 10),
        ] {
            if !(1..=most).contains(&value) {
                return bad(option, format!("1 to {most}"), &value);
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad("kv_heads", format!("a divisor of {}", self.heads), &self.kv_heads);
        }
        if !self.rope_dim.is_multiple_of(2) {
            return bad("rope_dim", "an even number".into(), &self.rope_dim);
        }
        if matches!(self.arch, "qwen2" | "phi3") && self.q_width() != self.width {
            return bad("head_dim", format!("width / heads in {}", self.arch), &self.head_dim);
        }
        if self.bias == Bias::All && self.arch != "llama" {
            return bad("bias", format!("none or qkv in {}", self.arch), &"all");
        }
        if matches!(self.rope, Rope::Long(_)) && self.arch != "phi3" {
            return bad("rope", format!("another scaling in {}", self.arch), &"long");
        }
        if self.arch == "gemma2" && !self.tied {
            return bad("tied", "true in gemma2".into(), &false);
        }
        let windows = matches!(self.arch, "gemma2" | "gemma3");
        if self.window > 0 && !windows {
            return bad("window", format!("0 in {}", self.arch), &self.window);
        }
        if self.attention_cap > 0.0 && self.arch != "gemma2" {
            return bad("attention_cap", format!("0 in {}", self.arch), &self.attention_cap);
        }
        if self.logit_cap > 0.0 && !windows {
            return bad("logit_cap", format!("0 in {}", self.arch), &self.logit_cap);
        }
        Ok(())
    }
}

fn rope(value: &str) -> Option<Rope> {
    let (kind, factor) = value.split_once(':').unwrap_or((value, "4"));
    let factor: f32 = factor.parse().ok().filter(|f| (1.0..=1e4).contains(f))?;
    Some(match kind {
        "plain" => Rope::Plain,
        "linear" => Rope::Linear(factor),
        "yarn" => Rope::Yarn(factor),
        "llama3" => Rope::Llama3(factor),
        "long" => Rope::Long(factor),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_shape_is_possible() {
        for name in Shape::names() {
            Shape::named(name).unwrap().check().unwrap();
        }
        assert_eq!(Shape::named("llama-9b").unwrap_err().class, Class::Usage);
    }

    #[test]
    fn every_option_can_be_set() {
        for (option, _) in OPTIONS {
            let value = match option {
                "rope" => "yarn:2",
                "tied" => "true",
                "bias" => "qkv",
                _ => "7",
            };
            let mut shape = Shape::named("tiny-llama").unwrap();
            let before = shape.clone();
            shape.set(option, value).unwrap();
            assert_ne!(shape, before, "{option}");
            assert_eq!(shape.set(option, "x").unwrap_err().class, Class::Usage, "{option}");
        }
        let mut shape = Shape::named("tiny-llama").unwrap();
        assert!(shape.set("colour", "1").is_err());
        shape.set("kv_heads", "3").unwrap();
        assert_eq!(shape.check().unwrap_err().at, "kv_heads");
    }
}
