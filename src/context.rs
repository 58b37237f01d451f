//! What happens when a conversation no longer fits the context: how much must be left out, and by which policy.
use lapwing_models::{Class, Error, Result};

use crate::conversation::Conversation;

/// What to do when the next turn does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Ask the person each time.
    Ask,
    /// Leave out the oldest turns.
    Drop,
    /// Put a summary by the model in the place of the oldest turns.
    Summarise,
    /// Refuse the message.
    Stop,
}

impl WhenFull {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Ask, Self::Drop, Self::Summarise, Self::Stop];

    /// Its name, as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Drop => "drop",
            Self::Summarise => "summarise",
            Self::Stop => "stop",
        }
    }

    /// The policy of this name.
    ///
    /// # Errors
    /// A usage error when there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|policy| policy.name()).collect();
            Error::new(Class::Usage, "bad value for when-full").expected_got(known.join(", "), name)
        })
    }
}

/// Tokens kept free for an answer unless something else is asked for: some paragraphs, and never more than a quarter of
/// the context.
pub fn default_reserve(context: usize) -> usize {
    (context / 4).min(512)
}

/// How much of a conversation must be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Tokens that the prompt has and those to be kept free, together.
    pub needed: usize,
    /// Oldest turns that must be left out, those left out before included.
    pub turns: usize,
    /// How many messages of the person are among those left out now.
    pub messages: usize,
}

/// Whether the conversation's next answer lacks room: `None` when a prompt of it, which has `tokens`, and `reserve` more
/// fit the `context`. `count` gives the tokens of other conversations' prompts.
///
/// As much is left out as frees a quarter of the context, so that not every turn has to leave out another one, and read
/// all others again.
///
/// # Errors
/// What `count` reports; a usage error when the newest message does not fit even alone.
pub fn shortage(
    conversation: &Conversation,
    tokens: usize,
    context: usize,
    reserve: usize,
    count: &mut dyn FnMut(&Conversation) -> Result<usize>,
) -> Result<Option<Shortage>> {
    let needed = tokens.saturating_add(reserve);
    if needed <= context {
        return Ok(None);
    }
    let room = context.saturating_sub(reserve);
    // Where a shorter conversation may begin: at any message but the first that is still shown.
    let starts: Vec<usize> = conversation.message_starts().skip(1).collect();
    let mut with = |turns: usize| {
        let mut shorter = conversation.clone();
        shorter.leave_out(turns, None);
        count(&shorter)
    };
    // Fewer turns are never more tokens: the first start that frees enough is found by halving.
    let (mut low, mut high) = (0, starts.len());
    while low < high {
        let middle = (low + high) / 2;
        if with(starts[middle])? <= room / 4 * 3 { high = middle } else { low = middle + 1 }
    }
    let best = low.min(starts.len().saturating_sub(1));
    match starts.get(best) {
        Some(&turns) if with(turns)? <= room => Ok(Some(Shortage { needed, turns, messages: best + 1 })),
        _ => Err(Error::new(Class::Usage, "this message alone is too long for the context: it was not sent")
            .expected_got(format!("at most {room} tokens besides {reserve} for the answer"), tokens)
            .advice("shorten it, or ask for a larger context with ctx-size")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten tokens of system text, then messages and answers of ten tokens each.
    fn talk(messages: usize) -> Conversation {
        let mut conversation = Conversation::default();
        conversation.set_system(Some("s".to_owned()));
        for i in 0..messages {
            conversation.say(format!("message {i}"));
            if i + 1 < messages {
                conversation.answer("answer", None);
            }
        }
        conversation
    }

    fn tokens(conversation: &Conversation) -> Result<usize> {
        Ok(conversation.shown().count() * 10)
    }

    /// The shortage with 50 tokens for the answer.
    fn short(conversation: &Conversation, context: usize) -> Result<Option<Shortage>> {
        shortage(conversation, tokens(conversation)?, context, 50, &mut tokens)
    }

    #[test]
    fn as_little_is_left_out_as_frees_a_quarter() {
        let of = |messages, context| short(&talk(messages), context).unwrap();
        // 10 + 10 · 9 + 50
        assert_eq!(of(5, 150), None);
        assert_eq!(of(6, 150), Some(Shortage { needed: 170, turns: 6, messages: 3 }));
        let found = of(40, 250).unwrap();
        assert_eq!((found.needed, found.turns % 2), (850, 0));
        let mut shorter = talk(40);
        shorter.leave_out(found.turns, None);
        assert!((110..=150).contains(&tokens(&shorter).unwrap()));
        assert_eq!(shorter.system(), Some("s"));
        assert_eq!(shorter.turns().len(), talk(40).turns().len(), "nothing is forgotten");
        // What is left out already counts as such.
        shorter.answer("a".repeat(9), None);
        shorter.say("more");
        let again = short(&shorter, 170).unwrap().unwrap();
        assert!(again.turns > found.turns && again.messages < found.messages);
    }

    #[test]
    fn a_message_that_is_too_long_alone_is_refused() {
        let refused = |messages| short(&talk(messages), 60).unwrap_err();
        assert!(refused(1).to_string().contains("this message alone is too long"));
        assert!(refused(9).to_string().contains("this message alone is too long"));
    }

    #[test]
    fn policies_have_names() {
        for policy in WhenFull::ALL {
            assert_eq!(WhenFull::from_name(policy.name()).unwrap(), policy);
        }
        assert!(WhenFull::from_name("explode").is_err());
    }
}
