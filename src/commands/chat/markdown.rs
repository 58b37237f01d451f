//! Light Markdown on a terminal, as it streams: bold text and headings, code in colour, lines broken between words.
//!
//! Nothing waits for what may come later but the marks themselves: a word is shown at once, and moved to the next line
//! when it turns out not to fit.
use unicode_width::UnicodeWidthChar;

/// How text stands out: as in the terminal's own palette, for dark and light screens.
const BOLD: &str = "\x1b[1m";
const CODE: &str = "\x1b[36m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Turns pieces of an answer into what a terminal is to be sent.
pub struct Markdown {
    colours: bool,
    /// Columns to use: one less than there are, since what a terminal does after the last one differs.
    width: usize,
    /// Column of the cursor.
    column: usize,
    /// What was shown since the last place where the line may be broken, and its columns.
    word: String,
    word_width: usize,
    /// Marks whose meaning depends on what follows: all the same, `*`, `` ` `` or `#`.
    marks: String,
    /// The character before the marks; a line end at the start.
    before: char,
    /// Whether only white space came before on this line.
    at_start: bool,
    bold: bool,
    code: bool,
    heading: bool,
    block: Block,
    out: String,
}

/// Where in a block of code the text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Outside,
    /// On the line that begins or ends one, behind the marks.
    Fence {
        then_inside: bool,
    },
    Inside,
}

impl Markdown {
    /// A renderer at the start of a line.
    pub fn new(colours: bool) -> Self {
        Self {
            colours,
            width: usize::MAX,
            column: 0,
            word: String::new(),
            word_width: 0,
            marks: String::new(),
            before: '\n',
            at_start: true,
            bold: false,
            code: false,
            heading: false,
            block: Block::Outside,
            out: String::new(),
        }
    }

    /// Breaks lines so that they fit a terminal of so many columns.
    pub fn set_columns(&mut self, columns: usize) {
        // On a terminal narrower than any word, the terminal itself does as well.
        self.width = if columns < 10 { usize::MAX } else { columns - 1 };
    }

    /// Takes the next piece; returns what to send.
    pub fn push(&mut self, text: &str) -> String {
        text.chars().for_each(|c| self.take(c));
        std::mem::take(&mut self.out)
    }

