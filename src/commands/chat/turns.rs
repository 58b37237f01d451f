//! Commands that change the conversation.
use lapwing::conversation::Role;
use lapwing::text::safe;
use lapwing_models::{Class, Error};

use super::input::Typed;
use super::slash::{Complete, Next, Slash};
use super::{Chat, PROMPT, Unsent, count};

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[
    Slash {
        name: "system",
        args: "[TEXT]",
        help: "tell the model how to behave (none: no more)",
        complete: Complete::No,
        run: system,
    },
    Slash {
        name: "undo",
        args: "[N]",
        help: "take back the last N messages",
        complete: Complete::No,
        run: undo,
    },
    Slash {
        name: "regen",
        args: "",
        help: "answer the last message anew",
        complete: Complete::No,
        run: regen,
    },
    Slash {
        name: "edit",
        args: "[TEXT]",
        help: "change the last message",
        complete: Complete::No,
        run: edit,
    },
    Slash {
        name: "fork",
        args: "NAME",
        help: "try another way from here on, as a branch of that name",
        complete: Complete::No,
        run: fork,
    },
    Slash {
        name: "goto",
        args: "NAME",
        help: "go on with another branch (the first is called main)",
        complete: Complete::Words(branches),
        run: goto,
    },
    Slash { name: "history", args: "", help: "show the conversation", complete: Complete::No, run: history },
    Slash { name: "clear", args: "", help: "start anew", complete: Complete::No, run: clear },
];

fn system(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    match text {
        "" => {
            let text = match chat.branches.conversation().system() {
                Some(text) => format!("The model is told: {}", safe(text)),
                None => "The model is told nothing: /system TEXT does.".to_owned(),
            };
            chat.out.note(&text)?;
        }
        "none" => {
            chat.branches.conversation_mut().set_system(None);
            chat.out.note("The model is told nothing.")?;
        }
        text => {
            chat.branches.conversation_mut().set_system(Some(text.to_owned()));
            chat.out.note("From now on, that is what the model is told.")?;
        }
    }
    Ok(Next::Prompt)
}

fn nothing_said() -> anyhow::Error {
    Error::new(Class::Usage, "nothing has been said yet").into()
}

fn undo(chat: &mut Chat, n: &str) -> anyhow::Result<Next> {
    let n = match n {
        "" => 1,
        n => n.parse::<usize>().ok().filter(|&n| n > 0).ok_or_else(|| {
            Error::new(Class::Usage, "how many messages?").expected_got("a number, such as /undo 2", safe(n))
        })?,
    };
    let conversation = chat.branches.conversation_mut();
    let taken: Vec<_> = std::iter::from_fn(|| conversation.undo()).take(n).collect();
    let Some(oldest) = taken.last() else { return Err(nothing_said()) };
    unsent_is_new(chat);
    let text = format!("Taken back: {}, from \"{}\" on.", count(taken.len(), "message"), first_words(oldest));
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}

/// The start of a text, for people to recognise it by.
pub fn first_words(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut words: String = line.chars().take(40).collect();
    if words.len() < text.len() {
        words.push('…');
    }
    safe(&words).into_owned()
}

fn regen(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    if let Some(unsent) = chat.unsent.clone() {
        return Ok(chat.send(unsent));
    }
    let conversation = chat.branches.conversation_mut();
    let message = conversation.undo().ok_or_else(nothing_said)?;
    conversation.say(message);
    Ok(Next::Answer)
}

fn edit(chat: &mut Chat, text: &str) -> anyhow::Result<Next> {
    let turns = chat.branches.conversation().turns();
    let (last, replaces) = match (&chat.unsent, turns.iter().rfind(|turn| turn.role == Role::User)) {
        (Some(unsent), _) => (&unsent.text, unsent.replaces),
        (None, Some(said)) => (&said.text, true),
        (None, None) => return Err(nothing_said()),
    };
    let text = if text.is_empty() {
        if !chat.terminal {
            return Err(Error::new(Class::Usage, "what should it say?").advice("/edit TEXT").into());
        }
        match chat.input.edit(PROMPT, last)? {
            Typed::Text(text) if !text.trim().is_empty() => text,
            _ => {
                chat.out.note("The message stays as it was.")?;
                return Ok(Next::Prompt);
            }
        }
    } else {
        text.to_owned()
    };
    Ok(chat.send(Unsent { text, replaces }))
}

/// What a message without an answer was to replace is gone: it comes after what there is now.
fn unsent_is_new(chat: &mut Chat) {
    if let Some(unsent) = &mut chat.unsent {
        unsent.replaces = false;
    }
}

fn fork(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    let from = chat.branches.current().name.clone();
    chat.branches.fork(name)?;
    chat.out.note(&format!("You are on {name} now; /goto {from} returns."))?;
    Ok(Next::Prompt)
}

fn branches(chat: &Chat) -> Vec<String> {
    chat.branches.all().iter().map(|branch| branch.name.clone()).collect()
}

fn goto(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    chat.branches.goto(name)?;
    unsent_is_new(chat);
    let turns = chat.branches.conversation().turns();
    let said = turns.iter().rfind(|turn| turn.role == Role::User).map(|turn| first_words(&turn.text));
    let said =
        said.map_or("nothing is said yet".to_owned(), |said| format!("the last message is \"{said}\""));
    chat.out.note(&format!("You are on {name}; {said}."))?;
    Ok(Next::Prompt)
}

fn history(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let mut text = String::new();
    let conversation = chat.branches.conversation();
    let first = usize::from(conversation.system().is_some());
    for (at, turn) in conversation.turns().iter().enumerate() {
        if conversation.left_out() > 0 && at == first + conversation.left_out() {
            text += "[what is above, the model is no longer shown]\n";
            text += &conversation.summary().map_or(String::new(), |summary| format!("[{}]\n", safe(summary)));
        }
        let who = match turn.role {
            Role::System => "system> ",
            Role::User => PROMPT,
            Role::Assistant => "",
        };
        text += &format!("{who}{}\n", safe(turn.text.trim_end()));
    }
    let said = |n: usize| count(n, "turn");
    for (at, branch) in chat.branches.all().iter().enumerate().filter(|_| chat.branches.all().len() > 1) {
        let here = if *branch == *chat.branches.current() { "*" } else { " " };
        let turns = branch.conversation.turns();
        // The branch it has most in common with, of those that were there before.
        let shared = |other: &lapwing::branches::Branch| {
            turns.iter().zip(other.conversation.turns()).take_while(|(a, b)| a == b).count()
        };
        let parent = chat.branches.all()[..at].iter().rev().max_by_key(|other| shared(other));
        let from = parent.map(|p| format!(", {} of them as in {}", shared(p), p.name)).unwrap_or_default();
        text += &format!("{here} {}: {}{from}\n", branch.name, said(turns.len()));
    }
    if text.is_empty() {
        text += "Nothing has been said yet.";
    }
    chat.out.note(text.trim_end())?;
    Ok(Next::Prompt)
}

fn clear(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    chat.branches.conversation_mut().clear();
    chat.attached.clear();
    chat.unsent = None;
    chat.out.note("The conversation starts anew.")?;
    Ok(Next::Prompt)
}
