//! A namespace must not come to hold itself: writing it out would never end, and end the program.
//!
//! Namespaces are the only values of templates that can be changed, so they alone could close a circle. They
//! may therefore be named in two ways only: to reach or set something inside (`ns.x`, `ns['x']`), and to be
//! handed to a macro of the same template. That is what templates do with them; all else is refused before
//! anything runs. The check reads the template engine's own tokens, so that it sees what the engine sees.
use std::ops::Range;

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use crate::error::{Error, Result};

/// # Errors
/// When the template uses a namespace as a value among others. Templates that cannot be read pass: the
/// engine's own message is better.
pub(super) fn check(source: &str, syntax: SyntaxConfig) -> Result<()> {
    let mut tokens = Vec::new();
    for token in tokenize(source, false, syntax) {
        let Ok((token, span)) = token else { return Ok(()) };
        tokens.push((token, span.start_line));
    }
    match Reader::new(&tokens).refused() {
        None => Ok(()),
        Some(at) => {
            Err(Error::bad_file("the chat template uses a namespace as a value, which might never end")
                .at(format!("key tokenizer.chat_template, line {}", tokens[at].1)))
        }
    }
}

struct Reader<'t> {
    tokens: &'t [(Token<'t>, u16)],
    macros: Vec<Macro<'t>>,
    /// For each token, the innermost parenthesis or bracket that is open there.
    inside: Vec<Option<usize>>,
}

struct Macro<'t> {
    name: &'t str,
    parameters: Vec<&'t str>,
    /// Its tokens, definition and body.
    tokens: Range<usize>,
}

