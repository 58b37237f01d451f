//! llama.cpp's grammar notation (GBNF) as Lark, which llguidance reads.
//!
//! The two differ in words more than in meaning: rules are `name ::= …` there and `name: …` here, `root` is `start`,
//! character classes and `.` are regular expressions here. Format: llama.cpp's grammars/README.md.
use lapwing_models::{Error, Result};

/// Whether a grammar is written in GBNF: only there rules are defined with `::=`.
pub(super) fn is_gbnf(grammar: &str) -> bool {
    grammar.contains("::=")
}

/// The same grammar in Lark.
///
/// # Errors
/// When it is not GBNF, naming the line.
pub(super) fn to_lark(grammar: &str) -> Result<String> {
    let mut reader = Reader { rest: grammar, line: 1 };
    let mut lark = String::new();
    reader.space(true);
    while !reader.rest.is_empty() {
        let name = reader.name()?;
        reader.space(true);
        reader.expect("::=")?;
        reader.space(true);
        lark += &format!("{}: ", rule(name));
        reader.alternatives(&mut lark, 0)?;
        lark.push('\n');
        reader.space(true);
    }
    Ok(lark)
}

/// A rule's name in Lark: lower case, with a prefix so that it is no word of Lark's own.
fn rule(name: &str) -> String {
    if name == "root" {
        return "start".to_owned();
    }
    let mut out = "r_".to_owned();
    for c in name.chars() {
        match c {
            'a'..='z' | '0'..='9' => out.push(c),
            '-' => out.push('_'),
            // Names that differ in case stay different.
            'A'..='Z' => out += &format!("_{}_", c.to_ascii_lowercase()),
            _ => out += "__",
        }
    }
    out
}

struct Reader<'g> {
    rest: &'g str,
    line: usize,
}

impl<'g> Reader<'g> {
    fn wrong(&self, expected: &str) -> Error {
        let got: String = self.rest.chars().take(20).take_while(|&c| c != '\n').collect();
        let got = if got.is_empty() { "its end".to_owned() } else { got };
        Error::bad_file("the grammar cannot be read")
            .at(format!("line {}", self.line))
            .expected_got(expected, got)
    }

