//! `/lora compare`: what the base and the stack answer to the same prompt, and how far apart they are.
use std::io::Write;
use std::ops::ControlFlow;

use lapwing::conversation::Conversation;
use lapwing::divergence::{Tuned, divergence};
use lapwing::sampler::Chain;
use lapwing::session::{Cancel, Limits, Session, SessionOptions};
use lapwing::text::safe;
use lapwing_models::lora::Stack;
use lapwing_models::{Class, Error, Result};
use unicode_width::UnicodeWidthChar;

use super::slash::Next;
use super::{Chat, count};
use crate::commands::progress::{self, Progress};

/// Tokens of each answer at most, unless --predict says otherwise.
const LENGTH: usize = 128;
/// Narrower terminals show one answer below the other.
const NARROWEST: usize = 60;
/// Between the columns.
const GAP: &str = " │ ";

/// Answers `prompt`, with the system's instructions but without the conversation, twice.
pub fn run(chat: &mut Chat, prompt: &str) -> anyhow::Result<Next> {
    match compare(chat, prompt) {
        Err(error) if interrupted(&error) => chat.out.note("[stopped]")?,
        other => other?,
    }
    Ok(Next::Prompt)
}

fn interrupted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.class == Class::Interrupted)
}

fn compare(chat: &mut Chat, prompt: &str) -> anyhow::Result<()> {
    let mut stack = chat.session.stack().clone();
    stack.set_on(true);
    if stack.key().is_empty() {
        return Err(Error::new(Class::Usage, "there is no stack to compare with the base")
            .advice("/lora add PATH applies an adapter")
            .into());
    }
    if prompt.is_empty() {
        return Err(Error::new(Class::Usage, "compare on what?").advice("/lora compare PROMPT").into());
    }
    let engine = chat.session.engine().clone();
    let (model, team) = (engine.model(), engine.team());
    let mut conversation = Conversation::default();
    conversation.set_system(chat.branches.conversation().system().map(str::to_owned));
    conversation.say(prompt);
    let ids = conversation.prompt(&chat.template, model.tokenizer())?;

    let cancel = chat.cancel.clone();
    let none = Stack::default();
    let of_base = answer(chat, &none, &ids, "the base answers", &cancel)?;
    let of_stack = answer(chat, &stack, &ids, "the stack answers", &cancel)?;
    // Every prediction of the stack's own answer.
    let tokens = [&ids[..], &of_stack.0].concat();
    let tokens = &tokens[..(tokens.len() - 1).max(ids.len())];
    let progress = Progress::tokens(&chat.ui, "comparing");
    let [p, q] = [&stack, &none].map(|stack| Tuned { model, stack });
    let found = divergence(team, p, q, tokens, ids.len() - 1, |done, of| {
        progress.set(done as u64, of as u64);
        !cancel.is_cancelled()
    })?;
    drop(progress);
    let width = terminal_size::terminal_size().filter(|_| chat.out.terminal).map_or(0, |(width, _)| width.0);
    std::io::stdout().write_all(beside(&of_base.1, &of_stack.1, width.into()).as_bytes())?;
    chat.out.note(&format!(
        "KL(stack‖base) {:.4} nats mean, {:.4} at most; same top token {:.0}% ({} of the stack's answer)",
        found.mean(),
        found.max(),
        found.same_top_pct(),
        count(found.kl.len(), "token"),
    ))?;
    Ok(())
}

/// Tokens and text of the answer under `stack`, in a session of its own: the conversation's stays as it is.
fn answer(
    chat: &Chat,
    stack: &Stack,
    ids: &[u32],
    what: &'static str,
    cancel: &Cancel,
) -> Result<(Vec<u32>, String)> {
    let engine = chat.session.engine();
    let predict = chat.limits.predict.unwrap_or(LENGTH);
    let context = chat.session.context().min(ids.len().saturating_add(predict).saturating_add(1));
    let options = SessionOptions {
        context: Some(context),
        kv_type: chat.session.cache().shape().ty,
        snapshot_bytes: Some(0),
        ..SessionOptions::default()
    };
    let mut session = Session::new(engine.clone(), &options)?;
    session.set_stack(stack.clone());
    progress::eval(&mut session, ids, cancel, &chat.ui, what)?;
    let progress = Progress::tokens(&chat.ui, what);
    // The same random numbers for both.
    let mut settings = chat.settings.clone();
    settings.set("seed", &chat.chain.seed().to_string())?;
    let mut chain = Chain::new(&settings, engine.model().tokenizer());
    let limits = Limits { predict: Some(predict), ..chat.limits.clone() };
    let mut n = 0;
    let answer = session.generate(&mut chain, &limits, cancel, &mut |_| {
        n += 1;
        progress.set(n, predict as u64);
        ControlFlow::Continue(())
    })?;
    if cancel.is_cancelled() {
        return Err(Error::new(Class::Interrupted, "stopped"));
    }
    Ok((answer.ids, answer.text))
}

/// Two texts in columns, or one below the other where `width` leaves too little room.
fn beside(base: &str, stack: &str, width: usize) -> String {
    if width < NARROWEST {
        return format!("── base\n{}\n── stack\n{}\n", safe(base.trim()), safe(stack.trim()));
    }
    // The last column stays free: some terminals break the line there.
    let column = (width - 1 - GAP.chars().count()) / 2;
    let [left, right] = [("base", base), ("stack", stack)].map(|(title, text)| {
        let mut lines = vec![title.to_owned(), "─".repeat(column)];
        lines.extend(wrapped(&safe(text.trim()), column));
        lines
    });
    let mut out = String::new();
    for i in 0..left.len().max(right.len()) {
        let [left, right] = [&left, &right].map(|lines| lines.get(i).map_or("", String::as_str));
        let pad = column.saturating_sub(columns(left));
        out += &format!("{left}{}{GAP}{right}\n", " ".repeat(pad));
    }
    out
}

/// `text` in lines of at most `width` columns, broken between words where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut now = String::new();
        for word in line.replace('\t', "    ").split_inclusive(' ') {
            if !now.is_empty() && columns(&now) + columns(word.trim_end()) > width {
                lines.push(std::mem::take(&mut now).trim_end().to_owned());
            }
            for c in word.chars() {
                if columns(&now) + c.width().unwrap_or(0) > width {
                    if c == ' ' {
                        continue;
                    }
                    lines.push(std::mem::take(&mut now).trim_end().to_owned());
                }
                now.push(c);
            }
        }
        lines.push(now.trim_end().to_owned());
    }
    lines
}

fn columns(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stand_side_by_side() {
        let text = beside("one two three\nfour", "漢字 a-very-long-word-that-does-not-fit-anywhere", 61);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| columns(line) <= 60), "{text}");
        assert!(lines[2].starts_with("one two three") && lines[2].contains("│ 漢字"), "{text}");
        assert!(lines[3].starts_with("four ") && lines.len() > 3, "{text}");
        assert_eq!(beside("a", "b", 40), "── base\na\n── stack\nb\n");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrapped("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrapped("abcdefg", 3), ["abc", "def", "g"]);
        assert_eq!(wrapped("a\n\nb", 9), ["a", "", "b"]);
    }
}