impl<'t> Reader<'t> {
    fn new(tokens: &'t [(Token<'t>, u16)]) -> Self {
        let mut reader = Self { tokens, macros: Vec::new(), inside: Vec::with_capacity(tokens.len()) };
        let mut open = Vec::new();
        for (at, (token, _)) in tokens.iter().enumerate() {
            reader.inside.push(open.last().copied());
            match token {
                Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => open.push(at),
                Token::ParenClose | Token::BracketClose | Token::BraceClose => _ = open.pop(),
                Token::BlockStart | Token::VariableStart => open.clear(),
                _ => {}
            }
        }
        reader.find_macros();
        reader
    }

    fn find_macros(&mut self) {
        let mut open: Vec<usize> = Vec::new();
        for at in 0..self.tokens.len() {
            match (self.name(at), self.name(at + 1)) {
                (Some("macro"), Some(name)) if self.starts_block(at) => {
                    let definition = at + 2..self.block_end(at);
                    let parameters = definition.filter(|&i| {
                        self.inside[i] == Some(at + 2)
                            && matches!(self.token(i - 1), Some(Token::ParenOpen | Token::Comma))
                    });
                    let parameters = parameters.filter_map(|i| self.name(i)).collect();
                    open.push(self.macros.len());
                    self.macros.push(Macro { name, parameters, tokens: at..self.tokens.len() });
                }
                (Some("endmacro"), _) if self.starts_block(at) => {
                    if let Some(last) = open.pop() {
                        self.macros[last].tokens.end = at;
                    }
                }
                _ => {}
            }
        }
    }

    fn token(&self, at: usize) -> Option<&'t Token<'t>> {
        self.tokens.get(at).map(|(token, _)| token)
    }

    fn name(&self, at: usize) -> Option<&'t str> {
        match self.token(at)? {
            Token::Ident(name) => Some(name),
            _ => None,
        }
    }

    fn starts_block(&self, at: usize) -> bool {
        matches!(self.token(at.wrapping_sub(1)), Some(Token::BlockStart))
    }

    fn block_end(&self, at: usize) -> usize {
        (at..self.tokens.len())
            .find(|&i| matches!(self.tokens[i].0, Token::BlockEnd))
            .unwrap_or(self.tokens.len())
    }

    /// Whether the name at `at` is a variable: no attribute, no keyword argument, no target of a plain `set`.
    fn is_variable(&self, at: usize) -> bool {
        !matches!(self.token(at.wrapping_sub(1)), Some(Token::Dot))
            && !matches!(self.token(at + 1), Some(Token::Assign))
    }

    /// The name that `{% set name = namespace(…) %}` makes, if its `namespace` is at `at`.
    fn made(&self, at: usize) -> Option<&'t str> {
        let name = self.name(at.checked_sub(2)?)?;
        let set = at.checked_sub(3).filter(|&set| self.name(set) == Some("set") && self.starts_block(set));
        let opened = matches!(self.token(at - 1), Some(Token::Assign))
            && matches!(self.token(at + 1), Some(Token::ParenOpen));
        let last = self.block_end(at).checked_sub(1)?;
        let closed = matches!(self.token(last), Some(Token::ParenClose)) && self.inside[last] == Some(at + 1);
        (set.is_some() && opened && closed).then_some(name)
    }

    /// The macros, and which of their parameters, that the name at `at` is an argument to. (Its place in a
    /// definition counts as one.)
    fn handed(&self, at: usize) -> Option<(&'t str, usize)> {
        let open = self.inside[at].filter(|&open| matches!(self.token(open), Some(Token::ParenOpen)))?;
        let callee = open.checked_sub(1)?;
        let name = self.name(callee).filter(|name| self.macros.iter().any(|known| known.name == *name))?;
        let alone = matches!(self.token(at - 1), Some(Token::ParenOpen | Token::Comma))
            && matches!(self.token(at + 1), Some(Token::ParenClose | Token::Comma))
            && !matches!(self.token(callee.wrapping_sub(1)), Some(Token::Dot | Token::Pipe));
        let before =
            (open..at).filter(|&i| matches!(self.tokens[i].0, Token::Comma) && self.inside[i] == Some(open));
        alone.then(|| (name, before.count()))
    }

    /// The first token that uses a namespace as a value.
    fn refused(&self) -> Option<usize> {
        // Names that hold namespaces, and where they do.
        let mut holds: Vec<(&str, Range<usize>)> = Vec::new();
        for at in 0..self.tokens.len() {
            if self.name(at) != Some("namespace") || !self.is_variable(at) {
                continue;
            }
            let own = |found: &Macro| found.tokens.contains(&at) && found.parameters.contains(&"namespace");
            match self.made(at) {
                Some(name) => holds.push((name, 0..self.tokens.len())),
                // A macro's parameter may be called so.
                None if self.macros.iter().any(own) => {}
                None => return Some(at),
            }
        }
        let mut done = 0;
        while let Some((name, range)) = holds.get(done).cloned() {
            for at in range {
                let inside = matches!(self.token(at + 1), Some(Token::Dot | Token::BracketOpen));
                if self.name(at) != Some(name) || !self.is_variable(at) || inside {
                    continue;
                }
                let Some((callee, place)) = self.handed(at) else { return Some(at) };
                let called = self.macros.iter().filter(|found| found.name == callee);
                let parameters =
                    called.filter_map(|found| Some((*found.parameters.get(place)?, found.tokens.clone())));
                let new: Vec<_> = parameters.filter(|parameter| !holds.contains(parameter)).collect();
                holds.extend(new);
            }
            done += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_reached_into_and_handed_to_macros_only() {
        for source in [
            "{% set ns = namespace(x=1, y=[]) %}{% set ns.x = ns.x + ns['y'][0] %}{{ ns.x }} ns namespace",
            "{% macro m(s, t) %}{% set s.x = t %}{% endmacro %}{% set ns = namespace() %}{{ m(ns, 1) }}",
            "{% macro m(s, t) %}{{ n(t, s) }}{% endmacro %}{% macro n(t, s) %}{{ s.x ~ t }}{% endmacro %}{% set ns = namespace() %}{{ m(ns, 1) }}",
            "{% macro m(namespace='a') %}{{ namespace ~ 1 }}{% endmacro %}{{ m('b') }}{{ x.namespace }}",
            "{{ 'ns' }}{# ns #}{% set ns = namespace(f=dict()) %}",
        ] {
            assert_eq!(check(source, SyntaxConfig::default()), Ok(()), "{source}");
        }
        for body in [
            "{% set ns.x = ns %}",
            "{{ ns }}",
            "{{ ns ~ 'x' }}",
            "{% set other = ns %}",
            "{% set ns.x = [ns] %}",
            "{% set ns.x = {'a': ns} %}",
            "{% set ns.x = (ns, 1) %}",
            "{% set ns.x, y = ns, 1 %}",
            "{% for x in [ns] %}{% set ns.x = x %}{% endfor %}",
            "{% set ns.x = ['%}', ns] %}",
            "{% set ns.x = dict(a=ns) %}",
            "{% set ns.x = {}.get('k', ns) %}",
            "{% set ns.x = y | default(ns) %}",
            "{% set a = namespace(b=ns) %}",
            "{% set a = namespace(), 1 %}",
            "{% set a = [namespace()] %}",
            "{% set f = namespace %}",
            "{% set ns.x = namespace() %}",
            "{% with a = ns %}{% endwith %}",
            "{% macro m(a=ns) %}{% endmacro %}",
            "{% macro m(a) %}{% set a.x = a %}{% endmacro %}{{ m(ns) }}",
            "{% macro m(a) %}{% set b = a %}{% endmacro %}{{ m(ns) }}",
            "{% macro m(s, t) %}{{ n(t, s) }}{% endmacro %}{% macro n(t, s) %}{{ s ~ t.x }}{% endmacro %}{{ m(ns, 1) }}",
            "{% macro m(a) %}{% endmacro %}{{ x.m(ns) }}",
            "{% macro m(a) %}{% endmacro %}{{ x | m(ns) }}",
            "{% macro m(a) %}{% endmacro %}{{ m((ns, 1)) }}",
            "{% macro m(a) %}{% endmacro %}{{ m([ns]) }}",
        ] {
            let source = format!("{{% set ns = namespace() %}}\n{body}");
            let error = check(&source, SyntaxConfig::default()).expect_err(body);
            assert_eq!(error.at, "key tokenizer.chat_template, line 2");
        }
    }
}
