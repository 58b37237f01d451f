//! The weights of a decoder, found by name and checked against its spec.
use std::collections::HashSet;

use lapwing_kernels::format::decode_row;

use crate::arch::{DecoderSpec, NormPlacement};
use crate::gguf::{Gguf, Tensor, TensorId};
use crate::linear::Linear;
use crate::{Error, Result};

/// All weights of one model.
#[derive(Debug)]
pub struct Weights {
    /// One row per token: `[vocab][width]`.
    pub embedding: Linear,
    /// One entry per layer.
    pub layers: Vec<LayerWeights>,
    /// Weights of the last norm: `[width]`.
    pub norm: Vec<f32>,
    /// Rows of the logits, `[vocab][width]`: the embedding again where the file has no matrix of its own.
    pub output: Linear,
    /// Whether `output` is the embedding.
    pub tied: bool,
}

/// The weights of one layer. Norms are `[width]`, those of q and k `[head_dim]`.
#[derive(Debug)]
pub struct LayerWeights {
    /// Before the attention.
    pub attention_norm: Vec<f32>,
    /// `[heads · head_dim][width]`.
    pub q: Linear,
    /// `[kv_heads · head_dim][width]`.
    pub k: Linear,
    /// `[kv_heads · head_dim][width]`.
    pub v: Linear,
    /// Of each query head and of each key head.
    pub qk_norms: Option<(Vec<f32>, Vec<f32>)>,
    /// `[width][heads · head_dim]`.
    pub o: Linear,
    /// After the attention.
    pub attention_post_norm: Option<Vec<f32>>,
    /// Before the feed-forward.
    pub ffn_norm: Vec<f32>,
    /// `[ff][width]`.
    pub gate: Linear,
    /// `[ff][width]`.
    pub up: Linear,
    /// `[width][ff]`.
    pub down: Linear,
    /// After the feed-forward.
    pub ffn_post_norm: Option<Vec<f32>>,
}

impl Weights {
    /// Finds all weights that `spec` asks for in `gguf`.
    ///
    /// # Errors
    /// A tensor is missing, has another shape than the spec asks for or holds a number that is not finite where
    /// it is read now; or the file has tensors which would change the result and are not understood.
    pub(crate) fn find(gguf: &Gguf, spec: &DecoderSpec) -> Result<Self> {
        let mut finder = Finder { gguf, found: HashSet::new() };
        let embedding = finder.linear("token_embd.weight", spec.width, spec.vocab)?;
        let layers = (0..spec.layers.len()).map(|i| finder.layer(spec, i)).collect::<Result<_>>()?;
        let norm = finder.vector("output_norm.weight", spec.width)?;
        let own_output = finder.has("output.weight");
        let output = if own_output {
            finder.linear("output.weight", spec.width, spec.vocab)?
        } else {
            embedding.clone()
        };
        let output = output.with_bias(finder.vector_if_any("output.bias", spec.vocab)?);
        finder.check_all_understood()?;
        Ok(Self { embedding, layers, norm, output, tied: !own_output })
    }
}

/// The shape of a vocabulary: rows of the embedding.
pub(crate) fn vocab(gguf: &Gguf) -> Result<usize> {
    match gguf.tensor("token_embd.weight").map(|t| t.shape) {
        Some(&[_, vocab]) if u32::try_from(vocab).is_ok() => Ok(vocab),
        Some(shape) => Err(gguf.tensor_error(
            "token_embd.weight",
            "a tensor has the wrong shape",
            "[width, vocabulary]",
            format!("{shape:?}"),
        )),
        None => Err(missing(gguf, "token_embd.weight")),
    }
}

/// Per-pair divisors of rotary frequencies, if the file has the tensor.
pub(crate) fn rope_divisors(gguf: &Gguf, name: &str, pairs: usize) -> Result<Option<Vec<f32>>> {
    let Some(values) = (Finder { gguf, found: HashSet::new() }).vector_if_any(name, pairs)? else {
        return Ok(None);
    };
    match values.iter().find(|&&value| value <= 0.0) {
        Some(bad) => {
            Err(gguf.tensor_error(name, "a divisor of rotary frequencies is impossible", "more than 0", bad))
        }
        None => Ok(Some(values)),
    }
}

fn missing(gguf: &Gguf, name: &str) -> Error {
    Error::bad_file("a tensor is missing").in_file(gguf.path()).at(format!("tensor {name}"))
}

struct Finder<'a> {
    gguf: &'a Gguf,
    found: HashSet<TensorId>,
}

