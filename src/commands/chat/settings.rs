//! What a person may set while chatting: the samplers' parameters, and [`SETTINGS`] of the chat itself.
use std::path::Path;

use lapwing::context::WhenFull;
use lapwing::cost::Memory;
use lapwing::sampler::{Chain, Settings, Value, params};
use lapwing::text::{nearest, safe};
use lapwing_models::{Class, Error, Result};

use super::slash::{Complete, Next, Slash};
use super::{Chat, count, schema};
use crate::commands::load;

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[Slash {
    name: "set",
    args: "[NAME VALUE]",
    help: "change how it answers; alone it lists what there is",
    complete: Complete::Words(names),
    run: set,
}];

/// Something to set that is no parameter of a sampler.
pub struct Setting {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// A few words on what it does and may be.
    pub help: &'static str,
    /// Its value as it would be typed.
    pub get: fn(&Chat) -> String,
    /// Sets it from what was typed.
    pub set: fn(&mut Chat, &str) -> Result<()>,
}

/// Every such thing, in the order in which they are shown.
pub static SETTINGS: &[Setting] = &[
    Setting {
        name: "predict",
        help: "tokens of an answer at most, or none",
        get: |chat| chat.limits.predict.map_or(NONE.to_owned(), |n| n.to_string()),
        set: |chat, text| {
            chat.limits.predict = match text {
                NONE | "-1" => None,
                text => Some(whole("predict", text)?),
            };
            Ok(())
        },
    },
    Setting {
        name: "ignore-eos",
        help: "whether answers go on when the model ends them: on or off",
        get: |chat| on_off(chat.limits.ignore_eos),
        set: |chat, text| flag("ignore-eos", text).map(|on| chat.limits.ignore_eos = on),
    },
    Setting {
        name: "lookup",
        help: "whether what the text has said before is guessed ahead: on or off",
        get: |chat| on_off(chat.limits.lookup),
        set: |chat, text| flag("lookup", text).map(|on| chat.limits.lookup = on),
    },
    Setting {
        name: "stop",
        help: "texts that end an answer, each in quotes, or none",
        get: |chat| quoted(&chat.limits.stops),
        set: |chat, text| texts(text).map(|texts| chat.limits.stops = texts),
    },
    Setting {
        name: "when-full",
        help: "when a message no longer fits the context: ask, drop, summarise or stop",
        get: |chat| chat.when_full.name().to_owned(),
        set: |chat, text| WhenFull::from_name(text).map(|policy| chat.when_full = policy),
    },
    Setting {
        name: "ctx-size",
        help: "tokens of the context",
        get: |chat| chat.session.context().to_string(),
        set: |chat, text| {
            let (context, used) = (whole("ctx-size", text)?, chat.used_tokens());
            if context < used {
                return Err(Error::new(Class::Usage, "the conversation is longer than that")
                    .expected_got(format!("at least {}", count(used, "token")), context)
                    .advice("/undo or /clear makes it shorter"));
            }
            chat.session.set_context(context)
        },
    },
    Setting {
        name: "kv-type",
        help: "type of the cache: f16, q8_0 or f32; with another one the conversation is read again",
        get: |chat| chat.session.cache().shape().ty.to_string(),
        set: |chat, text| chat.session.set_kv_type(load::kv_type(text)?),
    },
    Setting {
        name: "schema",
        help: "file with the JSON schema or the grammar that answers follow, or none",
        get: |chat| chat.form.as_ref().map_or(NONE.to_owned(), |file| file.to_string_lossy().into_owned()),
        set: |chat, text| schema::set(chat, Some(Path::new(text)).filter(|_| text != NONE)),
    },
    Setting {
        name: "autosave",
        help: "whether to save after each answer: on or off",
        get: |chat| on_off(chat.saving.automatic),
        set: |chat, text| flag("autosave", text).map(|on| chat.saving.automatic = on),
    },
    Setting {
        name: "save-cache",
        help: "whether what was computed is saved, too, to resume at once: on or off",
        get: |chat| on_off(chat.saving.with_cache),
        set: |chat, text| {
            let before = std::mem::replace(&mut chat.saving.with_cache, flag("save-cache", text)?);
            // Of what is saved already, the cache is missing.
            chat.saving.unsaved |= !before && chat.saving.with_cache && !chat.session.cache().is_empty();
            Ok(())
        },
    },
];

/// What is not limited, or empty.
const NONE: &str = "none";

