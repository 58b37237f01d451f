//! Which type each tensor of a model gets when the whole is asked for in one: `q4_0`, `q4_k_m` …
use lapwing_kernels::TensorType;

/// A way to store all tensors of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Every matrix in this type.
    All(TensorType),
    /// Q4_K, with Q6_K where errors cost most: the output, and attn_v and ffn_down of the first and last eighth
    /// of the layers and of every third between.
    Q4KM,
}

impl Mix {
    /// The mix of this name (case is ignored): any type's name, or `q4_k_m`.
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("q4_k_m") {
            return Some(Mix::Q4KM);
        }
        TensorType::from_name(name).map(Mix::All)
    }

    /// All names, for help and errors.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TensorType::ALL.iter().map(|t| t.name()).chain(["q4_k_m"])
    }

    /// The name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mix::All(ty) => ty.name(),
            Mix::Q4KM => "q4_k_m",
        }
    }

    /// The number that `general.file_type` gives it. Source: llama.cpp's `llama_ftype`.
    pub fn file_type(self) -> u32 {
        match self {
            Mix::Q4KM => 15,
            Mix::All(ty) => match ty {
                TensorType::F32 => 0,
                TensorType::F16 => 1,
                TensorType::Q4_0 => 2,
                TensorType::Q4_1 => 3,
                TensorType::Q8_0 => 7,
                TensorType::Q5_0 => 8,
                TensorType::Q5_1 => 9,
                TensorType::Q2K => 10,
                TensorType::Q3K => 11,
                TensorType::Q4K => 14,
                TensorType::Q5K => 16,
                TensorType::Q6K => 18,
                TensorType::Iq4Nl => 25,
                TensorType::Iq4Xs => 30,
                TensorType::Bf16 => 32,
            },
        }
    }

    /// The type of a tensor: `name` and `shape` (row length first) in a model of `layers` layers whose output
    /// is the embedding when `tied`.
    ///
    /// Vectors (norms, biases) stay f32. Rows that are not whole blocks of the type get the nearest type of
    /// smaller blocks, at last f16.
    pub fn type_of(self, name: &str, shape: &[usize], layers: usize, tied: bool) -> TensorType {
        if shape.len() < 2 {
            return TensorType::F32;
        }
        let ty = match self {
            Mix::All(ty) => ty,
            Mix::Q4KM if is_delicate(name, layers, tied) => TensorType::Q6K,
            Mix::Q4KM => TensorType::Q4K,
        };
        fitting(ty, shape[0])
    }
}

/// Whether `q4_k_m` keeps this tensor in six bits.
fn is_delicate(name: &str, layers: usize, tied: bool) -> bool {
    if name == "output.weight" || (tied && name == "token_embd.weight") {
        return true;
    }
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return false;
    };
    let Ok(i) = layer.parse::<usize>() else { return false };
    if part != "attn_v.weight" && part != "ffn_down.weight" {
        return false;
    }
    i < layers / 8 || i >= 7 * layers / 8 || (i - layers / 8) % 3 == 2
}

/// `ty`, or the nearest type in which a row of `cols` values is whole blocks.
fn fitting(ty: TensorType, cols: usize) -> TensorType {
    use TensorType::{F16, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    if cols.is_multiple_of(ty.block_len()) {
        return ty;
    }
    let smaller = match ty {
        Q2K | Q3K => Q4_0,
        Q4K => Q5_0,
        Q5K => Q5_1,
        Q6K => Q8_0,
        Iq4Xs => Iq4Nl,
        _ => F16,
    };
    if cols.is_multiple_of(smaller.block_len()) { smaller } else { F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found() {
        for name in Mix::names() {
            assert_eq!(Mix::from_name(&name.to_uppercase()).map(Mix::name), Some(name));
        }
        assert_eq!(Mix::from_name("q4_k_s"), None);
    }

    #[test]
    fn the_usual_mix() {
        let six: Vec<usize> = (0..32)
            .filter(|i| {
                Mix::Q4KM.type_of(&format!("blk.{i}.attn_v.weight"), &[4096, 4096], 32, false)
                    == TensorType::Q6K
            })
            .collect();
        assert_eq!(six, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        let ty = |name: &str, tied| Mix::Q4KM.type_of(name, &[4096, 32000], 32, tied);
        assert_eq!(ty("output.weight", false), TensorType::Q6K);
        assert_eq!(ty("token_embd.weight", false), TensorType::Q4K);
        assert_eq!(ty("token_embd.weight", true), TensorType::Q6K);
        assert_eq!(ty("blk.0.attn_q.weight", false), TensorType::Q4K);
        assert_eq!(ty("blk.0.attn_v.bias", false), TensorType::Q4K);
    }

    #[test]
    fn what_does_not_fit_gets_smaller_blocks() {
        let ty = |mix: Mix, shape: &[usize]| mix.type_of("blk.0.ffn_up.weight", shape, 1, false);
        assert_eq!(ty(Mix::Q4KM, &[896, 8]), TensorType::Q5_0);
        assert_eq!(ty(Mix::All(TensorType::Q6K), &[96, 8]), TensorType::Q8_0);
        assert_eq!(ty(Mix::All(TensorType::Q6K), &[48, 8]), TensorType::F16);
        assert_eq!(ty(Mix::All(TensorType::Q4_0), &[40, 8]), TensorType::F16);
        assert_eq!(ty(Mix::All(TensorType::Q4_0), &[64]), TensorType::F32);
    }
}
