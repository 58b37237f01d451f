//! Commands that save sessions and take them up again.
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::SystemTime;

use lapwing::conversation::Role;
use lapwing::saved::{Opened, Saved, SavedCache, SavedModel, SavedTemplate, fingerprint, write};
use lapwing::text::{check_name, nearest, safe};
use lapwing_models::cancel::Cancel;
use lapwing_models::os::NewFile;
use lapwing_models::{Class, Error, Result};

use super::slash::{Complete, Next, Slash};
use super::turns::first_words;
use super::{Chat, count, lora, settings};
use crate::commands::folders::{absolute, session_folder};
use crate::commands::load;
use crate::commands::ui::size;

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[
    Slash {
        name: "save",
        args: "[NAME]",
        help: "save the session",
        complete: Complete::Words(names_for_chat),
        run: save,
    },
    Slash {
        name: "load",
        args: "NAME",
        help: "take up a saved session",
        complete: Complete::Words(names_for_chat),
        run: load,
    },
    Slash { name: "sessions", args: "", help: "list the saved sessions", complete: Complete::No, run: list },
    Slash {
        name: "sessions rm",
        args: "NAME",
        help: "delete a saved session",
        complete: Complete::Words(names_for_chat),
        run: remove,
    },
];

/// How this chat is saved.
#[derive(Debug, Default)]
pub struct Saving {
    /// Name of the session, once it has one.
    pub name: Option<String>,
    /// After each answer.
    pub automatic: bool,
    /// With its cache.
    pub with_cache: bool,
    /// Whether something was said since it was saved.
    pub unsaved: bool,
    /// The cache on its way to the disk, while the chat goes on.
    pub writing: Option<Writing>,
}

/// A session that is being written with its cache.
#[derive(Debug)]
pub struct Writing {
    cancel: Cancel,
    thread: JoinHandle<Result<()>>,
}

impl Writing {
    /// Waits until it is written.
    fn finish(self) -> Result<()> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Gives it up, unless it is done.
    fn stop(self) -> Result<()> {
        self.cancel.cancel();
        match self.finish() {
            Err(error) if error.class == Class::Interrupted => Ok(()),
            other => other,
        }
    }
}

/// Ending of the files' names.
const ENDING: &str = "session";

fn path(name: &str) -> Result<PathBuf> {
    check_name("session", name)?;
    Ok(session_folder()?.join(format!("{name}.{ENDING}")))
}

/// Saved sessions with the time of their last change, the newest first.
fn all() -> Vec<(String, SystemTime)> {
    let Ok(entries) = session_folder()
        .and_then(|folder| std::fs::read_dir(&folder).map_err(|error| Error::io("read", &folder, &error)))
    else {
        return Vec::new();
    };
    let known = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let name = path.file_stem()?.to_str().filter(|name| check_name("session", name).is_ok())?.to_owned();
        path.extension().filter(|ending| *ending == ENDING)?;
        Some((name, entry.metadata().ok()?.modified().ok()?))
    };
    let mut all: Vec<_> = entries.flatten().filter_map(known).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all
}

fn names_for_chat(_: &Chat) -> Vec<String> {
    all().into_iter().map(|(name, _)| name).collect()
}

/// The file of the session of this name.
///
/// # Errors
/// When there is none.
fn existing(name: &str) -> Result<PathBuf> {
    let path = path(name)?;
    if !path.exists() {
        let all = all();
        let near = nearest(name, all.iter().map(|(name, _)| name.as_str()));
        let advice = near.map_or("/sessions lists them".to_owned(), |near| format!("did you mean {near}?"));
        return Err(Error::new(Class::Usage, format!("no session named {name}")).advice(advice));
    }
    Ok(path)
}

/// Opens the session of this name, or without one that which was saved last.
///
/// # Errors
/// When there is none, or its file is not what it should be.
pub fn open(name: &str) -> Result<(String, Opened)> {
    let name = match name {
        "" => all()
            .first()
            .map(|(name, _)| name.clone())
            .ok_or_else(|| Error::new(Class::Usage, "no session is saved").advice("/save NAME saves one"))?,
        name => name.to_owned(),
    };
    let opened = Opened::open(&existing(&name)?)?;
    Ok((name, opened))
}

