//! Answers of a form: a JSON schema or a grammar says which tokens may come next, through the crate llguidance.
//!
//! A [`Form`] is compiled once, and with a model a [`Grammar`]; each answer follows it with a [`Constraint`] of its own.
//! Besides the tokens allowed, a constraint knows which tokens are forced, so that nothing need be computed for them,
//! and how the answer can be brought to an end in the room that is left: an answer is never cut in the middle.
mod closer;
mod gbnf;
mod vocabulary;

use std::sync::Arc;
use std::thread::JoinHandle;

use lapwing_models::{Class, Error, Result};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, TokenParser};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::sampler::Mask;
use closer::Closer;
use vocabulary::{Asked, Question, Vocabulary};

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
    /// Follows the grammar byte by byte.
    parser: TokenParser,
    closer: Closer,
    vocabulary: Arc<Vocabulary>,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammar")
    }
}

/// A JSON schema or a grammar that is being compiled, by a thread of its own: a model can be loaded meanwhile.
#[derive(Debug)]
pub struct Form(JoinHandle<Result<(TokenParser, Closer)>>);

impl Form {
    /// JSON that `schema` (the text of a JSON schema) allows, on one line, spaced as Python's `json.dumps` does.
    ///
    /// # Errors
    /// When it is no JSON, or no schema.
    pub fn json_schema(schema: &str) -> Result<Self> {
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
        Self::compile(TopLevelGrammar::from_json_schema(schema), true, |why| {
            Error::bad_file("the JSON schema cannot be used").expected_got("what can be enforced", why)
        })
    }

    /// Text that a grammar allows: one in llama.cpp's GBNF (with `root ::=`), or in llguidance's form of Lark
    /// (with `start:`).
    ///
    /// # Errors
    /// When it is too long or nested too deeply, or is GBNF that cannot be read.
    pub fn text(grammar: &str) -> Result<Self> {
        check_length("grammar", grammar)?;
        check_depth(grammar)?;
        let lark = if gbnf::is_gbnf(grammar) { gbnf::to_lark(grammar)? } else { grammar.to_owned() };
        Self::compile(TopLevelGrammar::from_lark(lark), false, |why| {
            Error::bad_file("the grammar cannot be used").expected_got("GBNF or Lark", why)
        })
    }

    /// Compiles on a thread that has the stack for it.
    fn compile(grammar: TopLevelGrammar, json: bool, refused: fn(String) -> Error) -> Result<Self> {
        let compile = move || {
            let parser = parser(&grammar).map_err(refused)?;
            let closer = Closer::new(Matcher::new(Ok(parser.clone())), json);
            let closer = closer.map_err(|error| refused(short(&error)))?;
            if json && closer.plan().is_none() {
                let longest = format!("an answer of at most {} bytes", closer::LONGEST);
                return Err(Error::bad_file("the JSON schema allows no answer that could be found")
                    .expected_got(longest, "none, or longer ones only"));
            }
            Ok((parser, closer))
        };
        let thread = std::thread::Builder::new().name("grammar".to_owned()).stack_size(STACK).spawn(compile);
        thread.map(Self).map_err(|error| refused(format!("no thread for it: {error}")))
    }
}

impl Grammar {
    /// What was compiled, for the model of `engine`.
    ///
    /// # Errors
    /// When the schema or grammar uses what cannot be enforced: then nothing is enforced halfway. Also when no value
    /// that a schema allows can be found.
    pub fn new(engine: &Arc<Engine>, form: Form) -> Result<Self> {
        let vocabulary = Arc::new(Vocabulary::new(engine));
        let broken = |_| Err(Error::new(Class::Other, "the compiler of schemas and grammars broke"));
        let (parser, closer) = form.0.join().unwrap_or_else(broken)?;
        Ok(Self(Arc::new(Compiled { parser, closer, vocabulary })))
    }

    /// [`Form::json_schema`] for the model of `engine`.
    ///
    /// # Errors
    /// Those of both.
    pub fn json_schema(engine: &Arc<Engine>, schema: &str) -> Result<Self> {
        Self::new(engine, Form::json_schema(schema)?)
    }

    /// [`Form::text`] for the model of `engine`.
    ///
    /// # Errors
    /// Those of both.
    pub fn text(engine: &Arc<Engine>, grammar: &str) -> Result<Self> {
        Self::new(engine, Form::text(grammar)?)
    }

    /// Begins an answer of at most `room` tokens.
    ///
    /// # Errors
    /// [`Class::Usage`] when the shortest answer known is longer than that.
    pub fn start(&self, room: usize) -> Result<Constraint> {
        let Compiled { parser, closer, vocabulary } = &*self.0;
        let asked = Arc::new(Asked::new(vocabulary.clone(), parser.bias_computer.clone()));
        let mut parser = parser.clone();
        parser.bias_computer = asked.clone();
        let closer = closer.clone().with(Matcher::new(Ok(parser)));
        let constraint = Constraint { closer, asked, last: None, mask: Vec::new() };
        // A token has at least one byte: short endings need not be counted.
        if constraint.closer.plan().is_some_and(|plan| plan.len() > room) {
            let needed = constraint.ending(room).map_or(0, |ids| ids.len());
            if needed > room {
                return Err(Error::new(Class::Usage, "there is no room for any answer of this form")
                    .expected_got(format!("at least {needed} tokens"), format!("room for {room}"))
                    .advice("allow more with --predict and --ctx-size"));
            }
        }
        Ok(constraint)
    }
}

