//! Architectures as data: the metadata of a file becomes a [`DecoderSpec`], which one decoder reads.
//!
//! A new architecture is one file with a `describe` function and one line in `architectures!`.
mod metadata;
mod spec;

pub use metadata::{Keys, Metadata};
pub use spec::{
    Activation, DecoderSpec, FeedForward, LayerSpec, NormPlacement, RopeDivisors, RopeKind, RopeScaling,
    RopeSpec,
};

use crate::{Error, Result};

/// One supported architecture.
#[derive(Clone, Copy)]
pub struct Architecture {
    /// As in `general.architecture`.
    pub name: &'static str,
    describe: fn(&Metadata) -> Result<DecoderSpec>,
}

macro_rules! architectures {
    ($($module:ident),* $(,)?) => {
        $(mod $module;)*

        /// Every supported architecture.
        pub const ALL: &[Architecture] =
            &[$(Architecture { name: stringify!($module), describe: $module::describe }),*];
    };
}

architectures![llama, qwen2, qwen3, gemma2, gemma3, phi3];

/// Describes the model whose hyper-parameters are `keys`.
///
/// `vocab` is left at 0: it is the number of rows of the embedding, which only the tensors tell.
///
/// # Errors
/// A missing or unknown architecture, hyper-parameters missing or out of range, features not computed.
pub fn describe(keys: &dyn Keys) -> Result<DecoderSpec> {
    let place = "general.architecture";
    let names = || ALL.iter().map(|a| a.name).collect::<Vec<_>>().join(", ");
    let Some(name) = keys.text(place)? else {
        return Err(Error::bad_file("the file does not name an architecture")
            .at(place)
            .expected_got(names(), "nothing"));
    };
    let Some(architecture) = ALL.iter().find(|a| a.name == name) else {
        return Err(Error::bad_file("this architecture is not supported")
            .at(place)
            .expected_got(names(), name));
    };
    (architecture.describe)(&Metadata::new(keys, architecture.name))
}

// Limits of hyper-parameters: several times what the largest published models have, and small enough that
// products of two of them stay far from overflow.
const MAX_LAYERS: usize = 512;
const MAX_WIDTH: usize = 1 << 17;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_FEED_FORWARD: usize = 1 << 20;
const MAX_CONTEXT: usize = 1 << 27;
const MAX_EXPERTS: usize = 1 << 16;
/// Soft caps.
const CAPS: std::ops::RangeInclusive<f32> = 1e-3..=1e6;
/// Rotary bases.
const BASES: std::ops::RangeInclusive<f32> = 1.0..=1e12;
/// Factors of frequencies, scores and embeddings.
const FACTORS: std::ops::RangeInclusive<f32> = 1e-6..=1e6;

/// What nearly all decoders share: sizes, one rotary embedding, norms before each half, SiLU.
fn common(meta: &Metadata, kind: RopeKind) -> Result<DecoderSpec> {
    let context = meta.count("context_length", 1..=MAX_CONTEXT)?;
    let width = meta.count("embedding_length", 1..=MAX_WIDTH)?;
    let layers = meta.count("block_count", 1..=MAX_LAYERS)?;
    let heads = meta.count("attention.head_count", 1..=MAX_HEADS)?;
    let kv_heads = meta.count_or("attention.head_count_kv", heads, 1..=heads)?;
    if !heads.is_multiple_of(kv_heads) {
        return Err(Error::bad_file("query heads cannot be shared out evenly among key/value heads")
            .at(meta.name("attention.head_count_kv"))
            .expected_got(format!("a divisor of {heads}"), kv_heads));
    }
    let head_dim = head_dim(meta, width, heads)?;
    let feed_forward = match meta.count_or("expert_count", 0, 0..=MAX_EXPERTS)? {
        0 => FeedForward::Dense {
            width: meta.count("feed_forward_length", 1..=MAX_FEED_FORWARD)?,
            activation: Activation::Silu,
        },
        experts => FeedForward::Moe { experts, used: meta.count_or("expert_used_count", 0, 0..=experts)? },
    };
    if meta.count_or("nextn_predict_layers", 0, 0..=MAX_LAYERS)? != 0 {
        return Err(Error::bad_file("extra layers that predict several tokens are not supported")
            .at(meta.name("nextn_predict_layers")));
    }
    Ok(DecoderSpec {
        architecture: meta.architecture(),
        context,
        vocab: 0,
        width,
        heads,
        kv_heads,
        head_dim,
        layers: vec![LayerSpec { window: None, rope: 0 }; layers],
        feed_forward,
        norms: NormPlacement::Before,
        norm_eps: meta.number("attention.layer_norm_rms_epsilon", 0.0..=1.0)?,
        qk_norms: false,
        ropes: vec![rope(meta, kind, head_dim, context)?],
        attention_scale: match meta.number_unless_zero("attention.scale", FACTORS)? {
            Some(scale) => scale,
            None => 1.0 / (head_dim as f32).sqrt(),
        },
        attention_soft_cap: None,
        embedding_scale: 1.0,
        logit_scale: 1.0,
        logit_soft_cap: None,
    })
}

