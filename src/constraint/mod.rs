//! Answers of a form: a JSON schema or a grammar says which tokens may come next, through the crate llguidance.
//!
//! A [`Grammar`] is compiled once for a model; each answer follows it with a [`Constraint`] of its own. Besides the
//! tokens allowed, a constraint knows which tokens are forced, so that nothing need be computed for them, and how the
//! answer can be brought to an end in the room that is left: an answer is never cut in the middle.
mod closer;
mod gbnf;

use std::sync::Arc;

use lapwing_models::{Class, Error, Result};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{
    ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::sampler::Mask;
use closer::Closer;

/// Bytes; longer schemas and grammars are refused. The largest known have a few hundred kilobytes.
pub const LONGEST: usize = 1 << 20;
/// Deeper nesting of brackets in a grammar is refused: it is read by recursion. (JSON has such a bound of its own.)
const DEEPEST: usize = 100;
/// Stack for compiling, address space only: a schema may refer from definition to definition as often as its length
/// allows, each time one call deeper.
const STACK: usize = 512 << 20;
/// Lexer states kept at most; each takes one to two kilobytes.
const LEXER_STATES: usize = 50_000;

/// What an answer must look like, compiled for one model.
#[derive(Clone)]
pub struct Grammar(Arc<Compiled>);

struct Compiled {
    matcher: Matcher,
    closer: Option<Closer>,
    vocabulary: TokEnv,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammar")
    }
}

impl Grammar {
    /// JSON that `schema` (the text of a JSON schema) allows, on one line, spaced as Python's `json.dumps` does.
    ///
    /// # Errors
    /// When it is no JSON, or uses what cannot be enforced: then nothing is enforced halfway. Also when no value
    /// that it allows can be found.
    pub fn json_schema(engine: &Arc<Engine>, schema: &str) -> Result<Self> {
        check_length("JSON schema", schema)?;
        let mut schema: Value = serde_json::from_str(schema).map_err(|error| {
            Error::bad_file("the JSON schema is not JSON")
                .at(format!("line {}, column {}", error.line(), error.column()))
                .expected_got("JSON", error)
        })?;
        // Free white space would let a model fill its answer with it.
        let options = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        match &mut schema {
            Value::Object(fields) => _ = fields.insert("x-guidance".to_owned(), options),
            Value::Bool(true) => schema = json!({ "x-guidance": options }),
            _ => {
                let error = Error::bad_file("the JSON schema is no schema");
                return Err(error.expected_got("an object, or true", short(&schema.to_string())));
            }
        }
        let compiled = compile(engine, &TopLevelGrammar::from_json_schema(schema), true).map_err(|why| {
            Error::bad_file("the JSON schema cannot be used").expected_got("what can be enforced", why)
        })?;
        if compiled.closer.is_none() {
            let longest = format!("an answer of at most {} bytes", closer::LONGEST);
            return Err(Error::bad_file("the JSON schema allows no answer that could be found")
                .expected_got(longest, "none, or longer ones only"));
        }
        Ok(Self(Arc::new(compiled)))
    }

    /// Text that a grammar allows: one in llama.cpp's GBNF (with `root ::=`), or in llguidance's form of Lark
    /// (with `start:`).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(engine: &Arc<Engine>, grammar: &str) -> Result<Self> {
        check_length("grammar", grammar)?;
        check_depth(grammar)?;
        let lark = if gbnf::is_gbnf(grammar) { gbnf::to_lark(grammar)? } else { grammar.to_owned() };
        let compiled = compile(engine, &TopLevelGrammar::from_lark(lark), false)
            .map_err(|why| Error::bad_file("the grammar cannot be used").expected_got("GBNF or Lark", why))?;
        Ok(Self(Arc::new(compiled)))
    }

    /// Begins an answer of at most `room` tokens.
    ///
    /// # Errors
    /// [`Class::Usage`] when the shortest answer known is longer than that.
    pub fn start(&self, room: usize) -> Result<Constraint> {
        let Compiled { matcher, closer, vocabulary } = &*self.0;
        let constraint = Constraint {
            matcher: matcher.clone(),
            closer: closer.clone(),
            vocabulary: vocabulary.clone(),
            allowed: Vec::new(),
        };
        let needed = constraint.ending().map_or(0, |ids| ids.len());
        if needed > room {
            return Err(Error::new(Class::Usage, "there is no room for any answer of this form")
                .expected_got(format!("at least {needed} tokens"), format!("room for {room}"))
                .advice("allow more with --predict and --ctx-size"));
        }
        Ok(constraint)
    }
}

/// One answer on its way through a grammar.
pub struct Constraint {
    matcher: Matcher,
    closer: Option<Closer>,
    vocabulary: TokEnv,
    /// Bits of the last mask.
    allowed: Vec<u32>,
}

