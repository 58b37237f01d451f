//! `gemma2`: norms before and after each half, every second layer sees a window, scores and logits are capped.
use super::{DecoderSpec, Metadata, NormPlacement, RopeKind};
use crate::Result;

/// Window of all published Gemma 2 models, for files that do not state it.
const WINDOW: usize = 4096;
/// Every second layer sees everything.
const PERIOD: usize = 2;
/// Layers of the 27B model, which alone scales scores by √(width / heads) instead of √head_dim.
const LAYERS_27B: usize = 46;

pub(super) fn describe(meta: &Metadata) -> Result<DecoderSpec> {
    let mut spec = super::common(meta, RopeKind::Neox)?;
    super::gemma_defaults(&mut spec, LAYERS_27B);
    spec.norms = NormPlacement::BeforeAndAfter;
    spec.attention_soft_cap = meta.number_unless_zero("attn_logit_softcapping", super::CAPS)?.or(Some(50.0));
    spec.logit_soft_cap = meta.number_unless_zero("final_logit_softcapping", super::CAPS)?.or(Some(30.0));
    let window = super::window(meta)?.unwrap_or(WINDOW);
    super::apply_windows(&mut spec, meta, window, PERIOD, 0)?;
    Ok(spec)
}
