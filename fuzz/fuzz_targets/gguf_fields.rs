//! GGUF files put together from fields, most of them right, so that the deep checks are reached.
#![no_main]
mod common;

use arbitrary::Arbitrary;

#[derive(Arbitrary, Debug)]
struct File {
    version_2: bool,
    keys: Vec<(Name, Value)>,
    tensors: Vec<Tensor>,
    /// Added to the true numbers.
    more_keys: Lie,
    more_tensors: Lie,
    data: u16,
    flip: Option<(u16, u8)>,
}

/// Mostly the truth.
#[derive(Arbitrary, Debug)]
enum Lie {
    True,
    True2,
    True3,
    By(i8),
    To(u64),
}

impl Lie {
    fn tell(&self, truth: u64) -> u64 {
        match self {
            Lie::True | Lie::True2 | Lie::True3 => truth,
            Lie::By(n) => truth.wrapping_add_signed((*n).into()),
            Lie::To(n) => *n,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Name {
    /// One that programs look for.
    Known(u8),
    Any(String),
    Raw(Vec<u8>, Lie),
}

const KNOWN: [&str; 24] = [
    "general.architecture",
    "general.alignment",
    "general.type",
    "split.count",
    "split.no",
    "split.tensors.count",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.merges",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
];
const TENSORS: [&str; 8] = [
    "token_embd.weight",
    "output.weight",
    "output_norm.weight",
    "rope_freqs.weight",
    "blk.0.attn_q.weight",
    "blk.0.attn_norm.weight",
    "blk.0.ffn_down.weight",
    "blk.0.attn_v.bias",
];
const WORDS: [&str; 10] =
    ["llama", "qwen2", "gemma3", "gpt2", "default", "linear", "yarn", "a", "▁", "<0x41>"];

#[derive(Arbitrary, Debug)]
enum Value {
    U8(u8),
    U32(u32),
    Small(u8),
    I32(i32),
    U64(u64),
    F32(f32),
    Bool(u8),
    Word(u8),
    Str(String),
    Words(Vec<u8>, Lie),
    Strs(Vec<String>),
    I32s(Vec<i32>, Lie),
    F32s(Vec<f32>),
    Other(u32, Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Tensor {
    name: Name,
    dims: Vec<Dim>,
    ty: u8,
    offset: Lie,
}

#[derive(Arbitrary, Debug)]
enum Dim {
    Block(u8),
    Small(u8),
    Any(u64),
}

fn text(out: &mut Vec<u8>, s: &[u8], lie: &Lie) {
    out.extend(lie.tell(s.len() as u64).to_le_bytes());
    out.extend(s);
}

fn name(out: &mut Vec<u8>, name: &Name, known: &[&str]) {
    match name {
        Name::Known(i) => text(out, known[usize::from(*i) % known.len()].as_bytes(), &Lie::True),
        Name::Any(s) => text(out, s.as_bytes(), &Lie::True),
        Name::Raw(s, lie) => text(out, s, lie),
    }
}

fn word(i: u8) -> &'static str {
    WORDS[usize::from(i) % WORDS.len()]
}

fn array(out: &mut Vec<u8>, id: u32, n: u64) {
    out.extend(9u32.to_le_bytes());
    out.extend(id.to_le_bytes());
    out.extend(n.to_le_bytes());
}

fn value(out: &mut Vec<u8>, value: &Value) {
    let mut scalar = |id: u32, bytes: &[u8]| {
        out.extend(id.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => scalar(0, &[*v]),
        Value::U32(v) => scalar(4, &v.to_le_bytes()),
        Value::Small(v) => scalar(4, &u32::from(*v).to_le_bytes()),
        Value::I32(v) => scalar(5, &v.to_le_bytes()),
        Value::U64(v) => scalar(10, &v.to_le_bytes()),
        Value::F32(v) => scalar(6, &v.to_le_bytes()),
        Value::Bool(v) => scalar(7, &[*v]),
        Value::Other(id, bytes) => scalar(*id, bytes),
        Value::Word(i) => {
            scalar(8, &[]);
            text(out, word(*i).as_bytes(), &Lie::True);
        }
        Value::Str(s) => {
            scalar(8, &[]);
            text(out, s.as_bytes(), &Lie::True);
        }
        Value::Words(all, lie) => {
            array(out, 8, lie.tell(all.len() as u64));
            all.iter().for_each(|&i| text(out, word(i).as_bytes(), &Lie::True));
        }
        Value::Strs(all) => {
            array(out, 8, all.len() as u64);
            all.iter().for_each(|s| text(out, s.as_bytes(), &Lie::True));
        }
        Value::I32s(all, lie) => {
            array(out, 5, lie.tell(all.len() as u64));
            all.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
        Value::F32s(all) => {
            array(out, 6, all.len() as u64);
            all.iter().for_each(|v| out.extend(v.to_le_bytes()));
        }
    }
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::from(*b"GGUF");
        out.extend(if self.version_2 { 2u32 } else { 3 }.to_le_bytes());
        out.extend(self.more_tensors.tell(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.more_keys.tell(self.keys.len() as u64).to_le_bytes());
        for (n, v) in &self.keys {
            name(&mut out, n, &KNOWN);
            value(&mut out, v);
        }
        let mut offset = 0u64;
        for t in &self.tensors {
            name(&mut out, &t.name, &TENSORS);
            out.extend((t.dims.len() as u32).to_le_bytes());
            let mut values = 1u64;
            for dim in &t.dims {
                let n = match dim {
                    Dim::Block(n) => 32 * u64::from(*n),
                    Dim::Small(n) => (*n).into(),
                    Dim::Any(n) => *n,
                };
                values = values.wrapping_mul(n);
                out.extend(n.to_le_bytes());
            }
            out.extend(u32::from(t.ty % 41).to_le_bytes());
            out.extend(t.offset.tell(offset).to_le_bytes());
            // Large enough for any type.
            offset = offset.wrapping_add(values.wrapping_mul(4).wrapping_add(31)) & !31;
        }
        out.resize(out.len().next_multiple_of(32) + 4 * usize::from(self.data), 0x3c);
        if let Some((at, xor)) = self.flip
            && let Some(byte) = out.get_mut(usize::from(at))
        {
            *byte ^= xor;
        }
        out
    }
}

libfuzzer_sys::fuzz_target!(|file: File| {
    common::open(&file.bytes());
});