fn head_dim(meta: &Metadata, width: usize, heads: usize) -> Result<usize> {
    let head_dim = match meta.count_if_any("attention.key_length", 1..=MAX_HEAD_DIM)? {
        Some(dim) => dim,
        None if width.is_multiple_of(heads) && width / heads <= MAX_HEAD_DIM => width / heads,
        None => {
            return Err(Error::bad_file("the size of a head cannot be told from width and heads")
                .at(meta.name("attention.key_length"))
                .expected_got(
                    format!("a width of at most {heads} times {MAX_HEAD_DIM}, and divisible"),
                    width,
                ));
        }
    };
    let values = meta.count_or("attention.value_length", head_dim, 1..=MAX_HEAD_DIM)?;
    if values == head_dim {
        return Ok(head_dim);
    }
    Err(Error::bad_file("value heads of another size than key heads are not supported")
        .at(meta.name("attention.value_length"))
        .expected_got(head_dim, values))
}

fn rope(meta: &Metadata, kind: RopeKind, head_dim: usize, context: usize) -> Result<RopeSpec> {
    let dim = meta.count_or("rope.dimension_count", head_dim, 2..=head_dim)?;
    if !dim.is_multiple_of(2) {
        return Err(Error::bad_file("rotations need pairs of values")
            .at(meta.name("rope.dimension_count"))
            .expected_got("an even number", dim));
    }
    // `rope.scale_linear` is the name that files of 2023 use.
    let factor = match meta.number_unless_zero("rope.scaling.factor", FACTORS)? {
        Some(factor) => factor,
        None => meta.number_unless_zero("rope.scale_linear", FACTORS)?.unwrap_or(1.0),
    };
    let amplitude = meta.number_or("rope.scaling.attn_factor", 1.0, FACTORS)?;
    let original_context = original_context(meta, context)?;
    let mut rope = RopeSpec {
        kind,
        dim,
        base: meta.number_or("rope.freq_base", 10_000.0, BASES)?,
        scaling: RopeScaling::None,
        divisors: RopeDivisors::Optional,
        amplitude,
    };
    let scaling = meta.text("rope.scaling.type")?.unwrap_or("linear");
    match scaling {
        "none" => {}
        "linear" if factor == 1.0 => {}
        "linear" => rope.scaling = RopeScaling::Linear { factor },
        "longrope" => {
            rope.divisors = RopeDivisors::ByContext { original_context };
            if factor != 1.0 {
                rope.scaling = RopeScaling::Linear { factor };
            }
        }
        "yarn" => {
            rope.scaling = RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast: meta.number_or("rope.scaling.yarn_beta_fast", 32.0, FACTORS)?,
                beta_slow: meta.number_or("rope.scaling.yarn_beta_slow", 1.0, FACTORS)?,
                log_multiplier: meta.number_or("rope.scaling.yarn_log_multiplier", 0.0, 0.0..=1e3)?,
            };
        }
        _ => {
            return Err(Error::bad_file("this kind of rope scaling is not supported")
                .at(meta.name("rope.scaling.type"))
                .expected_got("none, linear, yarn or longrope", scaling));
        }
    }
    Ok(rope)
}

/// The context before any stretching.
fn original_context(meta: &Metadata, context: usize) -> Result<usize> {
    meta.count_or("rope.scaling.original_context_length", context, 1..=MAX_CONTEXT)
}

/// The sliding window, when there is one (0 means none).
fn window(meta: &Metadata) -> Result<Option<usize>> {
    Ok(meta.count_if_any("attention.sliding_window", 0..=usize::MAX >> 1)?.filter(|&w| w != 0))
}

/// Gives `window` and the rope with index `local_rope` to the layers that the file lists, or else to all but
/// each `period`-th.
fn apply_windows(
    spec: &mut DecoderSpec,
    meta: &Metadata,
    window: usize,
    period: usize,
    local_rope: usize,
) -> Result<()> {
    const KEY: &str = "attention.sliding_window_pattern";
    let local = LayerSpec { window: Some(window), rope: local_rope };
    if let Ok(Some(list)) = meta.list(KEY) {
        if list.len() != spec.layers.len() {
            return Err(Error::bad_file("the window pattern does not fit the layers")
                .at(meta.name(KEY))
                .expected_got(format!("{} entries", spec.layers.len()), list.len()));
        }
        for (layer, &is_local) in spec.layers.iter_mut().zip(&list) {
            if is_local != 0 {
                *layer = local;
            }
        }
        return Ok(());
    }
    // A period of 0 says that no layer sees everything.
    let period = match meta.count_or(KEY, period, 0..=usize::MAX)? {
        0 => usize::MAX,
        period => period,
    };
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if !(i + 1).is_multiple_of(period) {
            *layer = local;
        }
    }
    Ok(())
}

/// What the gemma family shares: embeddings scaled by √width, GELU, another score scale in the 27B model.
fn gemma_defaults(spec: &mut DecoderSpec, layers_27b: usize) {
    spec.embedding_scale = (spec.width as f32).sqrt();
    if let FeedForward::Dense { activation, .. } = &mut spec.feed_forward {
        *activation = Activation::GeluTanh;
    }
    if spec.layers.len() == layers_27b {
        spec.attention_scale = 1.0 / ((spec.width / spec.heads) as f32).sqrt();
    }
}

#[cfg(test)]
mod tests;
