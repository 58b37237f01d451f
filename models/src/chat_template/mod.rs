//! Chat templates through minijinja, rendered to segments of known origin.
//!
//! Templates come with models, from strangers: they load nothing, run on a budget of fuel and of time, and
//! what they render keeps what people wrote apart from markup.
mod bound;
mod mask;
mod namespaces;
mod python;

use std::borrow::Cow;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::Map;

use crate::error::{Class, Error, Result};
use crate::tokenizer::Tokenizer;
pub use crate::tokenizer::{Origin, Segment};
use mask::{Marker, Marks};
pub use python::Clock;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Further fields that templates may ask for (`name`, `tool_calls`, `reasoning_content` …).
    pub extra: Map<String, serde_json::Value>,
}

impl Message {
    /// A message without further fields.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// A chat template, compiled for one model's vocabulary.
pub struct ChatTemplate {
    env: Environment<'static>,
    marker: Marker,
    /// Variables that every rendering gets: texts of special tokens, and those set.
    globals: Map<String, serde_json::Value>,
    fallback: Option<String>,
    supports_system: bool,
}

/// What models that name no template are given: ChatML, which most of them have seen.
pub const CHATML: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Name of the template in its environment.
const NAME: &str = "chat_template";
/// Longer sources are no chat templates; the largest known has 30 kB.
const LONGEST_SOURCE: usize = 1 << 20;
/// Fuel for one rendering, apart from what its messages add. One unit is an instruction or 64 bytes of text:
/// a tenth of a second or 13 MB at most. Known templates take a few thousand.
const FUEL: u64 = 200_000;
/// Fuel that each message adds; known templates take some hundred.
const MESSAGE_FUEL: u64 = 2_000;

impl ChatTemplate {
    /// Compiles `source` for the vocabulary of `tokenizer`.
    ///
    /// # Errors
    /// When the source is no template, naming the line.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        Self::with_clock(source, tokenizer, Clock::Local)
    }

    /// As [`ChatTemplate::new`], with another clock for templates that ask for the date.
    ///
    /// # Errors
    /// As there.
    pub fn with_clock(source: &str, tokenizer: &Tokenizer, clock: Clock) -> Result<Self> {
        if source.len() > LONGEST_SOURCE {
            return Err(Error::bad_file("the chat template is too long")
                .at("key tokenizer.chat_template")
                .expected_got(format!("at most {LONGEST_SOURCE} bytes"), source.len()));
        }
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the usual delimiters are distinct");
        let text = without_generation(source).into_owned();
        let compiled = bound::bounded(Duration::ZERO, move || {
            namespaces::check(&text, syntax.clone())?;
            let mut env = Environment::new();
            env.set_undefined_behavior(UndefinedBehavior::Lenient);
            env.set_syntax(syntax);
            // Errors must not hold the template's values, which may be deep to drop.
            env.set_debug(false);
            env.set_auto_escape_callback(|_| AutoEscape::None);
            python::install(&mut env, clock);
            env.add_template_owned(NAME, text).map_err(|error| {
                Error::bad_file(format!("the chat template cannot be read: {}", told(&error)))
                    .at(place(&error))
            })?;
            Ok(env)
        });
        let env = compiled??;
        let mut globals = Map::new();
        let ids = [
            ("bos_token", tokenizer.bos()),
            ("eos_token", tokenizer.eos()),
            ("unk_token", tokenizer.unknown()),
        ];
        for (name, id) in ids {
            if let Some(id) = id {
                globals.insert(name.to_owned(), tokenizer.token_text(id).into());
            }
        }
        let marker = Marker::new(tokenizer, source);
        Ok(Self { env, marker, globals, fallback: None, supports_system: true })
    }

    /// The template of a model file, made to work: one that is missing, broken or renders no conversation is
    /// replaced by ChatML, which [`ChatTemplate::fallback`] tells; system text goes into the first message of
    /// the user where the template takes none.
    ///
    /// # Errors
    /// When the template does not even end: see [`ChatTemplate::render`].
    pub fn for_model(source: Option<&str>, tokenizer: &Tokenizer) -> Result<Self> {
        let failure = match source {
            None => "the model has no chat template".to_owned(),
            Some(source) => match Self::new(source, tokenizer).and_then(|template| template.tried(tokenizer))
            {
                Ok(template) => return Ok(template),
                Err(error) if error.message == bound::ENDLESS => return Err(error),
                Err(error) => error.message,
            },
        };
        let mut chatml = Self::new(CHATML, tokenizer)?;
        chatml.fallback = Some(format!("{failure}; ChatML is used instead"));
        Ok(chatml)
    }

