//! Tells what a model thinks from what it answers: reasoning models write their thoughts between tags first.
use lapwing_models::tokenizer::{StreamDecoder, Tokenizer};

use crate::text::StopFinder;

/// Tags around thoughts, as models in use write them.
const TAGS: &[(&str, &str)] = &[
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("[THINK]", "[/THINK]"),
];

/// What a piece of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A thought, for those who want to watch.
    Thought,
    /// The answer itself.
    Answer,
}

/// Splits the text of one answer as it streams. The tags, and white space around what is between and behind them,
/// belong to neither part.
#[derive(Debug)]
pub struct Thinking {
    state: State,
    /// Whether white space at the start of the present part is still to be dropped.
    trims: bool,
}

#[derive(Debug)]
enum State {
    /// The beginning, which may become an opening tag.
    Start(String),
    /// Behind an opening tag, looking for the closing one.
    Thought(StopFinder, &'static str),
    Answer,
}

impl Thinking {
    /// For the answer to a prompt of these tokens: many templates open the thoughts themselves.
    pub fn after(prompt: &[u32], tokenizer: &Tokenizer) -> Self {
        // A tag has a few tokens at most.
        let tail = &prompt[prompt.len().saturating_sub(16)..];
        let mut decoder = StreamDecoder::new(tokenizer).with_special();
        let text: String = tail.iter().map(|&id| decoder.push(id)).collect();
        let opened = TAGS.iter().find(|(open, _)| text.trim_end().ends_with(open));
        let state = opened.map_or_else(|| State::Start(String::new()), |(_, close)| thought(close));
        Self { state, trims: true }
    }

    /// Takes the next piece of the answer; returns what is certain of it.
    pub fn push(&mut self, piece: &str) -> Vec<(Part, String)> {
        let mut parts = Vec::new();
        self.split(piece.to_owned(), &mut parts);
        parts
    }

    /// What was held back, at the end of the answer.
    pub fn finish(&mut self) -> Vec<(Part, String)> {
        let mut parts = Vec::new();
        match &mut self.state {
            State::Start(held) => {
                let held = std::mem::take(held);
                self.part(Part::Answer, held, &mut parts);
            }
            State::Thought(finder, _) => {
                let held = finder.finish();
                self.part(Part::Thought, held, &mut parts);
            }
            State::Answer => {}
        }
        parts
    }

    /// The tag that is missing where the answer ended amid the thoughts: with it, a template can drop them.
    pub fn missing(&self) -> Option<&'static str> {
        match &self.state {
            State::Thought(_, close) => Some(close),
            _ => None,
        }
    }

    fn split(&mut self, text: String, parts: &mut Vec<(Part, String)>) {
        match &mut self.state {
            State::Start(held) => {
                held.push_str(&text);
                let begun = held.trim_start();
                if let Some((open, close)) = TAGS.iter().find(|(open, _)| begun.starts_with(open)) {
                    let rest = begun[open.len()..].to_owned();
                    self.state = thought(close);
                    self.split(rest, parts);
                } else if !TAGS.iter().any(|(open, _)| open.starts_with(begun)) {
                    let held = std::mem::take(held);
                    // An answer without thoughts is left as it is.
                    (self.state, self.trims) = (State::Answer, false);
                    self.split(held, parts);
                }
            }
            State::Thought(finder, _) => {
                let (thought, closed) = finder.push(&text);
                let rest = closed.map(|_| finder.finish());
                self.part(Part::Thought, thought, parts);
                if let Some(rest) = rest {
                    (self.state, self.trims) = (State::Answer, true);
                    self.split(rest, parts);
                }
            }
            State::Answer => self.part(Part::Answer, text, parts),
        }
    }

    fn part(&mut self, part: Part, text: String, parts: &mut Vec<(Part, String)>) {
        let text = if self.trims { text.trim_start().to_owned() } else { text };
        if !text.is_empty() {
            self.trims = false;
            parts.push((part, text));
        }
    }
}

