//! `qwen3`: Qwen 3 without experts. Norms on each head of q and k; heads wider than width / heads.
use super::{DecoderSpec, Metadata, RopeKind};
use crate::Result;

pub(super) fn describe(meta: &Metadata) -> Result<DecoderSpec> {
    let mut spec = super::common(meta, RopeKind::Neox)?;
    spec.qk_norms = true;
    Ok(spec)
}