    /// Tries the smallest conversations and notes what the template can take.
    fn tried(mut self, tokenizer: &Tokenizer) -> Result<Self> {
        let user = [Message::new("user", "question")];
        let holds = |segments: Vec<Segment>, text: &str| {
            segments.into_iter().map(|segment| segment.text).collect::<String>().contains(text)
        };
        if !holds(self.render(tokenizer, &user, true)?, "question") {
            return Err(Error::bad_file("the chat template leaves out what the user says"));
        }
        let both = [Message::new("system", "instruction"), user[0].clone()];
        let rendered = self.render(tokenizer, &both, true);
        self.supports_system = match rendered {
            Err(error) if error.message == bound::ENDLESS => return Err(error),
            rendered => rendered.is_ok_and(|segments| holds(segments, "instruction")),
        };
        Ok(self)
    }

    /// Why the model's own template is not used, in words for people; `None` when it is.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// Whether the template has a place for system text; only known of templates made by
    /// [`ChatTemplate::for_model`].
    pub fn supports_system(&self) -> bool {
        self.supports_system
    }

    /// Sets a variable for all renderings, such as `enable_thinking`.
    pub fn set_variable(&mut self, name: &str, value: serde_json::Value) {
        self.globals.insert(name.to_owned(), value);
    }

    /// Renders a conversation as the prompt for a model; with `add_generation_prompt` up to where its answer
    /// begins. What the model said before is [`Origin::Answer`] where the template shows it whole. `tokenizer` is the
    /// one that the template was compiled for.
    ///
    /// # Errors
    /// When the template refuses the conversation, fails, or takes more time or memory than any known one. (A
    /// very hostile one may then still be running on a thread of its own: the program should end.)
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<Segment>> {
        let messages = self.placed(messages);
        let extra = messages.iter().flat_map(|message| message.extra.values());
        let mut strings: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
        extra.for_each(|value| collect_strings(value, &mut strings));
        let bytes: usize = strings.iter().map(|text| text.len()).sum();
        let mut marks = self.marker.marks(strings.into_iter())?;
        let n_messages = messages.len();
        let mut rendered = |bracketed: &dyn Fn(&Message) -> bool| {
            let messages: Vec<_> = messages
                .iter()
                .map(|message| self.shown(tokenizer, message, bracketed(message), &mut marks))
                .collect();
            let variables = self.variables(messages, add_generation_prompt);
            Ok::<_, Error>(marks.segments(&self.run(&variables, n_messages, bytes)?))
        };
        let plain = rendered(&|_| false)?;
        let text = |segments: &[Segment]| segments.iter().map(|s| s.text.as_str()).collect::<String>();
        // Templates that look at how an answer begins or ends, or whether it says anything, may be misled by brackets:
        // those do without.
        let speaks = |message: &Message| is_answer(message) && !message.content.trim().is_empty();
        let mut brackets: Vec<&dyn Fn(&Message) -> bool> = Vec::new();
        if messages.iter().any(|message| is_answer(message) && !speaks(message)) {
            brackets.push(&is_answer);
        }
        if messages.iter().any(speaks) {
            brackets.push(&speaks);
        }
        for bracketed in brackets {
            if let Ok(bracketed) = rendered(bracketed)
                && text(&bracketed) == text(&plain)
            {
                return Ok(bracketed);
            }
        }
        Ok(plain)
    }

    /// A message as a template sees it.
    fn shown(
        &self,
        tokenizer: &Tokenizer,
        message: &Message,
        bracketed: bool,
        marks: &mut Marks,
    ) -> serde_json::Value {
        let mut mark = |text: &str| self.marker.mark(tokenizer, text, marks);
        let mut fields = Map::new();
        fields.insert("role".to_owned(), message.role.clone().into());
        let content = mark(&message.content);
        let extra: Vec<_> =
            message.extra.iter().map(|(name, value)| (name.clone(), marked(value, &mut mark))).collect();
        let content = if bracketed { marks.bracket(&content) } else { content };
        fields.insert("content".to_owned(), content.into());
        fields.extend(extra);
        serde_json::Value::Object(fields)
    }

