//! Generating an answer: the loop of choosing tokens and evaluating them.
//!
//! Each token is chosen from the model's own logits for the text before it. How these are computed changes nothing
//! of them: not the tokens guessed ahead and evaluated with the last one (see [`crate::lookup`]), nor those that a
//! grammar forces, which are evaluated together when the next logits are needed.
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use lapwing_models::decoder::Want;
use lapwing_models::tokenizer::StreamDecoder;
use lapwing_models::{Class, Error, Result};

use crate::constraint::Constraint;
use crate::logprobs::top_logprobs;
use crate::lookup::Lookup;
use crate::sampler::Chain;
use crate::session::{Answer, Cancel, Limits, Piece, Session, Stop};
use crate::text::StopFinder;

/// Tokens evaluated ahead of the answer.
#[derive(Default)]
struct Ahead {
    /// Guesses, all in the cache.
    guesses: Vec<u32>,
    /// How many of them came true. Row `n_true` of the session's logits is for the token that comes next.
    n_true: usize,
}

impl Session {
    /// Generates an answer to what [`Session::eval`] evaluated, giving each token to `receive` as it comes.
    ///
    /// # Errors
    /// What the forward pass, the sampling or the answer's grammar report. A cancelled answer is no error.
    pub fn generate(
        &mut self,
        chain: &mut Chain,
        limits: &Limits,
        cancel: &Cancel,
        receive: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Answer> {
        if self.now.logits.is_empty() {
            return Err(Error::new(Class::Usage, "there is no prompt to answer").advice("evaluate one first"));
        }
        let constraint = match &limits.grammar {
            Some(grammar) => Some(grammar.start(self.room(limits, 0))?),
            None => None,
        };
        self.workspace.set_cancel(cancel);
        let engine = Arc::clone(&self.engine);
        engine.team().scope(|| {
            let mut ahead = Ahead::default();
            let answer = self.generate_here(chain, limits, constraint, cancel, receive, &mut ahead);
            self.settle(&mut ahead);
            answer
        })
    }

    /// Tokens that may still be generated when `n_gen` of an answer have been.
    fn room(&self, limits: &Limits, n_gen: usize) -> usize {
        let predict = limits.predict.unwrap_or(usize::MAX);
        // The last one needs no place in the cache.
        predict.saturating_sub(n_gen).min((self.context() + 1).saturating_sub(self.now.tokens.len()))
    }

    fn generate_here(
        &mut self,
        chain: &mut Chain,
        limits: &Limits,
        mut constraint: Option<Constraint>,
        cancel: &Cancel,
        receive: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
        ahead: &mut Ahead,
    ) -> Result<Answer> {
        let engine = Arc::clone(&self.engine);
        let tokenizer = engine.model().tokenizer();
        let mut decoder = StreamDecoder::new(tokenizer);
        let mut finder = StopFinder::new(limits.stops.iter().cloned());
        let mut lookup = limits.lookup.then(Lookup::default);
        let mut answer =
            Answer { ids: Vec::new(), text: String::new(), stop: Stop::Limit, logprobs: Vec::new() };
        // Tokens that the grammar forces; with `closing`, those that end the answer.
        let (mut known, mut closing) = (VecDeque::new(), false);
        let start = Instant::now();
        let mut first = None;
        answer.stop = loop {
            if known.is_empty() && (closing || constraint.as_ref().is_some_and(Constraint::is_complete)) {
                break Stop::Complete;
            }
            let room = self.room(limits, answer.ids.len());
            if limits.predict.is_some_and(|most| answer.ids.len() >= most) {
                break Stop::Limit;
            }
            if cancel.is_cancelled() {
                break Stop::Cancelled;
            }
            if room == 0 {
                break Stop::Context;
            }
            // After the first token, which nothing that takes time should hold up.
            if let Some(constraint) = constraint.as_mut().filter(|_| !closing && !answer.ids.is_empty())
                && known.is_empty()
            {
                known.extend(constraint.forced()?);
            }
            let id = match known.pop_front() {
                Some(id) if limits.logprobs == 0 => id,
                known => {
                    match self.evaluate(ahead, lookup.as_mut(), room) {
                        Err(error) if error.class == Class::Interrupted => break Stop::Cancelled,
                        result => result?,
                    }
                    let logits = self.row(ahead.n_true);
                    match (known, &mut constraint) {
                        (Some(id), _) => id,
                        (None, Some(constraint)) => {
                            chain.choose(logits, &self.now.tokens, Some(constraint.mask()?)).id
                        }
                        (None, None) => chain.choose(logits, &self.now.tokens, None).id,
                    }
                }
            };
            first.get_or_insert_with(Instant::now);
            let ends = tokenizer.is_eog(id) && (!limits.ignore_eos || constraint.is_some());
            if let Some(constraint) = constraint.as_mut().filter(|_| !ends && !closing)
                && !constraint.accept(id, room - 1)?
            {
                known = constraint.ending(room).unwrap_or_default().into();
                closing = true;
                continue;
            }
            if limits.logprobs > 0 && !ends {
                answer.logprobs.push(top_logprobs(self.row(ahead.n_true), id, limits.logprobs));
            }
            self.push(id, ahead);
            if ends {
                break Stop::End(id);
            }
            answer.ids.push(id);
            let (text, stop) = finder.push(&decoder.push(id));
            answer.text += &text;
            if receive(&Piece { id: Some(id), text: &text }).is_break() {
                break Stop::Cancelled;
            }
            if let Some(stop) = stop {
                break Stop::Text(stop);
            }
        };
        if !matches!(answer.stop, Stop::Text(_)) {
            let (mut rest, stop) = finder.push(&decoder.finish());
            match stop {
                Some(stop) => answer.stop = Stop::Text(stop),
                None => rest += &finder.finish(),
            }
            answer.text += &rest;
            // The answer has ended: that the receiver had enough changes nothing.
            let _ = receive(&Piece { id: None, text: &rest });
        }
        let first = first.unwrap_or(start);
        self.stats.n_gen = answer.ids.len();
        self.stats.first_token = self.stats.prefill + (first - start);
        self.stats.decode = first.elapsed();
        Ok(answer)
    }

    /// Row `row` of the logits of the last evaluation, `[n_vocab]`.
    fn row(&self, row: usize) -> &[f32] {
        let width = self.engine.model().spec().vocab;
        &self.now.logits[row * width..][..width]
    }

    /// Makes row `ahead.n_true` of the logits that of the last token, evaluating the tokens that are not in the cache,
    /// and guesses behind them, as far as there is `room`.
    fn evaluate(&mut self, ahead: &mut Ahead, lookup: Option<&mut Lookup>, room: usize) -> Result<()> {
        let evaluated = self.now.cache.len() - (ahead.guesses.len() - ahead.n_true);
        let n_new = self.now.tokens.len() - evaluated;
        if n_new == 0 {
            return Ok(());
        }
        self.settle(ahead);
        let mut ids = self.now.tokens[evaluated..].to_vec();
        // What follows the last guess that can come true is chosen as well.
        let guesses = lookup.map_or_else(Vec::new, |lookup| lookup.guess(&self.now.tokens, room - 1));
        ids.extend_from_slice(&guesses);
        self.advance(&ids, Want::From(n_new - 1))?;
        self.now.tokens.truncate(evaluated + n_new);
        self.stats.n_decoded += n_new;
        self.stats.n_guessed += guesses.len();
        ahead.guesses = guesses;
        Ok(())
    }

    /// Adds a token that was chosen: a guess that comes true, or the end of guessing.
    fn push(&mut self, id: u32, ahead: &mut Ahead) {
        self.now.tokens.push(id);
        if ahead.guesses.get(ahead.n_true) == Some(&id) {
            ahead.n_true += 1;
            self.stats.n_decoded += 1;
            self.stats.n_guessed_right += 1;
        } else {
            self.settle(ahead);
        }
    }

    /// Takes guesses that did not come true out of the cache; of the logits, the row of the last token in it stays.
    fn settle(&mut self, ahead: &mut Ahead) {
        let Ahead { guesses, n_true } = std::mem::take(ahead);
        self.now.cache.truncate(self.now.cache.len() - (guesses.len() - n_true));
        let width = self.engine.model().spec().vocab;
        self.now.logits.truncate((n_true + 1) * width);
        self.now.logits.drain(..n_true * width);
    }
}