impl Chat {
    /// Saves the session under its name, or a new one made of the time.
    ///
    /// # Errors
    /// When it cannot be written; what was saved before is then as it was.
    pub fn save_now(&mut self, with_cache: bool) -> Result<()> {
        if let Some(writing) = self.saving.writing.take() {
            // What it would have written is replaced now, and so is what went wrong.
            drop(writing.stop());
        }
        let name = match &self.saving.name {
            Some(name) => name.clone(),
            None => new_name()?,
        };
        let path = path(&name)?;
        let folder = session_folder()?;
        let mut make = std::fs::DirBuilder::new();
        make.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut make, 0o700);
        make.create(&folder).map_err(|error| Error::io("make", &folder, &error))?;
        // A program that was killed while it saved has left a part behind.
        NewFile::sweep(&folder);
        let saved = self.saved(with_cache);
        write(&path, &saved, saved.cache.as_ref().map(|_| self.session.cache()), &Cancel::default())?;
        self.saving.name = Some(name);
        self.saving.unsaved = false;
        Ok(())
    }

    fn saved(&self, with_cache: bool) -> Saved {
        let model = self.session.engine().model();
        Saved {
            model: SavedModel { path: absolute(model.gguf().path()), fingerprint: fingerprint(model.gguf()) },
            settings: settings::values(self)
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            stack: lora::described(self.session.stack()),
            stack_on: self.session.stack().is_on(),
            template: self.chosen.clone(),
            branches: self.branches.clone(),
            attached: self.attached.clone(),
            cache: SavedCache::of(&self.session).filter(|_| with_cache),
        }
    }

    /// After an answer: saves if asked for. What goes wrong is said, and the chat goes on.
    ///
    /// The conversation is safe when this returns. Its cache follows on a thread of its own, since it may be gigabytes;
    /// the next answer is in time to stop that and begin anew.
    pub fn autosave(&mut self) -> anyhow::Result<()> {
        self.saving.unsaved = true;
        if !self.saving.automatic {
            return Ok(());
        }
        if let Some(Err(error)) = self.saving.writing.take().map(Writing::stop) {
            self.out.problem(&format!("the cache was not saved: {error}"))?;
        }
        if let Err(error) = self.save_now(false).and_then(|()| self.write_cache()) {
            self.out.problem(&format!("not saved: {error}"))?;
        }
        Ok(())
    }

    /// Begins to write the session, which has a name, with its cache, if that is wished.
    fn write_cache(&mut self) -> Result<()> {
        let (Some(name), true) = (&self.saving.name, self.saving.with_cache) else { return Ok(()) };
        // Its blocks are shared; those that the chat writes to meanwhile are copied before.
        let (path, saved, cache) = (path(name)?, self.saved(true), self.session.cache().fork());
        let cancel = Cancel::default();
        let cancelled = cancel.clone();
        let write = move || write(&path, &saved, saved.cache.as_ref().map(|_| &cache), &cancelled);
        self.saving.writing = Some(Writing { cancel, thread: std::thread::spawn(write) });
        Ok(())
    }

    /// Before leaving: saves what is unsaved, if that is done automatically, with the cache if wished.
    pub fn save_at_end(&mut self) -> anyhow::Result<()> {
        if self.saving.automatic && self.saving.unsaved {
            self.save_now(self.saving.with_cache)?;
        }
        let Some(writing) = self.saving.writing.take() else { return Ok(()) };
        if self.terminal && !writing.thread.is_finished() {
            self.out.note("[saving the cache]")?;
        }
        Ok(writing.finish()?)
    }

    /// Takes up what was saved, except for what the command line gave. What of it cannot be had is said; the conversation
    /// always can.
    ///
    /// # Errors
    /// When the file's tokens or cache are not what they should be.
    pub fn take_up(&mut self, name: String, opened: Opened) -> anyhow::Result<()> {
        let saved = opened.saved.clone();
        let model = self.session.engine().model();
        let same_model = saved.model.fingerprint == fingerprint(model.gguf());
        let n_vocab = model.tokenizer().n_vocab();
        let mut branches = saved.branches;
        if !same_model {
            branches.forget_ids();
        } else if let Some(id) = branches.ids().find(|&id| id as usize >= n_vocab) {
            return Err(Error::bad_file("the session has a token that the model has not")
                .expected_got(format!("ids below {n_vocab}"), id)
                .into());
        }
        let mut problems = Vec::new();
        if !same_model {
            let made_by = saved.model.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            problems.push(format!(
                "the session was held with another model ({}): it is read anew",
                safe(&made_by)
            ));
        }
        if !self.given.has("lora") {
            match lora::restored(self, &saved.stack) {
                Ok(mut stack) => {
                    stack.set_on(saved.stack_on);
                    self.session.set_stack(stack);
                }
                Err(error) => problems.push(format!("its adapters are not applied: {error}")),
            }
        }
        if let Err(error) = self.take_up_template(saved.template, same_model, &mut problems) {
            problems.push(format!("its chat template is not used: {error}"));
        }
        // What was said until now is left: its length does not matter to the new context.
        let before = std::mem::take(&mut self.branches);
        self.unsent = None;
        for (name, value) in &saved.settings {
            if !self.given.has(name)
                && let Err(error) = settings::set_one(self, name, value)
            {
                problems.push(format!("a setting is left as it is: {error}"));
            }
        }
        if same_model && let Err(error) = opened.restore(&mut self.session) {
            problems.push(format!("it is read anew: {error}"));
        }
        self.branches = branches;
        if self.given.has("system") {
            let system = before.conversation().system().map(str::to_owned);
            self.branches.conversation_mut().set_system(system);
        }
        self.attached = saved.attached;
        self.saving.name = Some(name);
        self.saving.unsaved = false;
        problems.iter().try_for_each(|problem| self.out.problem(problem))?;
        Ok(())
    }

    /// Uses the template of a session, as far as the command line gave none, with a word on what became of its file.
    fn take_up_template(
        &mut self,
        mut saved: SavedTemplate,
        same_model: bool,
        problems: &mut Vec<String>,
    ) -> Result<()> {
        if self.given.has("chat-template-file") {
            saved.file.clone_from(&self.chosen.file);
        } else if let Some((path, text)) = &saved.file {
            let became = match load::template_text(path) {
                _ if !same_model => "was for that model: it is not used",
                Ok(now) if now == *text => "",
                Ok(_) => "has changed since: the one that was saved is used",
                Err(_) => "cannot be read any more: the one that was saved is used",
            };
            if !became.is_empty() {
                problems.push(format!("the chat template {} {became}", safe(&path.to_string_lossy())));
            }
            saved.file = saved.file.filter(|_| same_model);
        }
        if self.given.has("chat-template-kwargs") {
            saved.variables.clone_from(&self.chosen.variables);
        }
        if saved != self.chosen {
            self.template = load::template(self.session.engine(), &saved, &self.ui)?;
            self.chosen = saved;
        }
        Ok(())
    }

    /// What was taken up, for people.
    pub fn taken_up(&self) -> String {
        let turns = self.branches.conversation().turns();
        let said = turns.iter().rfind(|turn| turn.role == Role::User).map(|turn| first_words(&turn.text));
        let said = said.map_or(String::new(), |said| format!(", the last message is \"{said}\""));
        let name = self.saving.name.as_deref().unwrap_or_default();
        format!("You are back in {name}: {}{said}. /history shows all.", count(turns.len(), "turn"))
    }
}

