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
        let start = Instant::now();
        while !until(&self.text()) {
            match self.chunks.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => self.take(&chunk),
                Err(RecvTimeoutError::Timeout) if start.elapsed() < PATIENCE => {}
                Err(_) => panic!("waited for {what} in vain; the screen:\n{}", self.text()),
            }
        }
    }

    /// Types a line, and waits for the prompt after what it led to, which holds `word`.
    pub fn ask(&mut self, line: &str, word: &str) {
        let typed = format!("> {line}\n");
        let times = self.text().matches(&typed).count();
        self.line(line);
        self.wait(&format!("{word:?} after {line:?}"), |text| {
            let answer = text.rsplit(&typed).next().unwrap_or_default();
            text.matches(&typed).count() > times
                && answer.contains(word)
                && answer.trim_end_matches(['\n', ' ']).lines().last() == Some(">")
        });
    }

    /// Waits for the prompt on the last line with text.
    pub fn wait_prompt(&mut self) {
        self.wait("the prompt", |text| text.trim_end_matches(['\n', ' ']).lines().last() == Some(">"));
    }

    fn take(&mut self, chunk: &[u8]) {
        self.raw.extend_from_slice(chunk);
        self.screen.process(chunk);
    }

    /// Waits for the end of the program, and takes the last it wrote.
    pub fn wait_end(&mut self) -> ExitStatus {
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
