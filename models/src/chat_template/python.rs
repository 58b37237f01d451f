//! What Python gives templates that minijinja does not: methods of strings and dicts, `tojson` as
//! `json.dumps` writes it, `strftime_now`, `raise_exception`. All of it is paid for in fuel.
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// JSON deeper than this is refused, so that writing it needs no deep stack.
const DEEPEST_JSON: usize = 100;

/// The clock that templates see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// Local time.
    #[default]
    Local,
    /// A fixed local time: year, month, day, hour, minute, second.
    At(i16, i8, i8, i8, i8, i8),
}

/// Sets `env` up as transformers sets up jinja2.
pub(super) fn install(env: &mut Environment<'static>, clock: Clock) {
    env.set_unknown_method_callback(method);
    // It would show namespaces as values.
    env.remove_global("debug");
    env.add_filter("tojson", tojson);
    // None can be looped over here, but Python would not say so.
    env.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
        )
    });
    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
    });
    env.add_function("strftime_now", move |format: &str| strftime(clock, format));
}

/// Marks errors that a template raised on purpose.
pub(super) const RAISED: &str = "the template says: ";

/// JSON as templates see it.
pub(super) fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::from(()),
        Json::Bool(yes) => Value::from(*yes),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value).collect(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, field)| (name.as_str(), value(field))))
        }
    }
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn strftime(clock: Clock, format: &str) -> Result<String, Error> {
    let now = match clock {
        Clock::Local => jiff::Zoned::now(),
        Clock::At(year, month, day, hour, minute, second) => {
            jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0)
                .and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC))
                .map_err(|error| bad(error.to_string()))?
        }
    };
    // Widths such as %99999999d would fill memory.
    if format.len() > 256 || format.as_bytes().windows(3).any(|run| run.iter().all(u8::is_ascii_digit)) {
        return Err(bad("a time format is too long"));
    }
    jiff::fmt::strtime::format(format, &now).map_err(|error| bad(format!("strftime_now: {error}")))
}

/// Python's methods, with what they read and write charged first: the methods themselves are free.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let size = |value: &Value| value.as_str().map_or(0, str::len);
    let mut bytes = size(value) + args.iter().map(size).sum::<usize>();
    match (value.as_str(), name) {
        (Some(text), "replace") => {
            if let [old, new, ..] = args {
                let (old, new) = (old.as_str().unwrap_or_default(), size(new));
                bytes = bytes.saturating_add(text.matches(old).count().saturating_mul(new));
            }
        }
        (Some(between), "join") => {
            if let Some(items) = args.first().filter(|items| items.kind() != ValueKind::String) {
                let items = items.len().unwrap_or(0);
                bytes = bytes.saturating_add(items.saturating_mul(between.len() + 64));
            }
        }
        // A width of nine digits would fill memory; nested fields could hide one.
        (Some(text), "format") => {
            let wide = text.as_bytes().windows(4).any(|run| run.iter().all(u8::is_ascii_digit));
            if wide || text.contains(":{") {
                return Err(bad("a format is too wide"));
            }
            bytes = bytes.saturating_add(text.matches('{').count().saturating_mul(1000));
        }
        // Each piece costs far more than its bytes.
        (Some(text), "split" | "splitlines") => {
            let pieces = match args.first().and_then(Value::as_str) {
                Some(between) if !between.is_empty() => text.matches(between).count(),
                _ => text.matches(char::is_whitespace).count(),
            };
            bytes = bytes.saturating_add(pieces.saturating_mul(64));
        }
        (None, _) => bytes = value.len().unwrap_or(0).saturating_mul(64),
        _ => {}
    }
    state.consume_fuel(bytes as u64 / 64)?;
    unknown_method_callback(state, value, name, args)
}

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)` with transformers' defaults.
fn tojson(state: &mut State, value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let unit = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) if text.len() <= 16 => text.to_owned(),
            (None, Some(n)) if n <= 16 => " ".repeat(n),
            _ => return Err(bad("tojson: indent must be 0 to 16 spaces")),
        }),
    };
    let (item, key) = match options.get::<Option<Value>>("separators")?.filter(|pair| !pair.is_none()) {
        None => (if unit.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => {
            let text = |at: usize| {
                Ok::<_, Error>(pair.get_item_by_index(at)?.as_str().unwrap_or_default().to_owned())
            };
            (text(0)?, text(1)?)
        }
    };
    if item.len() + key.len() > 32 {
        return Err(bad("tojson: separators are too long"));
    }
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let mut json = Json { out: String::new(), paid: 0, state, unit, item, key, ascii, sort };
    json.write(value, 0)?;
    Ok(Value::from(json.out))
}

/// Writes one value.
struct Json<'a, 'v, 'e> {
    out: String,
    /// Bytes of `out` that fuel has been consumed for.
    paid: usize,
    state: &'a State<'v, 'e>,
    unit: Option<String>,
    item: String,
    key: String,
    ascii: bool,
    sort: bool,
}

impl Json<'_, '_, '_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEEPEST_JSON {
            return Err(bad("tojson: a value is nested too deeply"));
        }
        self.pay()?;
        match value.kind() {
            ValueKind::None => self.out += "null",
            ValueKind::Bool => self.out += if value.is_true() { "true" } else { "false" },
            ValueKind::Number => self.out += &number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect::<Vec<_>>();
                self.list('[', ']', depth, items.len(), |json, i| json.write(&items[i], depth + 1))?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    let name = match key.kind() {
                        ValueKind::None => "null".to_owned(),
                        ValueKind::Bool => key.to_string().to_lowercase(),
                        _ => key.to_string(),
                    };
                    entries.push((name, item));
                }
                if self.sort {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.list('{', '}', depth, entries.len(), |json, i| {
                    json.string(&entries[i].0);
                    json.out += &json.key.clone();
                    json.write(&entries[i].1, depth + 1)
                })?;
            }
            other => return Err(bad(format!("tojson: {other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        n: usize,
        mut element: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for i in 0..n {
            if i > 0 {
                self.out += &self.item.clone();
            }
            self.line(depth + 1);
            element(self, i)?;
        }
        if n > 0 {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    /// A new line, where an indent was asked for.
    fn line(&mut self, depth: usize) {
        if let Some(unit) = &self.unit {
            self.out.push('\n');
            for _ in 0..depth {
                self.out += unit;
            }
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                c if c < ' ' || self.ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out += &format!("\\u{unit:04x}");
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    /// Consumes fuel for what has been written since the last time.
    fn pay(&mut self) -> Result<(), Error> {
        let bytes = self.out.len() - self.paid;
        if bytes >= 1024 {
            self.state.consume_fuel(bytes as u64 / 64)?;
            self.paid = self.out.len();
        }
        Ok(())
    }
}

/// A number as Python writes it: floats always with a point or an exponent.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(x) = f64::try_from(value.clone()) else { return value.to_string() };
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    // repr() takes the exponent form below 1e-4 and from 1e16 on.
    let size = x.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = x.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

/// The beginning of a text that a template may have made as long as it liked.
pub(super) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(300).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
