//! What a person may set while chatting: the samplers' parameters, and [`SETTINGS`] of the chat itself.
use lapwing::sampler::{Chain, Settings, params};
use lapwing::text::{nearest, safe};
use lapwing_models::{Class, Error, Result};

use super::Chat;
use super::slash::{Complete, Next, Slash};

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
        set: |chat, text| {
            chat.limits.ignore_eos = flag("ignore-eos", text)?;
            Ok(())
        },
    },
    Setting {
        name: "lookup",
        help: "whether what the text has said before is guessed ahead: on or off",
        get: |chat| on_off(chat.limits.lookup),
        set: |chat, text| {
            chat.limits.lookup = flag("lookup", text)?;
            Ok(())
        },
    },
    Setting {
        name: "stop",
        help: "texts that end an answer, each in quotes, or none",
        get: |chat| match chat.limits.stops.as_slice() {
            [] => NONE.to_owned(),
            stops => stops.iter().map(|stop| format!("{stop:?}")).collect::<Vec<_>>().join(" "),
        },
        set: |chat, text| {
            chat.limits.stops = match text {
                NONE => Vec::new(),
                text => quoted(text)?,
            };
            Ok(())
        },
    },
];

/// What is not limited, or empty.
const NONE: &str = "none";

/// `on` or `off`.
pub fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

/// Reads `on` or `off`.
///
/// # Errors
/// A usage error on anything else.
pub fn flag(name: &str, text: &str) -> Result<bool> {
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

/// Reads JSON strings that stand one behind the other; a text that begins with no quote is one.
fn quoted(text: &str) -> Result<Vec<String>> {
    if !text.starts_with('"') {
        return Ok(vec![text.to_owned()]);
    }
    let texts = serde_json::Deserializer::from_str(text).into_iter().collect::<std::result::Result<_, _>>();
    texts.map_err(|_| {
        Error::new(Class::Usage, "bad value for stop").expected_got(r#"texts such as "END" "\n\n""#, text)
    })
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
    ours.chain(chat.settings.iter().map(|(param, value)| (param.name, value.to_string()))).collect()
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
    chat.settings.set(name, value)?;
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

fn set(chat: &mut Chat, typed: &str) -> anyhow::Result<Next> {
    let (name, value) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
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
                    let value = chat.settings.get(param.name).map(ToString::to_string).unwrap_or_default();
                    (param.name, value, format!("{}: {}", param.help, param.range()))
                }
            };
            format!("{name} is {}\n{help}", safe(&value))
        }
        (name, value) => {
            set_one(chat, name, value)?;
            format!("{name} is {} now.", safe(value))
        }
    };
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}
