//! Chat templates: any source, and sources put together from what templates are made of.
#![no_main]
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use lapwing_models::chat_template::{ChatTemplate, Message};
use lapwing_models::gguf::Strings;
use lapwing_models::tokenizer::{Parts, Segment, Tokenizer};

#[derive(Arbitrary, Debug)]
struct Chat {
    source: Vec<Part>,
    messages: Vec<(u8, String)>,
}

#[derive(Arbitrary, Debug)]
enum Part {
    Known(u8),
    Number(i16),
    Text(String),
}

const KNOWN: [&str; 32] = [
    "{% for m in messages %}",
    "{% endfor %}",
    "{% if loop.first %}",
    "{% if m.role == 'user' %}",
    "{% else %}",
    "{% endif %}",
    "{{ m.content }}",
    "{{ m['role'] }}",
    "{{ bos_token }}",
    "{% set ns = namespace(x='a') %}",
    "{% set ns.x = ns.x ~ ns.x %}",
    "{{ ns.x }}",
    "{% macro f(x) %}",
    "{% endmacro %}",
    "{{ f(f) }}",
    "{% for i in range(",
    ") %}",
    "{{ 'x' * ",
    " }}",
    "{{ m.content.split('",
    "')[-1] }}",
    "{{ m.content | trim | ",
    "replace('a', 'bb') }}",
    "{{ messages | tojson }}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%Y') }}",
    "{% include 'chat_template' %}",
    "{%- generation %}",
    "{% endgeneration -%}",
    "<|im_end|>",
    "{{ [m] * ",
    "{% break %}",
];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut texts = vec!["<unk>".to_owned(), "<s>".to_owned(), "</s>".to_owned(), "<|im_end|>".to_owned()];
    let mut types = vec![2, 3, 3, 3];
    texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    types.extend([6; 256]);
    let tokens: Strings = texts.iter().collect();
    let mut parts = Parts::new("llama", &tokens);
    parts.token_type = Some(&types);
    Tokenizer::from_parts(&parts).unwrap()
});

libfuzzer_sys::fuzz_target!(|chat: Chat| {
    let part = |part: &Part| match part {
        Part::Known(i) => KNOWN[usize::from(*i) % KNOWN.len()].to_owned(),
        Part::Number(n) => n.to_string(),
        Part::Text(text) => text.clone(),
    };
    let source: String = chat.source.iter().map(part).collect();
    let role = |i: u8| ["system", "user", "assistant"][usize::from(i) % 3];
    let messages: Vec<_> =
        chat.messages.iter().map(|(i, text)| Message::new(role(*i), text.clone())).collect();
    let start = Instant::now();
    if let Ok(template) = ChatTemplate::new(&source, &TOKENIZER)
        && let Ok(segments) = template.render(&TOKENIZER, &messages, true)
    {
        let pieces: Vec<_> = segments.iter().map(Segment::piece).collect();
        let ids = TOKENIZER.encode_pieces(&pieces);
        // What people say never becomes a control token.
        let most = source.matches("<|im_end|>").count();
        if most == 0 && !source.contains("bos_token") {
            assert!(!ids.contains(&3), "{segments:?}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{source}");
});