impl<'a> Finder<'a> {
    fn has(&self, name: &str) -> bool {
        self.gguf.tensor_id(name).is_some()
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<(TensorId, Tensor<'a>)> {
        let tensor = self.gguf.tensor_of_shape(name, shape)?;
        let id = self.gguf.tensor_id(name).ok_or_else(|| missing(self.gguf, name))?;
        self.found.insert(id);
        Ok((id, tensor))
    }

    fn linear(&mut self, name: &str, cols: usize, rows: usize) -> Result<Linear> {
        let (id, _) = self.tensor(name, &[cols, rows])?;
        Ok(Linear::new(name.to_owned(), id, 0, rows, cols))
    }

    /// Matrices whose rows follow each other in one tensor.
    fn fused<const N: usize>(&mut self, name: &str, cols: usize, rows: [usize; N]) -> Result<[Linear; N]> {
        let (id, _) = self.tensor(name, &[cols, rows.iter().sum()])?;
        let mut first = 0;
        Ok(rows.map(|rows| {
            first += rows;
            Linear::new(name.to_owned(), id, first - rows, rows, cols)
        }))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (_, tensor) = self.tensor(name, &[len])?;
        let mut values = vec![0.0; len];
        decode_row(tensor.ty, tensor.data, &mut values);
        match values.iter().find(|value| !value.is_finite()) {
            Some(bad) => Err(self.gguf.tensor_error(name, "a weight is not finite", "finite numbers", bad)),
            None => Ok(values),
        }
    }

    fn vector_if_any(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        if self.has(name) { self.vector(name, len).map(Some) } else { Ok(None) }
    }

    fn layer(&mut self, spec: &DecoderSpec, i: usize) -> Result<LayerWeights> {
        let (ff, _) = spec.dense()?;
        let name = |part: &str| format!("blk.{i}.{part}");
        let [q, k, v] = self.qkv(spec, i)?;
        let [gate, up] = self.gate_up(spec.width, ff, i)?;
        let o = self.linear(&name("attn_output.weight"), spec.q_width(), spec.width)?;
        let o = o.with_bias(self.vector_if_any(&name("attn_output.bias"), spec.width)?);
        let down = self.linear(&name("ffn_down.weight"), ff, spec.width)?;
        let down = down.with_bias(self.vector_if_any(&name("ffn_down.bias"), spec.width)?);
        let qk_norms = if spec.qk_norms {
            let of_q = self.vector(&name("attn_q_norm.weight"), spec.head_dim)?;
            Some((of_q, self.vector(&name("attn_k_norm.weight"), spec.head_dim)?))
        } else {
            None
        };
        let mut post_norm = |part: &str| match spec.norms {
            NormPlacement::Before => Ok(None),
            NormPlacement::BeforeAndAfter => self.vector(&name(part), spec.width).map(Some),
        };
        let attention_post_norm = post_norm("post_attention_norm.weight")?;
        let ffn_post_norm = post_norm("post_ffw_norm.weight")?;
        Ok(LayerWeights {
            attention_norm: self.vector(&name("attn_norm.weight"), spec.width)?,
            q,
            k,
            v,
            qk_norms,
            o,
            attention_post_norm,
            ffn_norm: self.vector(&name("ffn_norm.weight"), spec.width)?,
            gate,
            up,
            down,
            ffn_post_norm,
        })
    }

    /// q, k and v: three tensors, or one with the rows of all three.
    fn qkv(&mut self, spec: &DecoderSpec, i: usize) -> Result<[Linear; 3]> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let rows = [spec.q_width(), spec.kv_width(), spec.kv_width()];
        let fused = name("attn_qkv.weight");
        let [q, k, v] = if self.has(&fused) {
            self.fused(&fused, spec.width, rows)?
        } else {
            [
                self.linear(&name("attn_q.weight"), spec.width, rows[0])?,
                self.linear(&name("attn_k.weight"), spec.width, rows[1])?,
                self.linear(&name("attn_v.weight"), spec.width, rows[2])?,
            ]
        };
        if let Some(bias) = self.vector_if_any(&name("attn_qkv.bias"), rows.iter().sum())? {
            let (of_q, rest) = bias.split_at(rows[0]);
            let (of_k, of_v) = rest.split_at(rows[1]);
            return Ok([
                q.with_bias(Some(of_q.to_vec())),
                k.with_bias(Some(of_k.to_vec())),
                v.with_bias(Some(of_v.to_vec())),
            ]);
        }
        Ok([
            q.with_bias(self.vector_if_any(&name("attn_q.bias"), rows[0])?),
            k.with_bias(self.vector_if_any(&name("attn_k.bias"), rows[1])?),
            v.with_bias(self.vector_if_any(&name("attn_v.bias"), rows[2])?),
        ])
    }

    /// gate and up: two tensors, or one named `up` with the rows of both (phi3).
    fn gate_up(&mut self, width: usize, ff: usize, i: usize) -> Result<[Linear; 2]> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let (gate, up) = (name("ffn_gate.weight"), name("ffn_up.weight"));
        // A lone `up` of its own size misses its gate; of any other size it has to be both.
        let both = self.gguf.tensor(&up).is_some_and(|t| t.shape != [width, ff]);
        if both && !self.has(&gate) {
            return self.fused(&up, width, [ff, ff]);
        }
        let gate = self.linear(&gate, width, ff)?;
        let gate = gate.with_bias(self.vector_if_any(&name("ffn_gate.bias"), ff)?);
        let up = self.linear(&up, width, ff)?;
        Ok([gate, up.with_bias(self.vector_if_any(&name("ffn_up.bias"), ff)?)])
    }

    /// Tensors of the decoder that nothing above asked for would silently change the result.
    fn check_all_understood(&self) -> Result<()> {
        for tensor in self.gguf.tensors() {
            let of_decoder =
                ["blk.", "output", "token_embd"].iter().any(|start| tensor.name.starts_with(start));
            // Written by old converters; computed from the metadata here.
            let derived = ["rot_embd", "rotary_emb", "rope_f"].iter().any(|part| tensor.name.contains(part));
            let found = self.gguf.tensor_id(tensor.name).is_some_and(|id| self.found.contains(&id));
            if of_decoder && !derived && !found {
                let names = self.gguf.architecture()?;
                return Err(Error::bad_file(format!("models of architecture {names} have no such tensor"))
                    .in_file(self.gguf.path())
                    .at(format!("tensor {}", crate::gguf::shown(tensor.name)))
                    .advice("the file may need a newer program"));
            }
        }
        Ok(())
    }
}
