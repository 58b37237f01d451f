//! A conversation: turns of text, and the tokens that a model's template makes of them.
use lapwing_models::chat_template::{ChatTemplate, Message};
use lapwing_models::tokenizer::{Origin, Piece, Segment, Tokenizer};
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
    /// How many of the oldest turns, behind the system's, the model is no longer shown.
    left_out: usize,
    /// What it is shown in their place.
    summary: Option<String>,
}

/// What the person seems to have said before a summary.
const SUMMARY: &str = "This is what we talked about before:\n";
/// And what the model seems to have answered.
const UNDERSTOOD: &str = "I remember.";
/// What is asked of a model that is to write one.
const SUMMARISE: &str = "Summarise our conversation so far in one short paragraph, for yourself to go on from later. \
    Keep names, numbers, decisions and open questions.";

impl Conversation {
    /// A conversation of these turns.
    ///
    /// # Errors
    /// When the system speaks anywhere but at the start.
    pub fn from_turns(turns: Vec<Turn>) -> Result<Self> {
        match turns.iter().skip(1).position(|turn| turn.role == Role::System) {
            Some(at) => Err(Error::bad_file("a turn of the system is not the first")
                .expected_got("the person or the model", "the system")
                .at(format!("turn {}", at + 1))),
            None => Ok(Self { turns, left_out: 0, summary: None }),
        }
    }

    /// What the template is to show: who says what, without the turns left out, with the summary in their place.
    pub fn shown(&self) -> impl Iterator<Item = (Role, &str)> {
        let summary = self.summary.as_deref().map(|text| {
            // A message and its answer: all templates take that, and some nothing else.
            [(Role::User, text), (Role::Assistant, UNDERSTOOD)]
        });
        let system = self.turns.iter().take(self.first()).map(|turn| (turn.role, turn.text.as_str()));
        system
            .chain(summary.into_iter().flatten())
            .chain(self.kept().map(|turn| (turn.role, turn.text.as_str())))
    }

    /// Number of turns of the system: none or one.
    fn first(&self) -> usize {
        usize::from(self.system().is_some())
    }

    /// The turns that are shown, without the system's.
    fn kept(&self) -> impl Iterator<Item = &Turn> + Clone {
        self.turns.iter().skip(self.first() + self.left_out)
    }

    /// How many of the oldest turns, behind the system's, the model is no longer shown.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// What the model is shown in their place.
    pub fn summary(&self) -> Option<&str> {
        self.summary.as_deref()
    }

    /// No longer shows the model the oldest `turns` behind the system's; a summary of them may take their place.
    pub fn leave_out(&mut self, turns: usize, summary: Option<&str>) {
        self.left_out = turns.min(self.turns.len() - self.first());
        self.summary = summary.map(|text| format!("{SUMMARY}{}", text.trim()));
    }

    /// What was left out before, as saved.
    pub(crate) fn restore_left_out(&mut self, turns: usize, summary: Option<String>) {
        self.left_out = turns.min(self.turns.len() - self.first());
        self.summary = summary;
    }

    /// Where the person's messages that are shown begin: how many turns, behind the system's, are before each.
    pub fn message_starts(&self) -> impl Iterator<Item = usize> {
        let users = self.kept().enumerate().filter(|(_, turn)| turn.role == Role::User);
        users.map(|(at, _)| self.left_out + at)
    }

    /// A conversation that asks the model to summarise the oldest `turns` behind the system's.
    pub fn to_summarise(&self, turns: usize) -> Self {
        let mut asking = self.clone();
        asking.turns.truncate(self.first() + turns);
        asking.say(SUMMARISE);
        asking
    }

    /// Forgets which tokens a model produced: for another one they mean something else.
    pub fn forget_ids(&mut self) {
        self.turns.iter_mut().for_each(|turn| turn.ids = None);
    }

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

