//! `phi3`: Phi 3, 3.5 and 4 (mini and 14B). q|k|v and gate|up are one tensor each, which the loader cuts into
//! views; LongRoPE divisors for long contexts; the mini of version 4 rotates only part of a head.
use super::{DecoderSpec, Metadata, RopeDivisors, RopeKind};
use crate::Result;

pub(super) fn describe(meta: &Metadata) -> Result<DecoderSpec> {
    let mut spec = super::common(meta, RopeKind::Neox)?;
    let original_context = super::original_context(meta, spec.context)?;
    spec.ropes[0].divisors = RopeDivisors::ByContext { original_context };
    // The models were trained with this window (the 4k ones with 2,047 positions), in every layer.
    if let Some(window) = super::window(meta)? {
        super::apply_windows(&mut spec, meta, window, usize::MAX, 0)?;
    }
    Ok(spec)
}