impl Constraint {
    /// The tokens that may come next; those that end an answer are among them where it may end.
    ///
    /// # Errors
    /// When the grammar needs more work than is sensible, or the vocabulary lacks what it asks for.
    pub fn mask(&mut self) -> Result<Mask<'_>> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(failed)?;
        self.allowed.clear();
        self.allowed.extend_from_slice(allowed.as_slice());
        Ok(Mask::new(&self.allowed))
    }

    /// Takes the next token if the answer can still end within `room` tokens after it; tells whether it did.
    ///
    /// # Errors
    /// When the token is none of those allowed, or as for [`Constraint::mask`].
    pub fn accept(&mut self, id: u32, room: usize) -> Result<bool> {
        let trie = self.vocabulary.tok_trie();
        if let Some(closer) = &mut self.closer {
            // A token has at least one byte: short endings need not be counted exactly.
            let fits = |plan: &[u8]| plan.len() <= room || trie.greedy_tokenize(plan).len() <= room;
            if !closer.push(trie.token(id), fits).map_err(failed)? {
                if closer.knows_the_form() {
                    return Ok(false);
                }
                self.closer = None;
            }
        }
        self.matcher.consume_token(id).map_err(failed)?;
        Ok(true)
    }

    /// Tokens that must come next, whatever the model says; often none.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_complete() { Vec::new() } else { self.matcher.compute_ff_tokens() }
    }

    /// Whether nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// Tokens that bring the answer to an end from here, if a way is known.
    pub fn ending(&self) -> Option<Vec<u32>> {
        let plan = self.closer.as_ref()?.plan();
        Some(self.vocabulary.tok_trie().greedy_tokenize(plan))
    }
}

/// The vocabulary of a model as llguidance knows it.
struct Vocabulary {
    engine: Arc<Engine>,
    trie: TokTrie,
}

impl Vocabulary {
    fn new(engine: &Arc<Engine>) -> Self {
        let tokenizer = engine.model().tokenizer();
        let mut words: Vec<Vec<u8>> = (0..tokenizer.n_vocab() as u32)
            .map(|id| {
                let bytes = tokenizer.token_bytes(id);
                // Markup is no text: no grammar that asks for text allows it.
                if tokenizer.is_control(id) || tokenizer.unknown() == Some(id) {
                    return [&[TokTrie::SPECIAL_TOKEN_MARKER], &*bytes].concat();
                }
                bytes.into_owned()
            })
            .collect();
        let mut ends = tokenizer.eog().to_vec();
        if ends.is_empty() {
            // There must be one; beyond the vocabulary it can never be chosen.
            ends.push(words.len() as u32);
            words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"<end>"[..]].concat());
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, ends[0]), &words).with_eos_tokens(&ends);
        Self { engine: engine.clone(), trie }
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let tokenizer = self.engine.model().tokenizer();
        self.trie.tokenize_with_greedy_fallback(bytes, |text| tokenizer.encode_inside(text))
    }
}

/// Compiles on a thread of its own, which has the stack for it.
fn compile(
    engine: &Arc<Engine>,
    grammar: &TopLevelGrammar,
    json: bool,
) -> std::result::Result<Compiled, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK);
        let compiled = thread.spawn_scoped(scope, || compile_here(engine, grammar, json));
        let compiled = compiled.map_err(|error| format!("no thread for it: {error}"))?;
        compiled.join().unwrap_or_else(|_| Err("its compiler broke".to_owned()))
    })
}

fn compile_here(
    engine: &Arc<Engine>,
    grammar: &TopLevelGrammar,
    json: bool,
) -> std::result::Result<Compiled, String> {
    let vocabulary: TokEnv = Arc::new(Vocabulary::new(engine));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let matcher = matcher(&vocabulary, &slices, grammar)?;
    // A grammar may speak of special tokens, which bytes have not: then there is no way to close it.
    let closer = match matcher_of_bytes(grammar) {
        Ok(matcher) => Closer::new(matcher, json).map_err(|error| short(&error))?,
        Err(_) => None,
    };
    Ok(Compiled { matcher, closer, vocabulary })
}

fn matcher_of_bytes(grammar: &TopLevelGrammar) -> std::result::Result<Matcher, String> {
    matcher(&ApproximateTokEnv::single_byte_env(), &[], grammar)
}

fn matcher(
    vocabulary: &TokEnv,
    slices: &[String],
    grammar: &TopLevelGrammar,
) -> std::result::Result<Matcher, String> {
    let capabilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
    let mut factory =
        ParserFactory::new(vocabulary, capabilities, slices).map_err(|error| short(&error.to_string()))?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.max_lexer_states = LEXER_STATES;
    limits.verbose_errors = false;
    let matcher = Matcher::new(factory.create_parser(grammar.clone()));
    match matcher.get_error() {
        None => Ok(matcher),
        Some(error) => Err(short(&error)),
    }
}

/// What llguidance reports while an answer is on its way.
fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(Class::Other, "the answer's form could not be followed further")
        .expected_got("", short(&error.to_string()))
}

/// What llguidance says, on one line and no more of it than a line can hold.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(200).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

fn check_length(what: &str, text: &str) -> Result<()> {
    if text.len() <= LONGEST {
        return Ok(());
    }
    Err(Error::bad_file(format!("the {what} is too long"))
        .expected_got(format!("at most {LONGEST} bytes"), text.len()))
}

fn check_depth(grammar: &str) -> Result<()> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in grammar.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest <= DEEPEST {
        return Ok(());
    }
    Err(Error::bad_file("the grammar is nested too deeply")
        .expected_got(format!("at most {DEEPEST} brackets inside each other"), deepest))
}

#[cfg(test)]
mod tests;
