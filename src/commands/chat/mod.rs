//! `lapwing chat`: a conversation on a terminal, or through a pipe.
use std::io::IsTerminal;
use std::path::PathBuf;

use lapwing::branches::Branches;
use lapwing::context::WhenFull;
use lapwing::cost::Memory;
use lapwing::sampler::{Chain, Settings};
use lapwing::saved::SavedTemplate;
use lapwing::session::{Cancel, Limits, Session};
use lapwing_models::chat_template::ChatTemplate;
use lapwing_models::os::available_memory;
use lapwing_models::{Class, Error};

use super::config::Config;
use super::interrupt::Interrupt;
use super::{AnswerOptions, Given, ModelOptions, SamplerOptions, TemplateOptions, Ui, find, folders, load};
use crate::commands::ui::size;

mod answer;
mod commands;
mod input;
mod markdown;
mod print;
mod slash;
mod typing;

mod compare;
mod files;
mod lora;
mod schema;
mod sessions;
mod settings;
mod show;
mod turns;

use input::{Input, Typed};
use print::Out;
use sessions::Saving;
use slash::Next;

/// What the person types behind.
const PROMPT: &str = "> ";

/// Chats with a model: on a terminal with editing, through a pipe one message a line.
#[derive(clap::Args, Debug)]
pub struct Args {
    // Before all others, whose values are taken away as they are read.
    #[command(flatten)]
    given: Given,
    /// Model file, or the name of one in the model folders (default: the model that ./quickstart fetches)
    model: Option<PathBuf>,
    /// Instructions to the model, before the conversation
    #[arg(long, value_name = "TEXT", overrides_with = "system")]
    system: Option<String>,
    /// What to do when the conversation no longer fits: ask, drop (the oldest messages), summarise (them) or stop
    #[arg(long, value_name = "POLICY")]
    when_full: Option<String>,
    /// Take up a saved session, the last one unless named
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    resume: Option<String>,
    /// Keep what is typed for the next chat, in a file that only you can read
    #[arg(long)]
    history: bool,
    /// Save the session after each answer
    #[arg(long)]
    autosave: bool,
    /// Save what was computed, too, so that resuming takes no time (large; written while the chat goes on)
    #[arg(long)]
    save_cache: bool,
    #[command(flatten)]
    template: TemplateOptions,
    #[command(flatten)]
    answer: AnswerOptions,
    #[command(flatten)]
    options: ModelOptions,
    #[command(flatten)]
    sampling: SamplerOptions,
}

/// A message without an answer: it is not in the conversation.
#[derive(Clone)]
struct Unsent {
    text: String,
    /// Whether it is to stand in the place of the last one that was answered.
    replaces: bool,
}

/// A running chat.
pub struct Chat {
    session: Session,
    branches: Branches,
    template: ChatTemplate,
    /// What `template` was made of.
    chosen: SavedTemplate,
    /// What `chain` was made of.
    settings: Settings,
    chain: Chain,
    limits: Limits,
    /// The file of the form that `limits` ask for.
    form: Option<PathBuf>,
    /// What `/read` put before the next message.
    attached: String,
    /// The last message, as long as it has no answer.
    unsent: Option<Unsent>,
    when_full: WhenFull,
    /// Whether the person knows that the context is nearly full.
    warned: bool,
    saving: Saving,
    /// What the command line said: sessions that are taken up do not change that.
    given: Given,
    /// What Ctrl-C sets while no line is edited. In a pipe nobody waits for a next message: there it ends the program.
    cancel: Cancel,
    input: Input,
    out: Out,
    ui: Ui,
    /// Whether a person sits at both ends.
    terminal: bool,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let interrupt = Interrupt::install()?;
    let config = Config::get()?;
    let when_full = args.when_full.as_deref().or(config.when_full.as_deref());
    let when_full = when_full.map_or(Ok(WhenFull::Ask), WhenFull::from_name)?;
    let resumed = args.resume.as_deref().map(sessions::open).transpose()?;
    let usual = || config.model.as_ref().map(PathBuf::from).filter(|_| resumed.is_none());
    let name = args.model.or_else(usual);
    let file = match (&name, &resumed) {
        (Some(name), _) => find::model(name)?,
        (None, Some((_, opened))) => opened.saved.model.path.clone(),
        (None, None) => find::default_model()?,
    };
    let named = name.as_deref().and_then(|name| config.named(name));
    let system = args.system.or_else(|| named.and_then(|named| named.system.clone()));
    let system = system.or_else(|| config.defaults.system.clone());
    let sampling = args.sampling.or_config(named)?;
    let options = args.options.or_config(named)?;
    let form = args.answer.compile()?;
    let engine = load::engine(&file, &options)?;
    let chosen = args.template.chosen()?;
    let template = load::template(&engine, &chosen, ui)?;
    let session = load::session(&engine, &options, ui)?;
    let settings = load::settings(&engine, &sampling, ui)?;
    let chain = Chain::new(&settings, engine.model().tokenizer());
    let mut branches = Branches::default();
    branches.conversation_mut().set_system(system);
    let limits = args.answer.limits(&engine, form, sampling.predict)?;
    let history = (args.history || config.history)
        .then(|| folders::state_folder().map(|folder| folder.join("history")));
    let history = history.flatten();
    let out = Out::new();
    let terminal = out.terminal && std::io::stdin().is_terminal();
    let mut chat = Chat {
        session,
        branches,
        template,
        chosen,
        settings,
        chain,
        limits,
        form: args.answer.form().map(folders::absolute),
        attached: String::new(),
        unsent: None,
        when_full,
        warned: false,
        saving: Saving {
            automatic: args.autosave || config.autosave,
            with_cache: args.save_cache || config.save_cache,
            ..Saving::default()
        },
        given: args.given,
        cancel: if terminal { interrupt.into_cancel() } else { Cancel::default() },
        input: Input::new(terminal, out.colours, history, commands::all())?,
        out,
        ui: ui.clone(),
        terminal,
    };
    let resumes = resumed.is_some();
    if let Some((name, opened)) = resumed {
        chat.take_up(name, opened)?;
    }
    chat.greet()?;
    if resumes && chat.terminal && !chat.ui.quiet {
        let text = chat.taken_up();
        chat.out.note(&text)?;
    }
    chat.talk()
}

