//! `qwen2`: Qwen 2 and 2.5, Qwen 2.5 Coder. Biases on q, k and v, which the loader finds by name.
use super::{DecoderSpec, Metadata, RopeKind};
use crate::Result;

pub(super) fn describe(meta: &Metadata) -> Result<DecoderSpec> {
    super::common(meta, RopeKind::Neox)
}
