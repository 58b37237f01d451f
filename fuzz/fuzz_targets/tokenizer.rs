//! Vocabularies put together from fields; what loads encodes and decodes any text.
#![no_main]
use arbitrary::Arbitrary;
use lapwing_models::Class;
use lapwing_models::gguf::Strings;
use lapwing_models::tokenizer::{Parts, StreamDecoder, Tokenizer};

#[derive(Arbitrary, Debug)]
struct Vocabulary {
    bpe: bool,
    pre: u8,
    bytes: bool,
    words: Vec<String>,
    merges: Vec<(String, String)>,
    scores: Option<Vec<f32>>,
    types: Option<Vec<u8>>,
    ids: Vec<(u8, u8)>,
    bos: Option<bool>,
    space: Option<bool>,
    text: String,
    tokens: Vec<u16>,
}

const PRES: [&str; 9] =
    ["default", "gpt-2", "llama-bpe", "qwen2", "smollm", "deepseek-llm", "falcon", "tekken", "gpt-4o"];
const IDS: [&str; 5] =
    ["bos_token_id", "eos_token_id", "unknown_token_id", "eot_token_id", "fim_pre_token_id"];

libfuzzer_sys::fuzz_target!(|v: Vocabulary| {
    let mut tokens = Strings::new();
    let mut types = Vec::new();
    if v.bytes {
        for byte in 0..=255u8 {
            tokens.push(&format!("<0x{byte:02X}>"));
            types.push(6);
        }
    }
    for (i, word) in v.words.iter().enumerate() {
        tokens.push(word);
        types.push(v.types.as_ref().and_then(|types| types.get(i)).map_or(1, |&ty| i64::from(ty % 8)));
    }
    let merges: Strings = v.merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let ids: Vec<_> =
        v.ids.iter().map(|&(key, id)| (IDS[usize::from(key) % IDS.len()], u32::from(id))).collect();
    let mut parts = Parts::new(if v.bpe { "gpt2" } else { "llama" }, &tokens);
    parts.pre = Some(PRES[usize::from(v.pre) % PRES.len()]);
    parts.merges = Some(&merges);
    parts.scores = v.scores.as_deref();
    parts.token_type = v.types.as_ref().map(|_| &types[..]);
    parts.ids = &ids;
    parts.add_bos_token = v.bos;
    parts.add_space_prefix = v.space;
    let tokenizer = match Tokenizer::from_parts(&parts) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert_eq!(error.class, Class::BadFile, "{error}"),
    };
    for special in [false, true] {
        let ids = tokenizer.encode(&v.text, special);
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.n_vocab()));
        // Only what no token says may become markup, in a vocabulary that calls its unknown token that.
        let typed = |id| tokenizer.is_control(id) && tokenizer.unknown() != Some(id);
        assert!(special || !ids.iter().any(|&id| typed(id)));
        let _ = tokenizer.decode(&ids);
    }
    // Any ids at all, those beyond the vocabulary too: pieces are whole characters and add up.
    let ids: Vec<u32> = v.tokens.iter().map(|&id| id.into()).collect();
    let mut decoder = StreamDecoder::at_start(&tokenizer);
    let mut streamed: String = ids.iter().map(|&id| decoder.push(id)).collect();
    streamed += &decoder.finish();
    assert_eq!(streamed, tokenizer.decode(&ids));
});