/// `on` or `off`.
fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// Reads `on` or `off`.
///
/// # Errors
/// A usage error on anything else.
fn flag(name: &str, text: &str) -> Result<bool> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        other => {
            Err(Error::new(Class::Usage, format!("bad value for {name}")).expected_got("on or off", other))
        }
    }
}

/// Reads a number of something.
///
/// # Errors
/// A usage error on anything else.
pub fn whole(name: &str, text: &str) -> Result<usize> {
    text.parse().map_err(|_| {
        Error::new(Class::Usage, format!("bad value for {name}")).expected_got("a whole number", text)
    })
}

/// Texts as they would be typed: JSON strings one behind the other, or `none`.
fn quoted(texts: &[String]) -> String {
    if texts.is_empty() {
        return NONE.to_owned();
    }
    texts.iter().map(|text| serde_json::Value::from(text.as_str()).to_string()).collect::<Vec<_>>().join(" ")
}

/// Reads what [`quoted`] gives; a text that begins with no quote is one.
fn texts(typed: &str) -> Result<Vec<String>> {
    if typed == NONE {
        return Ok(Vec::new());
    }
    if !typed.starts_with('"') {
        return Ok(vec![typed.to_owned()]);
    }
    let texts = serde_json::Deserializer::from_str(typed).into_iter().collect::<std::result::Result<_, _>>();
    texts.map_err(|_| {
        Error::new(Class::Usage, "texts that cannot be read").expected_got(r#"such as "END" "\n\n""#, typed)
    })
}

/// A sampler's value as it would be typed.
pub fn typed(value: &Value) -> String {
    match value {
        Value::Texts(texts) => quoted(texts),
        other => other.to_string(),
    }
}

/// Names of all that can be set.
pub fn names(_: &Chat) -> Vec<String> {
    params()
        .map(|param| param.name)
        .chain(SETTINGS.iter().map(|setting| setting.name))
        .map(str::to_owned)
        .collect()
}

/// Name and value of all that can be set.
pub fn values(chat: &Chat) -> Vec<(&'static str, String)> {
    let ours = SETTINGS.iter().map(|setting| (setting.name, (setting.get)(chat)));
    ours.chain(chat.settings.iter().map(|(param, value)| (param.name, typed(value)))).collect()
}

/// Sets the one of this name.
///
/// # Errors
/// A usage error when there is none, or the value does not fit it.
pub fn set_one(chat: &mut Chat, name: &str, value: &str) -> Result<()> {
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) {
        return (setting.set)(chat, value);
    }
    check(chat, name)?;
    match chat.settings.get(Settings::param(name)?.name) {
        Some(Value::Texts(_)) => chat.settings.set_texts(name, texts(value)?)?,
        _ => chat.settings.set(name, value)?,
    }
    chat.chain = Chain::new(&chat.settings, chat.session.engine().model().tokenizer());
    Ok(())
}

/// Refuses a name that nothing has.
fn check(chat: &Chat, name: &str) -> Result<()> {
    let known = names(chat);
    if known.iter().any(|known| known == name) || Settings::param(name).is_ok() {
        return Ok(());
    }
    let near = nearest(name, known.iter().map(String::as_str));
    let near = near.map_or("/set lists what there is".to_owned(), |near| format!("did you mean {near}?"));
    Err(Error::new(Class::Usage, format!("no setting named {}", safe(name))).advice(near))
}

fn set(chat: &mut Chat, line: &str) -> anyhow::Result<Next> {
    let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let text = match (name, value.trim()) {
        ("", _) => {
            let values = values(chat);
            let width = values.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
            let line = |(name, value): &(&str, String)| format!("{name:width$}  {}", safe(value));
            let lines: Vec<_> = values.iter().map(line).collect();
            lines.join("\n") + "\n/set NAME says more about one, /set NAME VALUE changes it."
        }
        (name, "") => {
            check(chat, name)?;
            let (name, value, help) = match SETTINGS.iter().find(|setting| setting.name == name) {
                Some(setting) => (setting.name, (setting.get)(chat), setting.help.to_owned()),
                None => {
                    let param = Settings::param(name)?;
                    let value = chat.settings.get(param.name).map(typed).unwrap_or_default();
                    (param.name, value, format!("{}: {}", param.help, param.range()))
                }
            };
            format!("{name} is {}\n{help}", safe(&value))
        }
        (name, value) => {
            let needs = |chat: &Chat| Memory::of(chat.session.engine().model(), &chat.session);
            let before = needs(chat);
            set_one(chat, name, value)?;
            let text = format!("{name} is {} now.", safe(value));
            if needs(chat) == before { text } else { format!("{text}\nMemory: {}.", chat.memory()) }
        }
    };
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}