/// A name made of the time that no session has.
fn new_name() -> Result<String> {
    let now = jiff::Zoned::now().strftime("%Y-%m-%d-%H%M").to_string();
    let mut names = std::iter::once(now.clone()).chain((2..).map(|n| format!("{now}-{n}")));
    loop {
        let name = names.next().unwrap_or_default();
        if !path(&name)?.exists() {
            return Ok(name);
        }
    }
}

fn save(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    if !name.is_empty() && chat.saving.name.as_deref() != Some(name) {
        if path(name)?.exists()
            && !chat.ask(&format!("There is a session named {name}. Replace it? [y/N] "), "y")?
        {
            return Err(Error::new(Class::Usage, format!("there is a session named {name} already"))
                .advice("/save OTHER-NAME, or /load it")
                .into());
        }
        chat.saving.name = Some(name.to_owned());
    }
    chat.save_now(chat.saving.with_cache)?;
    let name = chat.saving.name.clone().unwrap_or_default();
    let bytes = std::fs::metadata(path(&name)?).map_or(0, |meta| meta.len());
    let cache = if chat.saving.with_cache { " with its cache" } else { "" };
    let text = format!("Saved as {name}{cache} ({}); lapwing chat --resume {name} takes it up.", size(bytes));
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}

fn load(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    let (name, opened) = open(name)?;
    if chat.saving.unsaved
        && chat.terminal
        && !chat.ask("This conversation is not saved. Leave it? [y/N] ", "y")?
    {
        return Ok(Next::Prompt);
    }
    chat.take_up(name, opened)?;
    let text = chat.taken_up();
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}

fn list(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let all = all();
    let width = all.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, changed) in &all {
        let when =
            jiff::Timestamp::try_from(*changed).map(|time| time.to_zoned(jiff::tz::TimeZone::system()));
        let when = when.map_or(String::new(), |time| time.strftime("%Y-%m-%d %H:%M").to_string());
        let here = if chat.saving.name.as_ref() == Some(name) { "*" } else { " " };
        let what = match path(name).and_then(|path| Opened::open(&path)) {
            Ok(opened) => {
                let saved = opened.saved;
                let turns = saved.branches.conversation().turns();
                let said = turns.iter().rfind(|turn| turn.role == Role::User);
                let model = saved.model.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let cache = if saved.cache.is_some() { ", cache" } else { "" };
                let said = said.map_or(String::new(), |turn| format!(": \"{}\"", first_words(&turn.text)));
                format!("{}{cache}, {}{said}", count(turns.len(), "turn"), safe(&model))
            }
            Err(error) => safe(&error.message).into_owned(),
        };
        text += &format!("{here} {name:width$}  {when}  {what}\n");
    }
    if all.is_empty() {
        text += "No session is saved; /save NAME saves this one.\n";
    } else {
        let folder = session_folder()?;
        text += &format!("They are files in {}; /sessions rm deletes one.", safe(&folder.to_string_lossy()));
    }
    chat.out.note(text.trim_end())?;
    Ok(Next::Prompt)
}

fn remove(chat: &mut Chat, name: &str) -> anyhow::Result<Next> {
    let path = existing(name)?;
    if chat.terminal && !chat.ask(&format!("Delete the session {name} for good? [y/N] "), "y")? {
        chat.out.note("It stays.")?;
        return Ok(Next::Prompt);
    }
    std::fs::remove_file(&path).map_err(|error| Error::io("delete", &path, &error))?;
    if chat.saving.name.as_deref() == Some(name) {
        chat.saving.name = None;
        chat.saving.unsaved = !chat.branches.conversation().turns().is_empty();
    }
    chat.out.note(&format!("{name} is deleted."))?;
    Ok(Next::Prompt)
}
