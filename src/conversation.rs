//! A conversation: turns of text, and the tokens that a model's template makes of them.
use lapwing_models::chat_template::{ChatTemplate, Message};
use lapwing_models::tokenizer::{Origin, Segment, Tokenizer};
use lapwing_models::{Error, Result};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions to the model, before all other turns.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that templates know.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What was said.
    pub text: String,
    /// The tokens that a model produced for `text`. They are what its cache holds, while tokenising the text again
    /// may give others.
    pub ids: Option<Vec<u32>>,
}

/// The turns of a conversation, oldest first; the system's, if any, comes before all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    turns: Vec<Turn>,
}

impl Conversation {
    /// All turns.
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The instructions to the model.
    pub fn system(&self) -> Option<&str> {
        self.turns.first().filter(|turn| turn.role == Role::System).map(|turn| turn.text.as_str())
    }

    /// Sets or (with `None`) removes the instructions to the model.
    pub fn set_system(&mut self, text: Option<String>) {
        if self.system().is_some() {
            self.turns.remove(0);
        }
        if let Some(text) = text {
            self.turns.insert(0, Turn { role: Role::System, text, ids: None });
        }
    }

    /// Adds what the person said.
    pub fn say(&mut self, text: impl Into<String>) {
        self.turns.push(Turn { role: Role::User, text: text.into(), ids: None });
    }

    /// Adds what the model answered, with the tokens it produced.
    pub fn answer(&mut self, text: impl Into<String>, ids: Option<Vec<u32>>) {
        self.turns.push(Turn { role: Role::Assistant, text: text.into(), ids });
    }

    /// Takes back the newest turn, except the system's.
    pub fn pop(&mut self) -> Option<Turn> {
        self.turns.pop_if(|turn| turn.role != Role::System)
    }

    /// Forgets all turns but the system's.
    pub fn clear(&mut self) {
        self.turns.truncate(usize::from(self.system().is_some()));
    }

    /// The tokens to evaluate before the model's next answer: the template applied to all turns.
    ///
    /// # Errors
    /// What the template refuses.
    pub fn prompt(&self, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let messages: Vec<_> =
            self.turns.iter().map(|turn| Message::new(turn.role.name(), turn.text.as_str())).collect();
        let segments = template.render(tokenizer, &messages, true)?;
        let mut ids = self.encode(&segments, tokenizer);
        if let Some(bos) = tokenizer.bos()
            && tokenizer.add_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        if ids.is_empty() {
            return Err(Error::bad_file("the chat template makes nothing of this conversation"));
        }
        Ok(ids)
    }

    /// Tokens of rendered segments, with the model's own tokens for what it said itself.
    fn encode(&self, segments: &[Segment], tokenizer: &Tokenizer) -> Vec<u32> {
        let mut own = self.turns.iter().filter_map(|turn| Some((turn.text.trim(), turn.ids.as_deref()?)));
        let mut next = own.next();
        let (mut ids, mut from) = (Vec::new(), 0);
        for (at, segment) in segments.iter().enumerate() {
            // Templates trim what was said, or not. One that shows a turn in any other way gets it tokenised anew.
            let Some((text, produced)) = next else { break };
            if segment.origin == Origin::Content && segment.text.trim() == text {
                ids.extend(tokenizer.encode_segments(&segments[from..at]));
                ids.extend_from_slice(produced);
                from = at + 1;
                next = own.next();
            }
        }
        ids.extend(tokenizer.encode_segments(&segments[from..]));
        ids
    }
}
