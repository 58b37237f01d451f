//! A tokeniser out of the metadata of a model file.
use super::bpe::Bpe;
use super::pre::PreTokenizer;
use super::special::{self, SpecialTree};
use super::spm::{self, Spm};
use super::vocab::{Vocab, kind};
use super::{Scheme, Tokenizer};
use crate::error::{Error, Result};
use crate::gguf::{Gguf, Strings};

/// What a file says about its tokeniser; the names are those of the keys under `tokenizer.ggml.`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Parts<'a> {
    pub model: &'a str,
    pub tokens: &'a Strings,
    pub pre: Option<&'a str>,
    /// `general.name`: some attributes of tokens are known by it alone.
    pub name: &'a str,
    pub scores: Option<&'a [f32]>,
    pub token_type: Option<&'a [i64]>,
    pub merges: Option<&'a Strings>,
    /// Ids by their keys, `bos_token_id` and so on.
    pub ids: &'a [(&'a str, u32)],
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    pub add_space_prefix: Option<bool>,
}

impl<'a> Parts<'a> {
    /// A vocabulary and nothing else.
    pub fn new(model: &'a str, tokens: &'a Strings) -> Self {
        Self {
            model,
            tokens,
            pre: None,
            name: "",
            scores: None,
            token_type: None,
            merges: None,
            ids: &[],
            add_bos_token: None,
            add_eos_token: None,
            add_space_prefix: None,
        }
    }
}

/// The keys of ids that mean something here, without `tokenizer.ggml.`.
const ID_KEYS: [&str; 8] = [
    "bos_token_id",
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "unknown_token_id",
    "fim_pad_token_id",
    "fim_rep_token_id",
    "fim_sep_token_id",
];

/// Texts of tokens that end an answer, whatever the file says of them. Source: llama.cpp.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Texts of tokens for filling in code. The first of each row that a vocabulary has is markup whatever the
/// file says of it; `true`: it ends an answer, too. Source: llama.cpp.
const FILL_IN: [(bool, &str, &[&str]); 6] = [
    (
        false,
        "fim_pre_token_id",
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        false,
        "fim_suf_token_id",
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        false,
        "fim_mid_token_id",
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (true, "fim_pad_token_id", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (true, "fim_rep_token_id", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    (true, "fim_sep_token_id", &["<|file_sep|>"]),
];

impl Tokenizer {
    /// The tokeniser of a model file.
    ///
    /// # Errors
    /// Naming the key when it is missing, of the wrong type, too short or out of range, and when the kind
    /// of tokeniser or its pre-tokeniser is not known.
    pub fn from_gguf(file: &Gguf) -> Result<Self> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let token_type = file.opt_ints(&key("token_type"))?;
        let mut ids = Vec::new();
        for name in ID_KEYS.into_iter().chain(FILL_IN.iter().map(|row| row.1)) {
            if let Some(id) = file.opt_u32(&key(name))? {
                ids.push((name, id));
            }
        }
        let model = file.get_str(&key("model"))?;
        let parts = Parts {
            model,
            tokens: file.get_strings(&key("tokens"))?,
            pre: file.opt_str(&key("pre"))?,
            name: file.opt_str("general.name")?.unwrap_or_default(),
            scores: file.opt_f32s(&key("scores"))?,
            token_type: token_type.as_deref(),
            merges: file.opt_strings(&key("merges"))?,
            ids: &ids,
            add_bos_token: file.opt_bool(&key("add_bos_token"))?,
            add_eos_token: file.opt_bool(&key("add_eos_token"))?,
            add_space_prefix: file.opt_bool(&key("add_space_prefix"))?,
        };
        Self::from_parts(&parts).map_err(|error| error.in_file(file.path()))
    }

    /// The tokeniser that `parts` describe.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn from_parts(parts: &Parts<'_>) -> Result<Self> {
        let n = parts.tokens.len();
        let (spm, pre) = match parts.model {
            "llama" => (true, None),
            "gpt2" => (false, Some(pre_tokenizer(parts.pre)?)),
            other => {
                return Err(Error::bad_file("this kind of tokeniser is not supported")
                    .at("key tokenizer.ggml.model")
                    .expected_got("llama or gpt2", format!("{other:?}")));
            }
        };
        // Room for the symbols that merges may add, and for "none".
        if n == 0 || n > i32::MAX as usize {
            return Err(Error::bad_file("a vocabulary has an impossible size")
                .at("key tokenizer.ggml.tokens")
                .expected_got("1 to 2147483647 tokens", n));
        }
        let mut vocab = Vocab::new(parts.tokens.clone(), kinds(parts.token_type, n)?);
        spm::check_bytes(&vocab)?;

        let id = |key: &str, default: Option<u32>| match parts.ids.iter().find(|(name, _)| *name == key) {
            None => Ok(default.filter(|&id| (id as usize) < n)),
            Some(&(_, id)) if (id as usize) < n => Ok(Some(id)),
            Some(&(_, id)) => Err(Error::bad_file("a token id lies beyond the vocabulary")
                .at(format!("key tokenizer.ggml.{key}"))
                .expected_got(format!("less than {n}"), id)),
        };
        // The defaults of the first Llama, which says nothing of its ids in old files.
        let bos = id("bos_token_id", spm.then_some(1))?;
        let eos = id("eos_token_id", spm.then_some(2))?;
        let unknown = id("unknown_token_id", spm.then_some(0))?;
        let mut eog: Vec<u32> = Vec::new();
        eog.extend(eos);
        eog.extend(id("eot_token_id", None)?);
        eog.extend(id("eom_token_id", None)?);
        for (ends, key, texts) in FILL_IN {
            let known = id(key, None)?;
            let token = known.or_else(|| {
                let id = texts.iter().find_map(|text| vocab.find(text))?;
                vocab.kinds[id as usize] |= kind::CONTROL;
                Some(id)
            });
            eog.extend(token.filter(|_| ends));
        }
        for text in ENDS {
            let Some(token) = vocab.find(text) else { continue };
            vocab.kinds[token as usize] |= kind::CONTROL;
            eog.push(token);
        }
        keep_inner_ends(&mut vocab, &mut eog);
        eog.sort_unstable();
        eog.dedup();

        set_attributes(&mut vocab, parts.name);
        check_special(&vocab)?;
        let special = SpecialTree::new(&vocab);
        let scheme = match pre {
            None => Scheme::Spm {
                spm: Spm::new(&vocab, parts.scores, unknown)?,
                space_prefix: parts.add_space_prefix.unwrap_or(true),
            },
            Some(pre) => {
                let merges = parts
                    .merges
                    .ok_or_else(|| Error::bad_file("a key is missing").at("key tokenizer.ggml.merges"))?;
                Scheme::Bpe(Bpe::new(pre, merges.clone())?)
            }
        };
        let add_bos = parts.add_bos_token.unwrap_or(pre.is_none_or(|pre| pre.add_bos));
        Ok(Self {
            special,
            scheme,
            bos,
            eos,
            unknown,
            add_bos: add_bos && bos.is_some(),
            add_eos: parts.add_eos_token.unwrap_or(false) && eos.is_some(),
            eog,
            guessed_pre: pre.is_some() && parts.pre.is_none_or(str::is_empty),
            vocab,
        })
    }
}

/// The pre-tokeniser of this name; files from before the key existed mean `default`.
fn pre_tokenizer(name: Option<&str>) -> Result<&'static PreTokenizer> {
    let name = name.filter(|name| !name.is_empty()).unwrap_or("default");
    PreTokenizer::named(name).ok_or_else(|| {
        let known: Vec<_> = PreTokenizer::names().collect();
        Error::bad_file("the pre-tokeniser is not known, and a guess would give wrong tokens")
            .at("key tokenizer.ggml.pre")
            .expected_got(format!("one of {}", known.join(", ")), format!("{name:?}"))
    })
}

