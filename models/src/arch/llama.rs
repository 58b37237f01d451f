//! `llama`: Llama 1, 2, 3, Mistral, SmolLM, Vicuna, TinyLlama and many more.
//!
//! Rotates neighbouring values: the conversion to GGUF permutes the rows of q and k to that end.
use super::{DecoderSpec, Metadata, RopeKind};
use crate::Result;

pub(super) fn describe(meta: &Metadata) -> Result<DecoderSpec> {
    let mut spec = super::common(meta, RopeKind::Norm)?;
    // The first Mistral models were trained with one window for all layers.
    if let Some(window) = super::window(meta)? {
        super::apply_windows(&mut spec, meta, window, usize::MAX, 0)?;
    }
    Ok(spec)
}