/// One answer on its way through a grammar.
pub struct Constraint {
    closer: Closer,
    asked: Arc<Asked>,
    /// The last token.
    last: Option<u32>,
    /// Bits of the last mask.
    mask: Vec<u32>,
}

impl Constraint {
    /// The tokens that may come next; those that end an answer are among them where it may end.
    ///
    /// # Errors
    /// When the grammar needs more work than is sensible, or the vocabulary lacks what it asks for.
    pub fn mask(&mut self) -> Result<Mask<'_>> {
        if let Question::Mask(mask) = self.ask(Question::Mask(Vec::new()))? {
            self.mask = mask;
        }
        if self.closer.may_end().map_err(failed)? {
            let ends = self.asked.vocabulary.tokenizer().eog();
            ends.iter().for_each(|&id| vocabulary::allow(&mut self.mask, id));
        }
        if self.mask.iter().all(|&word| word == 0) {
            return Err(failed("the model has no token for what must come next"));
        }
        Ok(Mask::new(&self.mask))
    }

    fn ask(&mut self, question: Question) -> Result<Question> {
        let asked = self.asked.clone();
        let replace = |question| std::mem::replace(&mut *asked.question(), question);
        replace(question);
        let matcher = self.closer.matcher();
        // It would not ask again what it was told at this place before.
        matcher.invalidate_bias_cache();
        let answered = matcher.compute_mask();
        let answer = replace(Question::Nothing);
        answered.map_err(failed)?;
        Ok(answer)
    }

    /// Takes the next token if the answer can still end within `room` tokens after it; tells whether it did.
    ///
    /// # Errors
    /// When the token is none of those allowed, or as for [`Constraint::mask`].
    pub fn accept(&mut self, id: u32, room: usize) -> Result<bool> {
        let vocabulary = self.asked.vocabulary.clone();
        let fits = |plan: &[u8]| {
            plan.len() <= room || vocabulary.within(plan, room).is_some_and(|ids| ids.len() <= room)
        };
        let accepted = self.closer.push(vocabulary.bytes(id), fits).map_err(failed)?;
        if accepted {
            self.last = Some(id);
        }
        Ok(accepted)
    }

    /// Tokens that must come next, whatever the model says; often none.
    pub fn forced(&mut self) -> Result<Vec<u32>> {
        if self.is_complete() {
            return Ok(Vec::new());
        }
        let text = self.closer.matcher().compute_ff_bytes();
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let vocabulary = self.asked.vocabulary.clone();
        // As the tokeniser has it behind the last token, where it would have chosen that one, too.
        let behind = self.last.and_then(|last| {
            let ids = vocabulary.tokens(&[vocabulary.bytes(last), &text].concat())?;
            Some(ids.strip_prefix(&[last])?.to_vec())
        });
        let Some(mut ids) = behind.or_else(|| vocabulary.tokens(&text)) else { return Ok(Vec::new()) };
        // What the model may want to write with the next token, it shall.
        if let Question::Extensible(_, mut bytes) = self.ask(Question::Extensible(text, 0))? {
            while bytes > 0
                && let Some(id) = ids.pop()
            {
                bytes = bytes.saturating_sub(vocabulary.bytes(id).len());
            }
        }
        Ok(ids)
    }

    /// Whether nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.closer.is_complete()
    }

    /// Tokens that bring the answer to an end from here, within `room` after [`Constraint::accept`] said so, if a way is
    /// known.
    pub fn ending(&self, room: usize) -> Option<Vec<u32>> {
        self.asked.vocabulary.within(self.closer.plan()?, room)
    }
}

/// Follows a grammar byte by byte.
fn parser(grammar: &TopLevelGrammar) -> std::result::Result<TokenParser, String> {
    let mut words: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    let end = words.len() as u32;
    words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], &b"<end>"[..]].concat());
    // Not a canonical vocabulary: forced bytes are asked for, and never written of its own accord.
    let bytes: TokEnv =
        Arc::new(ApproximateTokEnv::new(TokTrie::from(&TokRxInfo::new(end + 1, end), &words)));
    let slices = [vocabulary::PLAIN.to_owned()];
    let mut factory = ParserFactory::new(&bytes, InferenceCapabilities::default(), &slices)
        .map_err(|error| short(&error.to_string()))?;
    factory.quiet();
    let limits = factory.limits_mut();
    limits.max_lexer_states = LEXER_STATES;
    limits.verbose_errors = false;
    factory.create_parser(grammar.clone()).map_err(|error| short(&error.to_string()))
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