impl Chat {
    /// Reads messages and answers them until the person leaves.
    fn talk(&mut self) -> anyhow::Result<()> {
        let mut leaving = false;
        loop {
            self.input.set_words(commands::words(self));
            let before = (self.branches.conversation().clone(), self.attached.clone());
            let typed = self.input.next(PROMPT)?;
            self.cancel.reset();
            let was_leaving = std::mem::replace(&mut leaving, false);
            let next = match typed {
                Typed::End => Next::Leave,
                Typed::Interrupt if was_leaving => Next::Leave,
                Typed::Interrupt => {
                    leaving = true;
                    self.out.note("Ctrl-C again, or Ctrl-D, leaves.")?;
                    Next::Prompt
                }
                Typed::GivenUp => Next::Prompt,
                Typed::Text(text) if text.trim().is_empty() => Next::Prompt,
                Typed::Text(text) => match text.strip_prefix('/') {
                    // Two slashes are one that is meant.
                    Some(rest) if !rest.starts_with('/') => commands::run(self, rest)?,
                    Some(rest) => self.say(rest),
                    None => self.say(&text),
                },
            };
            match next {
                Next::Prompt => {}
                Next::Answer => self.answer(before)?,
                Next::Leave => return self.save_at_end(),
            }
        }
    }

    fn greet(&mut self) -> anyhow::Result<()> {
        if !self.terminal || self.ui.quiet {
            return Ok(());
        }
        let engine = self.session.engine();
        let name =
            engine.model().gguf().path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = format!(
            "lapwing {} · {} · {} threads, {} · context {}\n/help lists commands; Ctrl-C stops an answer, Ctrl-D leaves.",
            env!("CARGO_PKG_VERSION"),
            lapwing::text::safe(&name),
            engine.team().threads(),
            engine.team().isa(),
            self.session.context()
        );
        self.out.note(&text)?;
        Ok(())
    }

    /// Adds a message to the conversation.
    fn say(&mut self, text: &str) -> Next {
        self.send(Unsent { text: text.to_owned(), replaces: false })
    }

    /// Adds a message to the conversation, or puts it in the place of the last.
    fn send(&mut self, message: Unsent) -> Next {
        let mut text = String::new();
        if message.replaces {
            self.branches.conversation_mut().undo();
        } else {
            text = std::mem::take(&mut self.attached);
        }
        self.branches.conversation_mut().say(text + &message.text);
        self.unsent = Some(message);
        Next::Answer
    }

    /// Whether the person answers a question with this letter; in a pipe nobody does.
    fn ask(&mut self, question: &str, letter: &str) -> anyhow::Result<bool> {
        Ok(self.input.ask(question)? == letter)
    }

    /// What the chat takes of memory, now and when its context is full, and what is left.
    fn memory(&self) -> String {
        let cache = self.session.cache();
        let needs = Memory::of(self.session.engine().model(), &self.session);
        // What the cache holds already is no longer free.
        let free = available_memory().map(|free| (free, free.saturating_add(cache.bytes() as u64)));
        let advice = free.and_then(|(_, free)| needs.advice(free));
        format!(
            "{} weights, {} cache ({} when full, {}), {} adapters, {} buffers{}{}",
            size(needs.weights),
            size(cache.bytes() as u64),
            size(needs.cache),
            cache.shape().ty,
            size(needs.adapters),
            size(needs.buffers),
            free.map_or(String::new(), |(free, _)| format!("; {} free", size(free))),
            advice.map_or(String::new(), |advice| format!(": {advice}")),
        )
    }

    /// Tokens of the context that the conversation takes.
    fn used_tokens(&self) -> usize {
        let conversation = self.branches.conversation();
        if conversation.turns().is_empty() {
            return 0;
        }
        // One that the template refuses is refused, in its own words, when it is to be answered.
        conversation
            .prompt(&self.template, self.session.engine().model().tokenizer())
            .map_or(0, |ids| ids.len())
    }
}

/// A number of things: `1 token`, `2 tokens`.
fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Whether an error leaves nothing to chat with.
fn ends_chat(error: &anyhow::Error) -> bool {
    let changed = |cause: &Error| matches!(cause.class, Class::Changed);
    error.chain().any(|cause| cause.downcast_ref().is_some_and(changed) || cause.is::<std::io::Error>())
}
