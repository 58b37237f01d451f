//! A terminal with the program in it: keys go in, a screen comes out.
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};

use super::common::{LAPWING, NOWHERE};

/// Rows and columns of a usual terminal.
pub const USUAL: (u16, u16) = (24, 80);

/// What the chat waits behind.
pub const PROMPT: &str = "> ";

/// How long anything may take: builds with assertions on a busy machine are slow.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program in a terminal.
pub struct Terminal {
    pty: Arc<Pty>,
    child: Child,
    chunks: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    /// Every byte the program wrote.
    pub raw: Vec<u8>,
}

impl Terminal {
    /// Starts the program with `args` in a terminal of (rows, columns), with extra environment.
    pub fn start(args: &[&str], (rows, cols): (u16, u16), env: &[(&str, &str)]) -> Self {
        let (pty, pts) = open().expect("a terminal");
        pty.resize(Size::new(rows, cols)).expect("a size");
        let mut command = Command::new(LAPWING).args(args).env("TERM", "xterm-256color");
        for name in ["LAPWING_MODELS", "LAPWING_ISA", "LAPWING_CONFIG", "NO_COLOR", "EDITOR", "VISUAL"] {
            command = command.env_remove(name);
        }
        command = command.env("XDG_CONFIG_HOME", NOWHERE);
        for (name, value) in env {
            command = command.env(name, value);
        }
        let some = |n| NonZero::new(n).expect("a size");
        let child = command.spawn(pts).expect("the binary starts");
        let pty = Arc::new(pty);
        let (sender, chunks) = channel();
        let reader = Arc::clone(&pty);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails when the program has ended.
            while let Ok(n @ 1..) = (&*reader).read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        let screen = vt100::Parser::new(some(rows), some(cols), 1000);
        Self { pty, child, chunks, screen, raw: Vec::new() }
    }

    /// Makes the terminal one of (rows, columns).
    pub fn resize(&mut self, (rows, cols): (u16, u16)) {
        let some = |n| NonZero::new(n).expect("a size");
        self.screen.screen_mut().set_size(some(rows), some(cols));
        self.pty.resize(Size::new(rows, cols)).expect("a size");
    }

    /// Types keys.
    pub fn keys(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Types a line and Enter.
    pub fn line(&self, text: &str) {
        self.keys(&format!("{text}\r"));
    }

    /// What is on the screen, without blanks at the ends of lines.
    pub fn text(&self) -> String {
        self.screen.screen().contents()
    }

    /// The screen itself.
    pub fn screen(&self) -> &vt100::Screen {
        self.screen.screen()
    }

    /// Takes what came until `until` of the screen's text holds; panics with the screen when it never does.
    pub fn wait(&mut self, what: &str, until: impl Fn(&str) -> bool) {
        self.wait_screen(what, |screen| until(&screen.contents()));
    }

    /// Takes what came until `until` holds of the screen; panics with the screen when it never does.
    pub fn wait_screen(&mut self, what: &str, until: impl Fn(&vt100::Screen) -> bool) {
        let start = Instant::now();
        while !until(self.screen()) {
            match self.chunks.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => self.take(&chunk),
                Err(RecvTimeoutError::Timeout) if start.elapsed() < PATIENCE => {}
                Err(_) => {
                    let (at, hidden) = (self.screen().cursor_position(), self.screen().hide_cursor());
                    panic!(
                        "waited for {what} in vain; cursor {at:?}, hidden: {hidden}; the screen:\n{}",
                        self.text()
                    )
                }
            }
        }
    }

    /// Types a line, and waits for the prompt after what it led to, which holds `word`.
    pub fn ask(&mut self, line: &str, word: &str) {
        self.reply(PROMPT, line, word);
    }

    /// As [`Self::ask`], where another `question` than the prompt waits for an answer; a line may end it.
    pub fn reply(&mut self, question: &str, line: &str, word: &str) {
        self.wait_line(question);
        let typed = format!("{question}{line}");
        let typed = typed.trim_end();
        self.keys(line);
        self.wait(&format!("{line:?} on the screen"), |text| text.trim_end().ends_with(typed));
        self.keys("\r");
        // Wherever lines are broken on this screen.
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.wait(&format!("{word:?} after {line:?}"), |text| {
            text.rsplit_once(typed).is_some_and(|(_, answer)| one_line(answer).contains(&one_line(word)))
        });
        self.wait_prompt();
    }

    /// Waits for an empty prompt.
    pub fn wait_prompt(&mut self) {
        self.wait_line(PROMPT);
    }

    /// Waits until the last row with text is `line`, and the cursor stands behind it, to be seen.
    pub fn wait_line(&mut self, line: &str) {
        let there = |screen: &vt100::Screen| {
            let (row, column) = screen.cursor_position();
            let columns = u16::from(screen.size().1);
            let rows: Vec<_> = screen.rows(0, columns).collect();
            let before = screen.rows(0, column).nth(row.into()).unwrap_or_default();
            let width = column.into();
            rows.iter().rposition(|row| !row.trim_end().is_empty()) == Some(row.into())
                && rows[usize::from(row)].trim_end() == line.trim_end()
                && format!("{before:width$}") == line
                && !screen.hide_cursor()
        };
        self.wait_screen(&format!("{line:?} with the cursor behind it"), there);
    }

    fn take(&mut self, chunk: &[u8]) {
        self.raw.extend_from_slice(chunk);
        self.screen.process(chunk);
    }

    /// Leaves with Ctrl-D, which is no failure.
    pub fn leave(&mut self) {
        self.keys("\u{4}");
        self.wait_end();
    }

    /// Waits for the end of the program without a failure, and takes the last it wrote: the shell's prompt then starts
    /// a line, with the cursor to be seen and nothing left of what the program asked of the terminal.
    pub fn wait_end(&mut self) {
        assert_eq!(self.wait_status().code(), Some(0), "{}", self.text());
        let screen = self.screen();
        assert_eq!(screen.cursor_position().1, 0, "{}", self.text());
        assert!(!screen.hide_cursor() && !screen.bracketed_paste() && !screen.alternate_screen());
        assert_eq!((screen.fgcolor(), screen.bgcolor()), (vt100::Color::Default, vt100::Color::Default));
        assert!(
            !screen.bold() && !screen.dim() && !screen.italic() && !screen.underline() && !screen.inverse()
        );
    }

    fn wait_status(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            while let Ok(chunk) = self.chunks.recv_timeout(Duration::from_millis(20)) {
                self.take(&chunk);
            }
            if let Some(status) = self.child.try_wait().expect("a child to wait for") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the program does not end; the screen:\n{}", self.text());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