    fn skip(&mut self, bytes: usize) -> &'g str {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
        skipped
    }

    fn take(&mut self, start: &str) -> bool {
        let found = self.rest.starts_with(start);
        if found {
            self.skip(start.len());
        }
        found
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        if self.take(text) { Ok(()) } else { Err(self.wrong(text)) }
    }

    /// Skips blanks and comments, and with `lines` line ends.
    fn space(&mut self, lines: bool) {
        loop {
            let blank = |c: char| matches!(c, ' ' | '\t') || lines && matches!(c, '\r' | '\n');
            let n = self.rest.find(|c| !blank(c)).unwrap_or(self.rest.len());
            self.skip(n);
            if !self.rest.starts_with('#') {
                return;
            }
            let n = self.rest.find('\n').unwrap_or(self.rest.len());
            self.skip(n);
        }
    }

    fn name(&mut self) -> Result<&'g str> {
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match self.rest.find(|c| !word(c)).unwrap_or(self.rest.len()) {
            0 => Err(self.wrong("a rule")),
            n => Ok(self.skip(n)),
        }
    }

    /// Alternatives up to the end of the rule, or of the group that it is in.
    fn alternatives(&mut self, lark: &mut String, depth: usize) -> Result<()> {
        loop {
            self.sequence(lark, depth)?;
            if !self.take("|") {
                return Ok(());
            }
            self.space(true);
            lark.push_str(" | ");
        }
    }

    fn sequence(&mut self, lark: &mut String, depth: usize) -> Result<()> {
        let mut empty = true;
        loop {
            // In a group line ends are blanks; in a rule they are so before an alternative.
            self.space(depth > 0);
            if depth == 0 && self.rest.starts_with(['\r', '\n']) {
                let (rest, line) = (self.rest, self.line);
                self.space(true);
                if !self.rest.starts_with('|') {
                    (self.rest, self.line) = (rest, line);
                }
            }
            let item = match self.rest.chars().next() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('(') => {
                    self.skip(1);
                    self.space(true);
                    let mut group = "(".to_owned();
                    self.alternatives(&mut group, depth + 1)?;
                    self.expect(")")?;
                    group + ")"
                }
                Some('.') => {
                    self.skip(1);
                    "/(?s:.)/".to_owned()
                }
                Some(c) if c.is_ascii_alphabetic() => rule(self.name()?),
                None | Some('|' | '\r' | '\n') => break,
                Some(')') if depth > 0 => break,
                Some(_) => return Err(self.wrong("a text, a class, a group or a rule")),
            };
            lark.push_str(if empty { "" } else { " " });
            lark.push_str(&item);
            lark.push_str(&self.repetition()?);
            empty = false;
        }
        if empty {
            lark.push_str("\"\"");
        }
        Ok(())
    }

    /// `*`, `+`, `?`, `{n}`, `{n,}` or `{n,m}`, as Lark writes them; often nothing.
    fn repetition(&mut self) -> Result<String> {
        for mark in ["*", "+", "?"] {
            if self.take(mark) {
                return Ok(mark.to_owned());
            }
        }
        if !self.take("{") {
            return Ok(String::new());
        }
        let n = self.rest.find('}').ok_or_else(|| self.wrong("}"))?;
        let bounds = &self.rest[..n];
        let (least, most) = bounds.split_once(',').unwrap_or((bounds, bounds));
        let number = |text: &str| text.trim().parse::<u16>().ok();
        match (number(least), number(most), most.trim().is_empty() && bounds.contains(',')) {
            (Some(least), Some(most), _) if least <= most => {
                self.skip(n + 1);
                Ok(format!("{{{least},{most}}}"))
            }
            (Some(least), _, true) => {
                self.skip(n + 1);
                Ok(format!("{{{least},}}"))
            }
            _ => Err(self.wrong("bounds such as {2,5}, at most 65535")),
        }
    }

    /// One character, escaped or not.
    fn character(&mut self) -> Result<char> {
        let c = self.rest.chars().next().ok_or_else(|| self.wrong("a character"))?;
        if c != '\\' {
            self.skip(c.len_utf8());
            return Ok(c);
        }
        let escaped = self.rest[1..].chars().next().unwrap_or(' ');
        let digits = match escaped {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if digits > 0 {
            let code = self.rest.get(2..2 + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
            let c = code.and_then(char::from_u32).ok_or_else(|| self.wrong("a character's code"))?;
            self.skip(2 + digits);
            return Ok(c);
        }
        let c = match escaped {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '"' | '\\' | '[' | ']' | '-' | '^' => escaped,
            _ => return Err(self.wrong("an escape that GBNF knows")),
        };
        self.skip(2);
        Ok(c)
    }

    fn literal(&mut self) -> Result<String> {
        self.skip(1);
        let mut text = String::new();
        while !self.take("\"") {
            if self.rest.starts_with('\n') {
                return Err(self.wrong("\""));
            }
            text.push(self.character()?);
        }
        // One terminal for each character, as GBNF has it: of longer ones llguidance would take the longest that
        // matches, and never look at another. JSON's escapes are Lark's.
        let quoted = |c: char| serde_json::Value::from(c.to_string()).to_string();
        match text.chars().count() {
            0 => Ok("\"\"".to_owned()),
            1 => Ok(text.chars().map(quoted).collect()),
            _ => Ok(format!("({})", text.chars().map(quoted).collect::<Vec<_>>().join(" "))),
        }
    }

    fn class(&mut self) -> Result<String> {
        self.skip(1);
        let mut class = if self.take("^") { "/[^" } else { "/[" }.to_owned();
        let mut empty = true;
        while !self.take("]") {
            if self.rest.starts_with('\n') {
                return Err(self.wrong("]"));
            }
            let first = self.character()?;
            class += &code(first);
            empty = false;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.skip(1);
                let last = self.character()?;
                if last < first {
                    return Err(self.wrong("a range from the lower to the higher character"));
                }
                class += &format!("-{}", code(last));
            }
        }
        if empty {
            return Err(self.wrong("a character in [ ]"));
        }
        Ok(class + "]/")
    }
}

/// A character in a class of a regular expression, by its code so that none has another meaning.
fn code(c: char) -> String {
    if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\u{{{:x}}}", u32::from(c)) }
}