    /// All that a template sees.
    fn variables(
        &self,
        messages: Vec<serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Map<String, serde_json::Value> {
        let mut variables = self.globals.clone();
        variables.insert("messages".to_owned(), messages.into());
        variables.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        variables.entry("tools").or_insert(serde_json::Value::Null);
        variables.entry("documents").or_insert(serde_json::Value::Null);
        variables
    }

    /// The rendered string, marks and all.
    fn run(
        &self,
        variables: &Map<String, serde_json::Value>,
        messages: usize,
        bytes: usize,
    ) -> Result<String> {
        // Each rendering has its own budget, which must let long messages be copied some dozen times.
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL + MESSAGE_FUEL * messages as u64 + bytes as u64));
        let variables =
            Value::from_pairs(variables.iter().map(|(name, value)| (name.as_str(), python::value(value))));
        // A microsecond for each byte, and for each message what a hundred bytes have.
        let extra = Duration::from_micros(bytes as u64 + 100 * messages as u64);
        let result = bound::bounded(extra, move || {
            let result = env.get_template(NAME).and_then(|template| template.render(&variables));
            // Nested values are deep to drop as well.
            drop(variables);
            result
        })?;
        result.map_err(|error| match raised(&error) {
            Some(message) => Error::new(
                Class::Usage,
                format!("the chat template refuses this conversation: {}", python::short(message)),
            ),
            None if error.kind() == ErrorKind::OutOfFuel => {
                Error::bad_file("the chat template does more work than any conversation needs")
            }
            None => Error::bad_file(format!("the chat template fails: {}", told(&error))).at(place(&error)),
        })
    }

    /// `messages`, with system text inside the user's first message where the template has no place for it.
    fn placed<'m>(&self, messages: &'m [Message]) -> Cow<'m, [Message]> {
        let [system, rest @ ..] = messages else { return Cow::Borrowed(messages) };
        if self.supports_system || system.role != "system" {
            return Cow::Borrowed(messages);
        }
        let mut rest = rest.to_vec();
        match rest.first_mut() {
            Some(first) if first.role == "user" => {
                first.content.insert_str(0, &format!("{}\n\n", system.content))
            }
            _ => rest.insert(0, Message::new("user", system.content.clone())),
        }
        Cow::Owned(rest)
    }
}

/// Whether the model itself said this.
fn is_answer(message: &Message) -> bool {
    message.role == "assistant"
}

/// Adds the strings in `value` to `strings`.
fn collect_strings<'v>(value: &'v serde_json::Value, strings: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::String(text) => strings.push(text),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_strings(item, strings)),
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                strings.push(name);
                collect_strings(value, strings);
            }
        }
        _ => {}
    }
}

/// `value` with the strings in it marked.
fn marked(value: &serde_json::Value, mark: &mut impl FnMut(&str) -> String) -> serde_json::Value {
    match value {
        serde_json::Value::String(text) => mark(text).into(),
        serde_json::Value::Array(items) => items.iter().map(|item| marked(item, mark)).collect(),
        serde_json::Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), marked(value, mark))).collect()
        }
        other => other.clone(),
    }
}

/// `source` without the marks of what the model wrote, which only training needs: `{% generation %}` blocks
/// become blocks without effect, so that white space around them is treated as before.
fn without_generation(source: &str) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let Some(end) = tag.find("%}") else { break };
        let inner = &tag[2..end];
        let word = inner.trim_matches(['-', '+']).trim();
        let block = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => word,
        };
        out += before;
        out += "{%";
        out += &if block == word { inner.to_owned() } else { inner.replace(word, &format!(" {block} ")) };
        rest = &tag[end..];
    }
    out += rest;
    Cow::Owned(out)
}

/// What the template raised on purpose, if that is what ended it.
fn raised(error: &minijinja::Error) -> Option<&str> {
    let detail = error.detail().and_then(|detail| detail.strip_prefix(python::RAISED));
    detail.or_else(|| {
        let source = std::error::Error::source(error)?.downcast_ref::<minijinja::Error>()?;
        source.detail()?.strip_prefix(python::RAISED)
    })
}

/// What an error of the template engine says.
fn told(error: &minijinja::Error) -> String {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    python::short(&text)
}

/// Where in the template it happened.
fn place(error: &minijinja::Error) -> String {
    match error.line() {
        Some(line) => format!("key tokenizer.chat_template, line {line}"),
        None => "key tokenizer.chat_template".to_owned(),
    }
}

#[cfg(test)]
mod tests;
