use std::ops::ControlFlow;

use super::closer::Closer;
use super::*;
use crate::sampler::{Chain, Settings};
use crate::session::{Answer, Cancel, Limits, Session, SessionOptions};

/// An ending of what `schema` allows after `text`.
fn ending(schema: &str, text: &str) -> Option<String> {
    let mut schema: Value = serde_json::from_str(schema).unwrap();
    let options = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
    schema["x-guidance"] = options;
    let parser = parser(&TopLevelGrammar::from_json_schema(schema)).unwrap();
    let mut closer = Closer::new(Matcher::new(Ok(parser)), true).unwrap();
    for byte in text.bytes() {
        assert!(closer.push(&[byte], |_| true).unwrap(), "{text}");
    }
    Some(String::from_utf8(closer.plan()?.to_vec()).unwrap())
}

#[test]
fn every_place_has_a_short_ending() {
    for (schema, text, expected) in [
        (r#"{"type":"string"}"#, "", "\"\""),
        (r#"{"type":"string"}"#, "\"abc", "\""),
        (r#"{"type":"string"}"#, "\"a\\", "n\""),
        (r#"{"type":"number","exclusiveMinimum":0}"#, "", "1"),
        (r#"{"type":"string","pattern":"^(a|b)*c$"}"#, "\"ab", "c\""),
        (r#"{"type":"string","pattern":"^(/[a-z]+)+\\.txt$"}"#, "\"/usr/", "a.txt\""),
        (r#"{"type":"string","pattern":"[0-9]"}"#, "\"word", "0\""),
    ] {
        assert_eq!(ending(schema, text).as_deref(), Some(expected), "{schema} {text}");
    }
}

/// A model of random weights, which says anything at all.
fn engine(shape: &str) -> Arc<Engine> {
    let model = crate::synthetic::model(shape, 5, 1).unwrap();
    Arc::new(
        Engine::new(model, &crate::engine::EngineOptions { threads: Some(1), ..Default::default() }).unwrap(),
    )
}

/// The schemas with which tests/oracle/schemas.py holds answers against Python's jsonschema.
fn schemas() -> Vec<(String, Value)> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/schemas.json");
    let data: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    data["schemas"].as_object().unwrap().iter().map(|(name, schema)| (name.clone(), schema.clone())).collect()
}

fn generate(engine: &Arc<Engine>, grammar: &Grammar, predict: usize, seed: u64) -> Answer {
    let mut settings = Settings::default();
    // All tokens are nearly equally likely: texts that no model would write.
    for (name, value) in [("temp", "3"), ("top-k", "0"), ("top-p", "1"), ("min-p", "0")] {
        settings.set(name, value).unwrap();
    }
    settings.set("seed", &seed.to_string()).unwrap();
    let mut chain = Chain::new(&settings, engine.model().tokenizer());
    let options = SessionOptions { context: Some(256), ..SessionOptions::default() };
    let mut session = Session::new(engine.clone(), &options).unwrap();
    session.eval(&[3, 4, 5], &Cancel::default(), &mut |_, _| {}).unwrap();
    let limits = Limits { predict: Some(predict), grammar: Some(grammar.clone()), ..Limits::default() };
    session.generate(&mut chain, &limits, &Cancel::default(), &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Whatever a model says and however little room there is: the answer is whole, and no longer than allowed.
#[test]
fn answers_are_whole_in_any_room() {
    for shape in ["tiny-llama:q8_0", "tiny-llama3:q8_0"] {
        let engine = engine(shape);
        for (name, schema) in schemas() {
            let grammar = Grammar::json_schema(&engine, &schema.to_string()).unwrap();
            let shortest = grammar.start(1000).unwrap().ending(0).unwrap().len();
            for (seed, room) in [0, 1, 7, 40, 130].into_iter().enumerate() {
                let predict = shortest + room;
                let answer = generate(&engine, &grammar, predict, seed as u64);
                assert_eq!(answer.stop.name(), "eos", "{name} in {predict}: {}", answer.text);
                assert!(answer.ids.len() <= predict, "{name} in {predict}: {}", answer.ids.len());
                let value: Value = match serde_json::from_str(&answer.text) {
                    Ok(value) => value,
                    // JSON has no greatest number.
                    Err(error) if error.to_string().contains("out of range") => continue,
                    Err(error) => panic!("{name} in {predict}: {error}: {}", answer.text),
                };
                let required = schema["required"].as_array().into_iter().flatten();
                required.for_each(|field| {
                    assert!(value.get(field.as_str().unwrap()).is_some(), "{name}: {value}")
                });
            }
            let error = grammar.start(shortest - 1).err().unwrap();
            assert_eq!(error.class, Class::Usage);
        }
    }
}

#[test]
fn forced_tokens_and_endings_change_nothing_of_the_logprobs() {
    let engine = engine("tiny-llama3:q8_0");
    let grammar = Grammar::json_schema(&engine, &schemas()[0].1.to_string()).unwrap();
    let mut session = Session::new(engine.clone(), &SessionOptions::default()).unwrap();
    let mut answer = |logprobs| {
        let mut settings = Settings::default();
        settings.set("temp", "0").unwrap();
        let mut chain = Chain::new(&settings, engine.model().tokenizer());
        session.eval(&[3, 4, 5], &Cancel::default(), &mut |_, _| {}).unwrap();
        let limits =
            Limits { predict: Some(90), grammar: Some(grammar.clone()), logprobs, ..Limits::default() };
        session.generate(&mut chain, &limits, &Cancel::default(), &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let (quick, slow) = (answer(0), answer(1));
    assert_eq!(quick.ids, slow.ids);
    assert_eq!((quick.logprobs.len(), slow.logprobs.len()), (0, slow.ids.len()));
    assert!(slow.logprobs.iter().zip(&slow.ids).all(|(logprob, &id)| logprob.chosen.id == id));
}

#[test]
fn what_cannot_be_followed_is_refused_by_name() {
    let engine = engine("tiny-llama3:q8_0");
    for (schema, message) in [
        ("{", "is not JSON"),
        ("7", "is no schema"),
        ("false", "is no schema"),
        (r#"{"type":"nonsense"}"#, "cannot be used"),
        (r#"{"type":"array","uniqueItems":true}"#, "cannot be used"),
        (r##"{"$ref":"#/nowhere"}"##, "cannot be used"),
        (r#"{"$ref":"https://example.org/schema.json"}"#, "cannot be used"),
        (r#"{"type":"string","pattern":"(("}"#, "cannot be used"),
        (r#"{"type":"integer","minimum":5,"maximum":4}"#, "cannot be used"),
        // A node that needs a node that needs a node …
        (r##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##, ""),
    ] {
        let error = Grammar::json_schema(&engine, schema).err().unwrap_or_else(|| panic!("{schema} passes"));
        assert_eq!(error.class, Class::BadFile);
        assert!(error.message.contains(message) && !error.to_string().contains('\n'), "{schema}: {error}");
    }
    for grammar in
        ["root ::= (", "root ::= nowhere", "start: )", "root ::= \"a", "root ::= [z-a]", "root ::= [", ""]
    {
        let error = Grammar::text(&engine, grammar).err().unwrap_or_else(|| panic!("{grammar} passes"));
        assert_eq!(error.class, Class::BadFile);
        assert!(!error.to_string().contains('\n'), "{grammar}: {error}");
    }
}

/// Schemas and grammars come from strangers: whatever they ask for, the refusal or the answer comes soon.
#[test]
fn bombs_are_refused_or_followed_soon() {
    let engine = engine("tiny-llama3:q8_0");
    let chain: Vec<String> =
        (0..30_000).map(|i| format!(r##""d{i}":{{"$ref":"#/$defs/d{}"}}"##, i + 1)).collect();
    let nested = |open: &str, close: &str, n: usize| format!("{}{}{}", open.repeat(n), "{}", close.repeat(n));
    for (name, schema) in [
        ("long list", r#"{"type":"array","items":{"type":"string"},"minItems":1000000000}"#.to_owned()),
        ("lists of lists", nested(r#"{"type":"array","minItems":1000,"items":"#, "}", 10)),
        ("long string", r#"{"type":"string","minLength":1000000000}"#.to_owned()),
        ("pattern", r#"{"type":"string","pattern":"^((a{1,1000}){1,1000}){1,1000}$"}"#.to_owned()),
        (
            "deep pattern",
            format!(r#"{{"type":"string","pattern":"{}a{}"}}"#, "(".repeat(50_000), ")".repeat(50_000)),
        ),
        (
            "huge enum",
            format!(r#"{{"enum":[{}]}}"#, (0..130_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",")),
        ),
        (
            "chain",
            format!(
                r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d30000":{{"type":"null"}}}}}}"##,
                chain.join(",")
            ),
        ),
        (
            "circle",
            r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##
                .to_owned(),
        ),
        ("deep", nested(r#"{"items":"#, "}", 120)),
        ("deeper", nested(r#"{"items":"#, "}", 100_000)),
        ("all of all", nested(r#"{"allOf":[{"type":"object"},"#, "]}", 60)),
        ("any of any", nested(r#"{"anyOf":[{"type":"object"},"#, "]}", 60)),
        ("too long", " ".repeat(LONGEST + 1)),
    ] {
        check(name, || Grammar::json_schema(&engine, &schema));
    }
    for (name, grammar) in [
        ("left recursion", "root ::= root \"a\" | \"a\"".to_owned()),
        ("empty loop", "root ::= (\"\")* x\nx ::= x | \"\"".to_owned()),
        ("deep", format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000))),
        ("deep lark", format!("start: {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000))),
        ("repeats", "root ::= ((((\"a\"{1,9999}){1,9999}){1,9999}){1,9999})".to_owned()),
        ("wide", format!("root ::= {}\"a\"", "\"b\" | ".repeat(100_000))),
        (
            "many rules",
            (0..40_000).map(|i| format!("r{i} ::= r{} \"a\"\n", i + 1)).collect::<String>()
                + "root ::= r0\nr40000 ::= \"b\"\n",
        ),
    ] {
        check(name, || Grammar::text(&engine, &grammar));
    }
    fn check(name: &str, make: impl FnOnce() -> Result<Grammar>) {
        let start = std::time::Instant::now();
        let made = make();
        let said = made.as_ref().err().map(ToString::to_string).unwrap_or_default();
        assert!(said.len() < 600, "{name}: {said}");
        println!("{name}: {:?} {said}", start.elapsed());
        // Some seconds when nothing else runs here.
        assert!(start.elapsed().as_secs() < 60, "{name}");
    }
}

#[test]
fn gbnf_means_what_it_means_to_llama_cpp() {
    let engine = engine("tiny-llama3:q8_0");
    let takes = |grammar: &str, text: &str| {
        let Grammar(compiled) = Grammar::text(&engine, grammar).unwrap();
        let mut matcher = Matcher::new(Ok(compiled.parser.clone()));
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        matcher.try_consume_tokens(&ids).unwrap() == ids.len() && matcher.is_accepting().unwrap()
    };
    let arithmetic = "# sums\nroot  ::= (expr \"=\" ws term \"\\n\")+\nexpr  ::= term ([-+*/] term)*\n\
        term  ::= ident | num | \"(\" ws expr \")\" ws\nident ::= [a-z] [a-z0-9_]* ws # a name\nnum   ::= [0-9]+ ws\nws    ::= [ \\t\\n]*\n";
    let lines = "root ::= line{2,3}\n# alternatives on lines of their own\nline ::= \"- \" Word\n  | \"* \" word\nWord ::= [^\\n\\x41-\\x5a]+ \"\\n\"\nword ::= \"\\u4e2d\"? \"\\\"\" .\n";
    for (grammar, text, right) in [
        (arithmetic, "a+1*(b -2)= 7\n", true),
        (arithmetic, "a+1*(b -2)= 7\nc=1\n", true),
        (arithmetic, "a+=7\n", false),
        (arithmetic, "A=7\n", false),
        ("root ::= (\"a\" | \"ab\") \"b\"", "ab", true),
        ("root ::= (\"a\" | \"ab\") \"b\"", "abb", true),
        (lines, "- one\n- 二\n", true),
        (lines, "- one\n", false),
        (lines, "- One\n- two\n", false),
        (lines, "* 中\"x* \"\n", true),
        (lines, "* 中\"* \"x", false),
        ("root ::= \"a\"{3} \"b\"{0,1} \"c\"{1,} | ( \"x\"\n | \"\" ) \"y\"", "aaabcc", true),
        ("root ::= \"a\"{3} \"b\"{0,1} \"c\"{1,} | ( \"x\"\n | \"\" ) \"y\"", "y", true),
        ("root ::= \"a\"{3} \"b\"{0,1} \"c\"{1,} | ( \"x\"\n | \"\" ) \"y\"", "aac", false),
        ("root ::= [\\]\\-x^-]+", "]-x^", true),
        ("root ::= [\\]\\-x^-]+", "[", false),
        ("start: \"a\"+ /[0-9]{2}/", "aa12", true),
        ("start: \"a\"+ /[0-9]{2}/", "aa1", false),
    ] {
        assert_eq!(takes(grammar, text), right, "{grammar:?} on {text:?}");
    }
}

/// A mask allows a token if and only if its bytes can be added one by one, wherever the answer stands.
#[test]
fn masks_are_what_trying_every_token_gives() {
    let mut rng = crate::sampler::Rng::new(3);
    let (mut plain, mut forced) = (0, 0);
    for shape in ["tiny-llama:q8_0", "tiny-llama3:q8_0"] {
        let engine = engine(shape);
        let tokenizer = engine.model().tokenizer();
        let schemas =
            schemas().into_iter().map(|(_, schema)| Grammar::json_schema(&engine, &schema.to_string()));
        let grammar = "root ::= \"中文\" [^a-z]{3,9} (\"- \" [ a-zé]+ \"\\n\")+ \"end\"";
        for grammar in schemas.chain([Grammar::text(&engine, grammar)]) {
            let mut constraint = grammar.unwrap().start(1000).unwrap();
            for step in 0..25 {
                if constraint.is_complete() {
                    break;
                }
                // Half of the time the bytes that must come are known before.
                forced +=
                    usize::from(step % 2 == 0 && !constraint.closer.matcher().compute_ff_bytes().is_empty());
                let matcher = constraint.closer.matcher().clone();
                let ends = matcher.clone().is_accepting().unwrap();
                let vocabulary = constraint.asked.vocabulary.clone();
                let words = constraint.mask().unwrap();
                let allowed: Vec<u32> =
                    (0..tokenizer.n_vocab() as u32).filter(|&id| words.allows(id)).collect();
                let tried = |&id: &u32| {
                    let bytes: Vec<u32> = vocabulary.bytes(id).iter().map(|&byte| byte.into()).collect();
                    let fits = matcher.clone().try_consume_tokens(&bytes).unwrap() == bytes.len();
                    if bytes.is_empty() { ends && tokenizer.is_eog(id) } else { fits }
                };
                let slow: Vec<u32> = (0..tokenizer.n_vocab() as u32).filter(tried).collect();
                assert_eq!(allowed, slow, "{shape}, step {step}");
                let text: Vec<u32> =
                    allowed.into_iter().filter(|&id| !vocabulary.bytes(id).is_empty()).collect();
                plain += usize::from(text.len() > tokenizer.n_vocab() / 2);
                let Some(&id) = text.get((rng.next_f64() * text.len() as f64) as usize) else { break };
                assert!(constraint.accept(id, 1000).unwrap());
            }
        }
    }
    assert!(plain > 20 && forced > 20, "{plain} steps in free text, {forced} with forced bytes");
}
