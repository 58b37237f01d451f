//! Letting the model answer.
use std::ops::ControlFlow;

use lapwing::conversation::Conversation;
use lapwing::session::Stop;
use lapwing::thinking::{Part, Thinking};
use lapwing_models::{Class, Error};

use super::{Chat, ends_chat};
use crate::commands::ui;

impl Chat {
    /// Lets the model answer. Whatever goes wrong with this one answer is said, and the chat goes on with the
    /// conversation as it was `before` the message.
    pub fn answer(&mut self, before: Conversation) -> anyhow::Result<()> {
        let answered = self.try_answer();
        if !matches!(answered, Ok(true)) {
            *self.branches.conversation_mut() = before;
        }
        match answered {
            Ok(_) => Ok(()),
            // The file under the map is not what it was: nothing computed from now on could be trusted.
            Err(error) if ends_chat(&error) => Err(error),
            Err(error) => {
                self.out.problem(&format!("{error:#}"))?;
                Ok(())
            }
        }
    }

    /// Adds an answer to the conversation; says whether there is one.
    fn try_answer(&mut self) -> anyhow::Result<bool> {
        let engine = self.session.engine().clone();
        engine.model().gguf().check_unchanged()?;
        let ids = self.branches.conversation().prompt(&self.template, engine.model().tokenizer())?;
        if ids.len() >= self.session.context() {
            let (needed, context) = (ids.len(), self.session.context());
            return Err(Error::new(Class::Usage, "the context is full: this message was not sent")
                .expected_got(format!("a conversation below {context} tokens"), needed)
                .advice("/clear starts anew; --ctx-size makes room for more")
                .into());
        }
        // In a pipe nobody waits for a next message: there Ctrl-C ends the program.
        let guard = self.terminal.then(|| self.interrupt.guard());
        let cancel = guard.as_ref().map(|guard| guard.cancel().clone()).unwrap_or_default();
        let progress = ui::Progress::new(&self.ui, "reading");
        let read = self.session.eval(&ids, &cancel, &mut |done, of| progress.set(done, of));
        progress.finish();
        if let Err(error) = read {
            if error.class != Class::Interrupted {
                return Err(error.into());
            }
            self.out.note("[stopped before the answer began]")?;
            return Ok(false);
        }
        self.chain.reset();
        let out = &mut self.out;
        let mut written = Ok(());
        let mut thinking = Thinking::after(&ids, engine.model().tokenizer());
        let answer = self.session.generate(&mut self.chain, &self.limits, &cancel, &mut |piece| {
            let mut parts = thinking.push(piece.text);
            parts.extend(piece.id.is_none().then(|| thinking.finish()).into_iter().flatten());
            written = if out.terminal {
                parts.iter().try_for_each(|(part, text)| out.part(*part, text))
            } else {
                out.part(Part::Answer, piece.text)
            };
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        drop(guard);
        written?;
        let answer = answer?;
        self.out.end_line()?;
        let mut ids = (!matches!(answer.stop, Stop::Text(_))).then_some(answer.ids);
        let mut text = answer.text;
        if let Some(tag) = thinking.missing() {
            // So that the template can drop the thoughts from later prompts.
            text += tag;
            ids = None;
        }
        self.branches.conversation_mut().answer(text, ids);
        match answer.stop {
            Stop::Cancelled => self.out.note("[stopped]")?,
            Stop::Limit => self.out.note("[cut: as many tokens as --predict allows]")?,
            Stop::Context => {
                let context = self.session.context();
                self.out.problem(&format!(
                    "the context of {context} tokens is full: the answer is cut (/clear starts anew)"
                ))?;
            }
            Stop::End(_) | Stop::Complete | Stop::Text(_) => {}
        }
        if self.ui.verbose {
            self.out.note(&ui::speed_line(self.session.stats()))?;
        }
        self.out.gap()?;
        Ok(true)
    }
}