fn thought(close: &'static str) -> State {
    State::Thought(StopFinder::new([close.to_owned()]), close)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both parts of an answer that comes in pieces of `size` characters, and what is missing at its end.
    fn split(state: State, text: &str, size: usize) -> (String, String, Option<&'static str>) {
        let mut thinking = Thinking { state, trims: true };
        let chars: Vec<char> = text.chars().collect();
        let mut parts: Vec<_> =
            chars.chunks(size).flat_map(|piece| thinking.push(&piece.iter().collect::<String>())).collect();
        parts.extend(thinking.finish());
        let of = |wanted| {
            let texts = parts.iter().filter(|(part, _)| *part == wanted);
            texts.map(|(_, text)| text.as_str()).collect::<String>()
        };
        (of(Part::Thought), of(Part::Answer), thinking.missing())
    }

    #[test]
    fn thoughts_are_told_from_the_answer_however_it_comes() {
        for size in 1..40 {
            let start = || State::Start(String::new());
            let check =
                |state, text, expected| assert_eq!(split(state, text, size), expected, "{size}: {text}");
            check(
                start(),
                "<think>\nOne and one\nis < two.\n</think>\n\n2 </think> <think>",
                ("One and one\nis < two.\n".to_owned(), "2 </think> <think>".to_owned(), None),
            );
            check(
                start(),
                "\n <seed:think>a</think>b</seed:think>c",
                ("a</think>b".into(), "c".into(), None),
            );
            check(
                start(),
                "<think>\n\n</think>\n\nNo thoughts.",
                (String::new(), "No thoughts.".into(), None),
            );
            check(
                start(),
                "<think>never ends </thi",
                ("never ends </thi".into(), String::new(), Some("</think>")),
            );
            // No opening tag at the start: all is the answer, as it is.
            check(
                start(),
                "  Use <think> tags.</think>",
                (String::new(), "  Use <think> tags.</think>".into(), None),
            );
            check(start(), "<thin", (String::new(), "<thin".into(), None));
            check(start(), "", (String::new(), String::new(), None));
            // The template has opened the thoughts.
            check(thought("</think>"), "Well.</think>\nYes.", ("Well.".into(), "Yes.".into(), None));
        }
    }

    #[test]
    fn a_prompt_may_end_amid_thoughts() {
        let model = crate::synthetic::model("tiny-llama3:q8_0", 1, 1).unwrap();
        let tokenizer = model.tokenizer();
        let after = |text: &str| Thinking::after(&tokenizer.encode(text, true), tokenizer).missing();
        assert_eq!(after("<|im_start|>assistant\n<think>\n"), Some("</think>"));
        assert_eq!(after("<|im_start|>assistant\n<think>\n\n</think>\n\n"), None);
        assert_eq!(after("<|im_start|>assistant\n"), None);
        assert_eq!(after(""), None);
    }

    #[test]
    fn templates_drop_thoughts_from_later_prompts() {
        use crate::conversation::Conversation;
        let model = crate::synthetic::model("tiny-llama3:q8_0", 1, 1).unwrap();
        let tokenizer = model.tokenizer();
        let prompt = |source: &str, answer: &str| {
            let template = lapwing_models::chat_template::ChatTemplate::new(source, tokenizer).unwrap();
            let mut conversation = Conversation::default();
            conversation.say("Wet?");
            conversation.answer(answer, Some(tokenizer.encode(answer, false)));
            conversation.say("Sure?");
            let mut decoder = StreamDecoder::new(tokenizer).with_special();
            let ids = conversation.prompt(&template, tokenizer).unwrap();
            ids.into_iter().map(|id| decoder.push(id)).collect::<String>()
        };
        let all = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
        let last = "{% for m in messages %}<|im_start|>{{ m.content.split('</think>')[-1].lstrip('\n') }}<|im_end|>{% endfor %}";
        let bos = "<|begin_of_text|>";
        let expected = "<|im_start|>Wet?<|im_end|><|im_start|>Yes.<|im_end|><|im_start|>Sure?<|im_end|>";
        assert_eq!(prompt(last, "<think>Hm.</think>\n\nYes.").trim_start_matches(bos), expected);
        // Thoughts that were cut off, with the tag that was missing.
        let cut = "<|im_start|>Wet?<|im_end|><|im_start|><|im_end|><|im_start|>Sure?<|im_end|>";
        assert_eq!(prompt(last, "<think>Hm, let me</think>").trim_start_matches(bos), cut);
        assert!(prompt(all, "<think>Hm.</think>Yes.").contains("<think>Hm.</think>Yes."));
    }
}
