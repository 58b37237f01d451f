//! `gemma3`: as gemma 2 with norms on q and k instead of capped scores, and five layers with a window (and
//! their own rotary base) to one without.
use super::{DecoderSpec, Metadata, NormPlacement, RopeKind, RopeScaling, RopeSpec};
use crate::Result;

/// Every sixth layer sees everything.
const PERIOD: usize = 6;
/// Rotary base of the layers with a window, for files that do not state it. They are never stretched.
const LOCAL_BASE: f32 = 10_000.0;
/// Layers of the 27B model, which alone scales scores by √(width / heads) instead of √head_dim.
const LAYERS_27B: usize = 62;

pub(super) fn describe(meta: &Metadata) -> Result<DecoderSpec> {
    let mut spec = super::common(meta, RopeKind::Neox)?;
    super::gemma_defaults(&mut spec, LAYERS_27B);
    spec.norms = NormPlacement::BeforeAndAfter;
    spec.qk_norms = true;
    spec.logit_soft_cap = meta.number_unless_zero("final_logit_softcapping", super::CAPS)?;
    if let Some(window) = super::window(meta)? {
        let base = meta.number_or("rope.freq_base_swa", LOCAL_BASE, super::BASES)?;
        spec.ropes.push(RopeSpec { base, scaling: RopeScaling::None, amplitude: 1.0, ..spec.ropes[0].clone() });
        super::apply_windows(&mut spec, meta, window, PERIOD, 1)?;
    }
    Ok(spec)
}
