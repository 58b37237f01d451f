//! `lapwing chat`: a conversation on a terminal, or through a pipe.
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;

use lapwing::conversation::Conversation;
use lapwing::sampler::Chain;
use lapwing::session::{Limits, Session, Stop};
use lapwing_models::chat_template::ChatTemplate;
use lapwing_models::{Class, Error};

use super::interrupt::Interrupt;
use super::{ModelOptions, SamplerOptions, Ui, find, load, ui};

mod input;
mod print;
mod slash;

use input::{Input, Typed};
use print::Out;
use slash::Next;

/// Chats with a model: on a terminal with editing, through a pipe one message a line.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model file, or the name of one in the model folders (default: the model that ./quickstart fetches)
    model: Option<PathBuf>,
    /// Instructions to the model, before the conversation
    #[arg(long, value_name = "TEXT", overrides_with = "system")]
    system: Option<String>,
    /// End answers where this text comes, without it (repeatable)
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on when the model ends its answer
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    options: ModelOptions,
    #[command(flatten)]
    sampling: SamplerOptions,
}

/// A running chat.
pub struct Chat {
    session: Session,
    conversation: Conversation,
    template: ChatTemplate,
    chain: Chain,
    limits: Limits,
    interrupt: Interrupt,
    out: Out,
    ui: Ui,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let interrupt = Interrupt::install()?;
    let file = match &args.model {
        Some(name) => find::model(name)?,
        None => find::default_model()?,
    };
    let engine = load::engine(&file, &args.options)?;
    let template = load::template(&engine, ui)?;
    let session = load::session(&engine, &args.options)?;
    let settings = load::settings(&engine, &args.sampling, ui)?;
    let chain = Chain::new(&settings, engine.model().tokenizer());
    let mut conversation = Conversation::default();
    conversation.set_system(args.system);
    let limits = Limits {
        predict: args.sampling.predict,
        ignore_eos: args.ignore_eos,
        stops: args.stop,
        ..Limits::default()
    };
    let out = Out::new();
    let mut chat = Chat { session, conversation, template, chain, limits, interrupt, out, ui: ui.clone() };
    chat.talk()
}

impl Chat {
    /// Reads messages and answers them until the person leaves.
    fn talk(&mut self) -> anyhow::Result<()> {
        let terminal = self.out.terminal && std::io::stdin().is_terminal();
        let mut input = Input::new(terminal)?;
        if terminal && !self.ui.quiet {
            self.greet()?;
        }
        let mut leaving = false;
        loop {
            let typed = input.next("> ")?;
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
                Next::Answer => self.answer(terminal)?,
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
        self.conversation.say(text);
        Next::Answer
    }

    /// Lets the model answer; whatever goes wrong with this one answer is said, and the chat goes on.
    fn answer(&mut self, terminal: bool) -> anyhow::Result<()> {
        match self.try_answer(terminal) {
            Ok(()) => Ok(()),
            // The file under the map is not what it was: nothing computed from now on could be trusted.
            Err(error) if ends_chat(&error) => Err(error),
            Err(error) => {
                // The message that could not be answered is taken back, so that the next one is not harmed.
                self.conversation.pop();
                self.out.problem(&format!("{error:#}"))?;
                Ok(())
            }
        }
    }

    fn try_answer(&mut self, terminal: bool) -> anyhow::Result<()> {
        let engine = self.session.engine().clone();
        engine.model().gguf().check_unchanged()?;
        let ids = self.conversation.prompt(&self.template, engine.model().tokenizer())?;
        if ids.len() >= self.session.context() {
            let (needed, context) = (ids.len(), self.session.context());
            return Err(Error::new(Class::Usage, "the context is full: this message was not sent")
                .expected_got(format!("a conversation below {context} tokens"), needed)
                .advice("/clear starts anew; --ctx-size makes room for more")
                .into());
        }
        // In a pipe nobody waits for a next message: there Ctrl-C ends the program.
        let guard = terminal.then(|| self.interrupt.guard());
        let cancel = guard.as_ref().map(|guard| guard.cancel().clone()).unwrap_or_default();
        let progress = ui::Progress::new(&self.ui, "reading");
        let read = self.session.eval(&ids, &cancel, &mut |done, of| progress.set(done, of));
        progress.finish();
        if let Err(error) = read {
            if error.class != Class::Interrupted {
                return Err(error.into());
            }
            self.conversation.pop();
            self.out.note("[stopped before the answer began]")?;
            return Ok(());
        }
        self.chain.reset();
        let out = &mut self.out;
        let mut written = Ok(());
        let answer = self.session.generate(&mut self.chain, &self.limits, &cancel, &mut |piece| {
            written = out.answer(piece.text);
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        drop(guard);
        written?;
        let answer = answer?;
        self.out.end_line()?;
        let ids = (!matches!(answer.stop, Stop::Text(_))).then_some(answer.ids);
        self.conversation.answer(answer.text, ids);
        match answer.stop {
            Stop::Cancelled => self.out.note("[stopped]")?,
            Stop::Limit => self.out.note("[cut: as many tokens as --predict allows]")?,
            Stop::Context => {
                let context = self.session.context();
                self.out.problem(&format!(
                    "the context of {context} tokens is full: the answer is cut (/clear starts anew)"
                ))?;
            }
            Stop::End(_) | Stop::Text(_) => {}
        }
        if self.ui.verbose {
            self.out.note(&ui::speed_line(self.session.stats()))?;
        }
        self.out.gap()?;
        Ok(())
    }
}

/// Whether an error leaves nothing to chat with.
fn ends_chat(error: &anyhow::Error) -> bool {
    let changed = |cause: &Error| matches!(cause.class, Class::Changed);
    error.chain().any(|cause| cause.downcast_ref().is_some_and(changed) || cause.is::<std::io::Error>())
}