    /// What was held back at the end of the answer, and the way back to plain text.
    pub fn finish(&mut self) -> String {
        self.settle('\n');
        if self.colours && (self.bold || self.code || self.heading || self.block != Block::Outside) {
            self.out += PLAIN;
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, c: char) {
        let is_mark = match c {
            '*' => self.block == Block::Outside && !self.code,
            '`' => self.block == Block::Outside || self.at_start && self.block == Block::Inside,
            '#' => self.at_start && self.block == Block::Outside,
            _ => false,
        };
        // Without colours, only blocks of code matter: they are not broken.
        let matters = self.colours || c == '`' && self.at_start;
        if matters && is_mark && (self.marks.is_empty() || self.marks.starts_with(c)) {
            self.marks.push(c);
            return;
        }
        self.settle(c);
        match c {
            '\n' => self.end_line(),
            ' ' if self.block == Block::Outside && self.column >= self.width => self.break_line(),
            ' ' | '\t' => {
                self.show(c, if c == ' ' { 1 } else { 8 - self.column % 8 });
                self.end_word();
            }
            c => {
                self.show(c, c.width().unwrap_or(0));
                self.at_start = false;
            }
        }
        self.before = c;
    }

    /// Decides what the marks before `next` mean.
    fn settle(&mut self, next: char) {
        let marks = std::mem::take(&mut self.marks);
        let Some(mark) = marks.chars().next() else { return };
        match (mark, marks.len()) {
            ('`', 3..) if self.at_start => {
                let then_inside = self.block == Block::Outside;
                self.block = Block::Fence { then_inside };
                self.style();
                marks.chars().for_each(|c| self.show(c, 1));
            }
            ('`', 1) if self.block == Block::Outside && self.colours => {
                self.code = !self.code;
                self.style();
            }
            ('*', 2 | 3) if self.bold && !self.before.is_whitespace() => {
                self.bold = false;
                self.style();
            }
            // In the middle of a word it is more likely a power.
            ('*', 2 | 3) if !self.bold && !next.is_whitespace() && !self.before.is_alphanumeric() => {
                self.bold = true;
                self.style();
            }
            ('#', 1..=6) if next == ' ' => {
                self.heading = true;
                self.style();
                marks.chars().for_each(|c| self.show(c, 1));
            }
            _ => marks.chars().for_each(|c| self.show(c, 1)),
        }
        self.before = mark;
        self.at_start = false;
    }

    /// Sends what makes the text look as it should from here on.
    fn style(&mut self) {
        if !self.colours {
            return;
        }
        self.out += PLAIN;
        if matches!(self.block, Block::Fence { .. }) {
            self.out += DIM;
        }
        if self.code || self.block == Block::Inside {
            self.out += CODE;
        }
        if self.bold || self.heading {
            self.out += BOLD;
        }
    }

    fn end_line(&mut self) {
        // Marks that are never closed end with their line, so that one stray mark does not colour all that follows.
        let styled = self.bold || self.code || self.heading || matches!(self.block, Block::Fence { .. });
        (self.bold, self.code, self.heading) = (false, false, false);
        if let Block::Fence { then_inside } = self.block {
            self.block = if then_inside { Block::Inside } else { Block::Outside };
        }
        self.out.push('\n');
        if styled {
            self.style();
        }
        self.column = 0;
        self.end_word();
        self.at_start = true;
    }

    fn end_word(&mut self) {
        self.word.clear();
        self.word_width = 0;
    }

    fn break_line(&mut self) {
        self.out.push('\n');
        self.column = 0;
        self.end_word();
    }

    /// Shows a character; breaks the line before its word when it does not fit. Code is never broken.
    fn show(&mut self, c: char, width: usize) {
        // Ideographs may be parted anywhere; a space ends the word before it.
        if width == 2 {
            self.end_word();
        }
        if self.block == Block::Outside && self.column + width > self.width {
            let word = std::mem::take(&mut self.word);
            let columns = std::mem::take(&mut self.word_width);
            if columns < self.column && columns > 0 {
                self.out += &format!("\x1b[{columns}D\x1b[K\n{word}");
                self.column = columns;
                (self.word, self.word_width) = (word, columns);
            } else {
                self.break_line();
            }
        }
        self.out.push(c);
        self.column += width;
        self.word.push(c);
        self.word_width += width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent for `text` cut into pieces of `size` characters.
    fn sent(text: &str, size: usize, colours: bool, columns: usize) -> String {
        let mut markdown = Markdown::new(colours);
        markdown.set_columns(columns);
        let chars: Vec<char> = text.chars().collect();
        let pieces = chars.chunks(size).map(|piece| markdown.push(&piece.iter().collect::<String>()));
        let mut out: String = pieces.collect();
        out += &markdown.finish();
        out
    }

    #[test]
    fn marks_become_styles_wherever_pieces_end() {
        for (text, expected) in [
            ("a **b c** d", "a \x1b[0m\x1b[1mb c\x1b[0m d"),
            ("use `ls -l` now", "use \x1b[0m\x1b[36mls -l\x1b[0m now"),
            ("2**10 * 3 ** 4", "2**10 * 3 ** 4"),
            ("* item\n*one*", "* item\n*one*"),
            ("# Head\nx #1", "\x1b[0m\x1b[1m# Head\n\x1b[0mx #1"),
            ("#hash `open\nnext", "#hash \x1b[0m\x1b[36mopen\n\x1b[0mnext"),
            (
                "```rust\na **b** `c`\n```\nd",
                "\x1b[0m\x1b[2m```rust\n\x1b[0m\x1b[36ma **b** `c`\n\x1b[0m\x1b[2m```\n\x1b[0md",
            ),
            ("```\nopen", "\x1b[0m\x1b[2m```\n\x1b[0m\x1b[36mopen\x1b[0m"),
            ("end **", "end **"),
            ("end *", "end *"),
        ] {
            for size in 1..=text.len() {
                assert_eq!(sent(text, size, true, 80), expected, "{text:?} in pieces of {size}");
            }
            assert_eq!(sent(text, 3, false, 80), text);
        }
    }

    /// What a terminal of so many columns shows, without blanks at line ends.
    fn shown(sent: &str, columns: u16) -> Vec<String> {
        let some = |n| std::num::NonZero::new(n).unwrap();
        let mut screen = vt100::Parser::new(some(20), some(columns), 0);
        screen.process(sent.replace('\n', "\r\n").as_bytes());
        let rows = screen.screen().rows(0, columns).map(|row| row.trim_end().to_owned());
        rows.collect::<Vec<_>>().join("\n").trim_end().lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_break_between_words() {
        let text = "The quick brown fox jumps over the **lazy dog**, and supercalifragilistic words are cut.";
        for size in [1, 3, 100] {
            for colours in [false, true] {
                let lines = shown(&sent(text, size, colours, 16), 16);
                let expected: &[&str] = &["The quick brown", "fox jumps over"];
                assert_eq!(&lines[..2], expected, "{lines:?}");
                assert!(lines.iter().all(|line| line.chars().count() < 16), "{lines:?}");
                let words = |text: &str| text.replace("**", "").split_whitespace().collect::<String>();
                assert_eq!(words(&lines.concat().replace(' ', "")), words(text).replace(' ', ""));
            }
        }
        // Two columns each; a line holds seven of them.
        assert_eq!(shown(&sent("漢字漢字漢字漢字漢字", 2, true, 16), 16), ["漢字漢字漢字漢", "字漢字"]);
        assert_eq!(shown(&sent("a 🐦\u{200d}b e\u{301}", 1, true, 16), 16).len(), 1);
        // Code is shown as it is.
        let code = "```\nlet a_long_line = 1;\n```";
        assert!(sent(code, 1, true, 16).contains("let a_long_line = 1;\n"));
        let plain = format!("{code}\nand words that are broken");
        let expected = format!("{code}\nand words that\nare broken");
        for size in [1, 3, 100] {
            assert_eq!(shown(&sent(&plain, size, false, 16), 80), shown(&expected, 80));
        }
    }
}
