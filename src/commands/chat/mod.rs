//! `lapwing chat`: a conversation on a terminal, or through a pipe.
use std::io::IsTerminal;
use std::path::PathBuf;

use lapwing::branches::Branches;
use lapwing::sampler::{Chain, Settings};
use lapwing::session::{Limits, Session};
use lapwing_models::chat_template::ChatTemplate;
use lapwing_models::{Class, Error};

use super::interrupt::Interrupt;
use super::{AnswerOptions, ModelOptions, SamplerOptions, TemplateOptions, Ui, find, load};

mod answer;
mod input;
mod markdown;
mod print;
mod slash;
mod typing;

mod files;
mod schema;
mod settings;
mod show;
mod turns;

use input::{Input, Typed};
use print::Out;
use slash::Next;

/// What the person types behind.
const PROMPT: &str = "> ";

/// Chats with a model: on a terminal with editing, through a pipe one message a line.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model file, or the name of one in the model folders (default: the model that ./quickstart fetches)
    model: Option<PathBuf>,
    /// Instructions to the model, before the conversation
    #[arg(long, value_name = "TEXT", overrides_with = "system")]
    system: Option<String>,
    #[command(flatten)]
    template: TemplateOptions,
    #[command(flatten)]
    answer: AnswerOptions,
    #[command(flatten)]
    options: ModelOptions,
    #[command(flatten)]
    sampling: SamplerOptions,
}

/// A running chat.
pub struct Chat {
    session: Session,
    branches: Branches,
    template: ChatTemplate,
    /// What `chain` was made of.
    settings: Settings,
    chain: Chain,
    limits: Limits,
    /// What `/read` put before the next message.
    attached: String,
    interrupt: Interrupt,
    input: Input,
    out: Out,
    ui: Ui,
    /// Whether a person sits at both ends.
    terminal: bool,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let interrupt = Interrupt::install()?;
    let file = match &args.model {
        Some(name) => find::model(name)?,
        None => find::default_model()?,
    };
    let engine = load::engine(&file, &args.options)?;
    let template = load::template(&engine, &args.template, ui)?;
    let session = load::session(&engine, &args.options)?;
    let settings = load::settings(&engine, &args.sampling, ui)?;
    let chain = Chain::new(&settings, engine.model().tokenizer());
    let mut branches = Branches::default();
    branches.conversation_mut().set_system(args.system);
    let limits = args.answer.limits(&engine, args.sampling.predict)?;
    let out = Out::new();
    let terminal = out.terminal && std::io::stdin().is_terminal();
    let mut chat = Chat {
        session,
        branches,
        template,
        settings,
        chain,
        limits,
        attached: String::new(),
        interrupt,
        input: Input::new(terminal, out.colours)?,
        out,
        ui: ui.clone(),
        terminal,
    };
    chat.talk()
}

impl Chat {
    /// Reads messages and answers them until the person leaves.
    fn talk(&mut self) -> anyhow::Result<()> {
        if self.terminal && !self.ui.quiet {
            self.greet()?;
        }
        let mut leaving = false;
        loop {
            self.input.set_words(slash::words(self));
            let before = self.branches.conversation().clone();
            let typed = self.input.next(PROMPT)?;
            let was_leaving = std::mem::replace(&mut leaving, false);
            let next = match typed {
                Typed::End => Next::Leave,
                Typed::Interrupt if was_leaving => Next::Leave,
                Typed::Interrupt => {
                    leaving = true;
                    self.out.note("Ctrl-C again, or Ctrl-D, leaves.")?;
                    Next::Prompt
                }
                Typed::Text(text) if text.trim().is_empty() => Next::Prompt,
                Typed::Text(text) => match text.strip_prefix('/') {
                    // Two slashes are one that is meant.
                    Some(rest) if !rest.starts_with('/') => slash::run(self, rest)?,
                    Some(rest) => self.say(rest),
                    None => self.say(&text),
                },
            };
            match next {
                Next::Prompt => {}
                Next::Answer => self.answer(before)?,
                Next::Leave => return Ok(()),
            }
        }
    }

    fn greet(&mut self) -> anyhow::Result<()> {
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
        let text = std::mem::take(&mut self.attached) + text;
        self.branches.conversation_mut().say(text);
        Next::Answer
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