    /// Takes back the newest message of the person and all that follows it. Returns the message's text, or `None` when
    /// there is none.
    pub fn undo(&mut self) -> Option<String> {
        let at = self.turns.iter().rposition(|turn| turn.role == Role::User)?;
        if at < self.first() + self.left_out {
            // With the newer turns gone, there is room for the older ones again.
            (self.left_out, self.summary) = (0, None);
        }
        self.turns.drain(at..).next().map(|turn| turn.text)
    }

    /// Forgets all turns but the system's.
    pub fn clear(&mut self) {
        self.turns.truncate(self.first());
        (self.left_out, self.summary) = (0, None);
    }

    /// The tokens to evaluate before the model's next answer: the template applied to what is [shown](Self::shown).
    ///
    /// # Errors
    /// What the template refuses.
    pub fn prompt(&self, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let messages: Vec<_> = self.shown().map(|(role, text)| Message::new(role.name(), text)).collect();
        let segments = template.render(tokenizer, &messages, true)?;
        let ids = self.encode(&segments, tokenizer);
        if ids.is_empty() {
            return Err(Error::bad_file("the chat template makes nothing of this conversation"));
        }
        Ok(ids)
    }

    /// Tokens of a rendered prompt, with those that the model produced for what it said itself.
    ///
    /// They stand where they were produced, directly behind the text that ended the prompt then. Templates that trim
    /// answers, or put a space before them, would else change what the cache already holds.
    fn encode(&self, segments: &[Segment], tokenizer: &Tokenizer) -> Vec<u32> {
        let text: String = segments.iter().map(|segment| segment.text.as_str()).collect();
        let (words, end_space) = text.split_at(text.trim_end().len());
        let end_word = words.split_whitespace().next_back().unwrap_or_default();

        let mut answers = self.kept().filter(|turn| turn.role == Role::Assistant);
        let mut pieces: Vec<Piece> = Vec::with_capacity(segments.len());
        // White space at the end of an answer, which is among its tokens.
        let mut said_space = "";
        for segment in segments {
            let text = segment.text.strip_prefix(std::mem::take(&mut said_space)).unwrap_or(&segment.text);
            let mut later = answers.clone();
            let turn = match segment.origin {
                // Templates may leave out old turns, but never change their order.
                Origin::Answer => later.find(|turn| turn.text.trim() == text),
                _ => None,
            };
            let Some((turn, ids)) = turn.and_then(|turn| Some((turn, turn.ids.as_deref()?))) else {
                pieces.push(Piece::Text(text, segment.origin));
                continue;
            };
            answers = later;
            if let Some(Piece::Text(before, _)) = pieces.last_mut()
                && before.trim_end().ends_with(end_word)
            {
                *before = before.trim_end();
                pieces.push(Piece::Text(end_space, Origin::Template));
            }
            pieces.push(Piece::Ids(ids));
            // Of one of white space alone, that stands in front.
            said_space = if text.is_empty() { "" } else { &turn.text[turn.text.trim_end().len()..] };
        }
        tokenizer.encode_prompt(&pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::Arc;

    use lapwing_models::chat_template::CHATML;

    use super::*;
    use crate::engine::{Engine, EngineOptions};
    use crate::sampler::{Chain, Settings};
    use crate::session::{Cancel, Limits, Session, SessionOptions};
    use crate::synthetic;

    /// Templates of four families: what stands between a prompt and its answer, and behind the answer.
    const TEMPLATES: [(&str, &str); 5] = [
        ("chatml", CHATML),
        (
            "llama 2",
            "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content.strip() }} [/INST]\
             {% else %}{{ ' ' + m.content.strip() + ' </s>' }}{% endif %}{% endfor %}",
        ),
        (
            "llama 3",
            "{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}\
             {% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}",
        ),
        (
            "gemma",
            "{{ bos_token }}{% for m in messages %}<start>{{ m.role }}\n{{ m.content | trim }}<end>\n{% endfor %}\
             {% if add_generation_prompt %}<start>assistant\n{% endif %}",
        ),
        (
            "no markup",
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}\
             {% if add_generation_prompt %}assistant:{% endif %}",
        ),
    ];

    /// Where a template trims, nothing is shown of an answer of white space alone; its tokens are there all the same.
    #[test]
    fn answers_of_white_space_keep_their_tokens() {
        let model = synthetic::model("tiny-llama3:q8_0", 1, 1).unwrap();
        let tokenizer = model.tokenizer();
        for (name, source) in TEMPLATES {
            let template = ChatTemplate::new(source, tokenizer).unwrap();
            let mut conversation = Conversation::default();
            let mut before = Vec::new();
            for (text, ids) in
                [("one", vec![40, 41]), (" \n", vec![7, 8, 9]), ("", vec![5]), ("two", vec![42])]
            {
                conversation.say("go on");
                let prompt = conversation.prompt(&template, tokenizer).unwrap();
                assert!(prompt.starts_with(&before), "{name}, before {text:?}: {before:?} in {prompt:?}");
                before = [prompt, ids.clone()].concat();
                conversation.answer(text, Some(ids));
            }
            conversation.say("and now?");
            let prompt = conversation.prompt(&template, tokenizer).unwrap();
            assert!(prompt.starts_with(&before), "{name}: {before:?} in {prompt:?}");
        }
        // One that looks whether anything was said is not misled, and the other answers keep theirs.
        let source = "{% for m in messages %}{{ m.role }}: {% if m.content | trim %}{{ m.content }}\
                      {% else %}(nothing){% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
        let template = ChatTemplate::new(source, tokenizer).unwrap();
        let mut conversation = Conversation::default();
        conversation.say("go on");
        conversation.answer("one", Some(vec![40, 41]));
        conversation.say("go on");
        conversation.answer(" \n", Some(vec![7, 8, 9]));
        conversation.say("and now?");
        let prompt = conversation.prompt(&template, tokenizer).unwrap();
        let has = |ids: &[u32]| prompt.windows(ids.len()).any(|window| window == ids);
        assert!(has(&[40, 41]) && !has(&[7, 8, 9]) && has(&tokenizer.encode("nothing", false)), "{prompt:?}");
    }

    /// A random model says random tokens, which no tokeniser would make of their text.
    #[test]
    fn earlier_answers_stay_in_the_cache_as_they_were_produced() {
        let mut retokenised = 0;
        for shape in ["tiny-llama:q8_0", "tiny-llama3:q8_0"] {
            let model = synthetic::model(shape, 1, 1).unwrap();
            let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
            let engine = Arc::new(Engine::new(model, &options).unwrap());
            let tokenizer = engine.model().tokenizer();
            for (name, source) in TEMPLATES {
                let template = ChatTemplate::new(source, tokenizer).unwrap();
                let mut session = Session::new(engine.clone(), &SessionOptions::default()).unwrap();
                let mut settings = Settings::default();
                settings.set("seed", "8").unwrap();
                // Random models repeat themselves.
                settings.set("temp", "1.5").unwrap();
                let mut chain = Chain::new(&settings, tokenizer);
                let limits = Limits { predict: Some(12), ignore_eos: true, ..Limits::default() };
                let mut conversation = Conversation::default();
                let mut before = Vec::new();
                for turn in 0..4 {
                    conversation.say(format!(" what is {turn}? "));
                    let prompt = conversation.prompt(&template, tokenizer).unwrap();
                    assert!(prompt.starts_with(&before), "{shape}, {name}, turn {turn}");
                    session.eval(&prompt, &Cancel::default(), &mut |_, _| {}).unwrap();
                    // The last token of an answer is only evaluated when another one follows it.
                    assert_eq!(session.stats().n_cached, before.len().saturating_sub(1), "{shape}, {name}");
                    let answer = session
                        .generate(&mut chain, &limits, &Cancel::default(), &mut |_| ControlFlow::Continue(()))
                        .unwrap();
                    retokenised += usize::from(tokenizer.encode(&answer.text, false) != answer.ids);
                    before = [prompt, answer.ids.clone()].concat();
                    conversation.answer(answer.text, Some(answer.ids));
                }
            }
        }
        assert!(retokenised > 35, "only {retokenised} of 40 answers differ when tokenised again");
    }
}