/// The kinds of `n` tokens.
fn kinds(types: Option<&[i64]>, n: usize) -> Result<Vec<u8>> {
    match types {
        None => Ok(vec![kind::NORMAL; n]),
        Some(types) if types.len() < n => Err(Error::bad_file("the vocabulary has fewer types than tokens")
            .at("key tokenizer.ggml.token_type")
            .expected_got(n, types.len())),
        Some(types) => Ok(types[..n].iter().map(|&ty| kind::of_type(ty)).collect()),
    }
}

/// In some families a token named like an end is none: `<|end|>` only closes a part of the answer where
/// `<|return|>` and `<|call|>` exist (and in Solar `<|flush|>` and `<|calls|>`), and `</s>` is plain HTML
/// where `<|tool_response>` ends the turn.
fn keep_inner_ends(vocab: &mut Vocab, eog: &mut Vec<u32>) {
    let has = |text: &str| vocab.find(text).is_some_and(|id| eog.contains(&id));
    let call = has("<|call|>") || has("<|calls|>");
    let end = vocab.find("<|end|>").filter(|_| call && (has("<|return|>") || has("<|flush|>")));
    let html = vocab.find("</s>").filter(|_| has("<|tool_response>"));
    eog.retain(|&id| Some(id) != end && Some(id) != html);
    if let Some(html) = html {
        vocab.kinds[html as usize] = kind::NORMAL;
    }
}

/// Attributes that files do not hold: Phi-3's special tokens swallow the white space behind them.
fn set_attributes(vocab: &mut Vocab, model_name: &str) {
    let name = model_name.to_ascii_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return;
    }
    let special = kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN;
    let keeps: Vec<_> =
        ["<unk>", "<s>", "<|endoftext|>"].iter().filter_map(|text| vocab.find(text)).collect();
    for id in 0..vocab.len() as u32 {
        if vocab.is(id, special) && !keeps.contains(&id) {
            vocab.kinds[id as usize] |= kind::STRIPS_RIGHT;
        }
    }
}

/// Special tokens of absurd length are refused: searching for them could be made slow.
fn check_special(vocab: &Vocab) -> Result<()> {
    let special = kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN;
    let long =
        (0..vocab.len() as u32).find(|&id| vocab.is(id, special) && vocab.text(id).len() > special::LONGEST);
    match long {
        None => Ok(()),
        Some(id) => Err(Error::bad_file("a special token of the vocabulary is too long")
            .at(format!("key tokenizer.ggml.tokens, element {id}"))
            .expected_got(
                format!("at most {} bytes", special::LONGEST),
                format!("{} bytes", vocab.text(id).len()),
            )),
    }
}
