//! Names of modules in Hugging Face checkpoints and of tensors in GGUF files.

/// Layer modules and the GGUF tensors that hold their weights.
/// Source: the tensor naming of the GGUF specification and the module names of the transformers library.
const LAYER_MODULES: &[(&str, &str)] = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// The GGUF tensor of a module: `model.layers.3.self_attn.q_proj` is `blk.3.attn_q.weight`.
pub fn tensor_of_module(module: &str) -> Option<String> {
    let module = module.strip_prefix("language_model.").unwrap_or(module);
    match module {
        "lm_head" => return Some("output.weight".into()),
        "model.embed_tokens" => return Some("token_embd.weight".into()),
        _ => {}
    }
    let (layer, rest) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, tensor) = LAYER_MODULES.iter().find(|(name, _)| *name == rest)?;
    Some(format!("blk.{layer}.{tensor}.weight"))
}

/// The module of a GGUF tensor, the inverse of `tensor_of_module` (`fused_gate_up` chooses phi3's name of `ffn_up`).
pub fn module_of_tensor(tensor: &str, fused_gate_up: bool) -> Option<String> {
    match tensor {
        "output.weight" => return Some("lm_head".into()),
        "token_embd.weight" => return Some("model.embed_tokens".into()),
        _ => {}
    }
    let (layer, rest) = tensor.strip_prefix("blk.")?.strip_suffix(".weight")?.split_once('.')?;
    let mut names = LAYER_MODULES.iter().filter(|(_, t)| *t == rest).map(|(name, _)| *name);
    let first = names.next()?;
    let name = if fused_gate_up { names.next().unwrap_or(first) } else { first };
    Some(format!("model.layers.{layer}.{name}"))
}

/// Whether a tensor is a q or k projection, whose rows the GGUF of the `llama` architecture reorders.
pub fn is_rotary_projection(tensor: &str) -> bool {
    tensor.ends_with(".attn_q.weight") || tensor.ends_with(".attn_k.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_and_tensors_are_inverse() {
        for (module, tensor) in [
            ("model.layers.3.self_attn.q_proj", "blk.3.attn_q.weight"),
            ("model.layers.11.mlp.down_proj", "blk.11.ffn_down.weight"),
            ("lm_head", "output.weight"),
            ("model.embed_tokens", "token_embd.weight"),
        ] {
            assert_eq!(tensor_of_module(module).as_deref(), Some(tensor));
            assert_eq!(module_of_tensor(tensor, false).as_deref(), Some(module));
        }
        assert_eq!(
            tensor_of_module("model.layers.0.mlp.gate_up_proj").as_deref(),
            Some("blk.0.ffn_up.weight")
        );
        assert_eq!(
            module_of_tensor("blk.0.ffn_up.weight", true).as_deref(),
            Some("model.layers.0.mlp.gate_up_proj")
        );
        assert_eq!(tensor_of_module("model.layers.0.input_layernorm"), None);
        assert_eq!(tensor_of_module("model.layers.x.mlp.up_proj"), None);
    }
}
