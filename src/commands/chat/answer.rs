//! Letting the model answer.
use std::ops::ControlFlow;

use lapwing::context::{Shortage, WhenFull, default_reserve, shortage};
use lapwing::conversation::Conversation;
use lapwing::session::{Limits, Stop};
use lapwing::text::safe;
use lapwing::thinking::{Part, Thinking};
use lapwing_models::{Class, Error};

use super::{Chat, ends_chat};
use crate::commands::{progress, ui};

/// Percent of the context from which on the person is warned.
const NEARLY_FULL: usize = 80;
/// Tokens of a summary at most.
const SUMMARY: usize = 256;

impl Chat {
    /// Lets the model answer. Whatever goes wrong with this one answer is said, and the chat goes on with the
    /// conversation, and what `/read` put before the message, as they were `before` it.
    pub fn answer(&mut self, before: (Conversation, String)) -> anyhow::Result<()> {
        match self.try_answer() {
            Ok(true) => {
                self.unsent = None;
                return Ok(());
            }
            Ok(false) => {}
            // The file under the map is not what it was: nothing computed from now on could be trusted.
            Err(error) if ends_chat(&error) => return Err(error),
            Err(error) => self.out.problem(&format!("{error:#}"))?,
        }
        (*self.branches.conversation_mut(), self.attached) = before;
        if self.terminal && self.unsent.is_some() {
            let read =
                if self.attached.is_empty() { "" } else { "; /read none lets go of what was read for it" };
            self.out.note(&format!("[/regen sends it again, /edit changes it{read}]"))?;
        }
        Ok(())
    }

    /// Adds an answer to the conversation; says whether there is one.
    fn try_answer(&mut self) -> anyhow::Result<bool> {
        let engine = self.session.engine().clone();
        engine.model().gguf().check_unchanged()?;
        let Some(ids) = self.prompt_that_fits()? else {
            self.out.note("[not sent]")?;
            return Ok(false);
        };
        let cancel = self.cancel.clone();
        if let Err(error) = progress::eval(&mut self.session, &ids, &cancel, &self.ui, "reading") {
            if error.class != Class::Interrupted {
                return Err(error.into());
            }
            self.out.wipe_key()?;
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
                self.out.problem(&format!("the context of {context} tokens is full: the answer is cut"))?;
            }
            Stop::End(_) | Stop::Complete | Stop::Text(_) => {}
        }
        if self.ui.verbose {
            self.out.note(&ui::speed_line(self.session.stats()))?;
        }
        self.warn_when_nearly_full()?;
        self.out.gap()?;
        self.autosave()?;
        Ok(true)
    }

    /// The prompt for the next answer, after something was left out where it did not fit; `None` when the person would
    /// rather not.
    fn prompt_that_fits(&mut self) -> anyhow::Result<Option<Vec<u32>>> {
        let engine = self.session.engine().clone();
        let tokenizer = engine.model().tokenizer();
        let context = self.session.context();
        let prompt = |conversation: &Conversation| conversation.prompt(&self.template, tokenizer);
        let conversation = self.branches.conversation();
        let mut ids = prompt(conversation)?;
        let mut count = |conversation: &Conversation| Ok(prompt(conversation)?.len());
        if let Some(shortage) = shortage(conversation, ids.len(), context, self.reserve(), &mut count)? {
            let (messages, are) = match shortage.messages {
                1 => ("the oldest message".to_owned(), "is"),
                n => (format!("the oldest {n} messages"), "are"),
            };
            let policy = match self.when_full {
                WhenFull::Ask if self.terminal => self.ask_what_to_do(&shortage, &messages)?,
                other => other,
            };
            match policy {
                WhenFull::Ask => {
                    return Err(Error::new(Class::Usage, "the context is full: this message was not sent")
                        .expected_got(format!("at most {context} tokens with the answer"), shortage.needed)
                        .advice("/set when-full drop or summarise leaves out the oldest; /clear starts anew")
                        .into());
                }
                WhenFull::Stop => return Ok(None),
                WhenFull::Drop => {
                    self.branches.conversation_mut().leave_out(shortage.turns, None);
                    self.out.note(&format!(
                        "[{messages} {are} no longer shown to the model; /history still has all]"
                    ))?;
                }
                WhenFull::Summarise => {
                    let Some(summary) = self.summary(shortage.turns)? else { return Ok(None) };
                    self.branches.conversation_mut().leave_out(shortage.turns, Some(&summary));
                    self.out.note(&format!("[a summary instead of {messages}; /history still has all]"))?;
                    self.out.note(&safe(&summary))?;
                }
            }
            ids = self.branches.conversation().prompt(&self.template, tokenizer)?;
        }
        if ids.len() >= context {
            return Err(Error::new(Class::Usage, "the context is full: this message was not sent")
                .expected_got(format!("a conversation below {context} tokens"), ids.len())
                .advice("/clear starts anew; /set ctx-size makes room for more")
                .into());
        }
        Ok(Some(ids))
    }

    /// Tokens to keep free for an answer.
    fn reserve(&self) -> usize {
        let usual = default_reserve(self.session.context());
        self.limits.predict.map_or(usual, |most| most.min(usual))
    }

    fn ask_what_to_do(&mut self, shortage: &Shortage, messages: &str) -> anyhow::Result<WhenFull> {
        self.out.note(&format!(
            "The context is full: with room for an answer this takes {} tokens, and there are {}.\n\
             d      no longer shows {messages} to the model\n\
             s      puts a summary by the model in the place of that\n\
             Enter  does not send your message\n\
             (/set when-full drop, summarise or stop decides beforehand.)",
            shortage.needed,
            self.session.context()
        ))?;
        Ok(match self.input.ask("d, s or Enter? ")?.as_str() {
            "d" => WhenFull::Drop,
            "s" => WhenFull::Summarise,
            _ => WhenFull::Stop,
        })
    }

    /// What the model itself makes of the oldest turns; `None` when the person stops it.
    fn summary(&mut self, turns: usize) -> anyhow::Result<Option<String>> {
        let engine = self.session.engine().clone();
        let asking = self.branches.conversation().to_summarise(turns);
        let ids = asking.prompt(&self.template, engine.model().tokenizer())?;
        let room = self.session.context().saturating_sub(ids.len());
        let failed = |why: &str| {
            Error::new(Class::Usage, format!("the oldest messages cannot be summarised: {why}"))
                .advice("/set when-full drop leaves them out")
        };
        if room < SUMMARY / 8 {
            return Err(failed("there is no room for it").into());
        }
        let cancel = self.cancel.clone();
        match progress::eval(&mut self.session, &ids, &cancel, &self.ui, "summarising") {
            Err(error) if error.class == Class::Interrupted => return Ok(None),
            other => other?,
        }
        self.chain.reset();
        let limits = Limits { predict: Some(SUMMARY.min(room)), ..Limits::default() };
        let answer =
            self.session.generate(&mut self.chain, &limits, &cancel, &mut |_| ControlFlow::Continue(()))?;
        match answer.stop {
            Stop::Cancelled => Ok(None),
            _ if answer.text.trim().is_empty() => Err(failed("the model says nothing").into()),
            _ => Ok(Some(answer.text)),
        }
    }

    /// Says once that the context is nearly full.
    fn warn_when_nearly_full(&mut self) -> anyhow::Result<()> {
        let (used, context) = (self.session.cache().len(), self.session.context());
        let nearly = used * 100 >= context * NEARLY_FULL;
        if nearly && !self.warned {
            let percent = used * 100 / context;
            self.out.note(&format!("[the context is {percent}% full; /context says of what]"))?;
        }
        self.warned = nearly;
        Ok(())
    }
}
