//! `lapwing run`: one answer to stdout.
use std::io::{IsTerminal, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use lapwing::conversation::Conversation;
use lapwing::engine::Engine;
use lapwing::sampler::Chain;
use lapwing::session::{Answer, Limits, Session, Stop};
use lapwing::text::safe;
use lapwing::thinking::{Part, Thinking};
use lapwing_models::chat_template::ChatTemplate;
use lapwing_models::tokenizer::Tokenizer;
use lapwing_models::{Class, Error};
use serde_json::{Value, json};

use super::config::Config;
use super::interrupt::Interrupt;
use super::{AnswerOptions, ModelArg, ModelOptions, SamplerOptions, TemplateOptions, Ui, load, progress, ui};

/// Prints one answer to stdout, and nothing else there.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    model: ModelArg,
    /// The prompt (otherwise -f, otherwise what comes from stdin)
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// File with the prompt; a last line end is not part of it
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Instructions to the model, before the prompt
    #[arg(long, value_name = "TEXT", overrides_with = "system", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// With -o json: the log-probabilities of the N most likely tokens at each step
    #[arg(long, value_name = "N", default_value_t = 0)]
    logprobs: usize,
    #[command(flatten)]
    template: TemplateOptions,
    #[command(flatten)]
    answer: AnswerOptions,
    #[command(flatten)]
    options: ModelOptions,
    #[command(flatten)]
    sampling: SamplerOptions,
}

/// Runs the command.
pub fn run(mut args: Args, ui: &Ui) -> anyhow::Result<()> {
    let interrupt = Interrupt::install()?;
    let prompt = prompt_text(args.prompt.as_deref(), args.file.as_deref())?;
    let named = Config::get()?.named(&args.model.model);
    args.options = args.options.or_config(named)?;
    args.sampling = args.sampling.or_config(named)?;
    let file = args.model.file()?;
    let form = args.answer.compile()?;
    let engine = load::engine(&file, &args.options)?;
    let mut session = load::session(&engine, &args.options, ui)?;
    let settings = load::settings(&engine, &args.sampling, ui)?;
    let mut chain = Chain::new(&settings, engine.model().tokenizer());

    let ids = prompt_ids(&engine, &args, &prompt, ui)?;
    let limits = args.answer.limits(&engine, form, args.sampling.predict)?;
    let limits = Limits { logprobs: args.logprobs, ..limits };
    let cancel = interrupt.into_cancel();
    progress::eval(&mut session, &ids, &cancel, ui, "reading the prompt")?;

    // A pipe gets the answer as the model writes it; a person sees thoughts dimmed.
    let thinking = ui::colours().then(|| Thinking::after(&ids, engine.model().tokenizer()));
    let mut printer = Printer { thinking, thought: false, ends_line: true };
    let mut written = Ok(());
    let answer = session.generate(&mut chain, &limits, &cancel, &mut |piece| {
        if !ui.json() {
            written = printer.print(piece.text, piece.id.is_none());
        }
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    let mut stdout = std::io::stdout().lock();
    if ui.json() {
        writeln!(stdout, "{}", ui::json_text(&report(&session, &answer, chain.seed())))?;
    } else if !printer.ends_line {
        writeln!(stdout)?;
    }
    stdout.flush()?;
    if ui.verbose {
        eprintln!("{}", ui::speed_line(session.stats()));
    }
    match answer.stop {
        Stop::Cancelled => Err(Error::new(Class::Interrupted, "interrupted").into()),
        Stop::Context if !ui.quiet && !ui.json() => {
            let context = session.context();
            eprintln!("lapwing: the context of {context} tokens is full: the answer is cut (see --ctx-size)");
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Writes an answer to stdout as it comes.
struct Printer {
    /// Tells thoughts from the answer, where they are to be dimmed.
    thinking: Option<Thinking>,
    /// Whether the last text was a thought.
    thought: bool,
    /// Whether it ended its line.
    ends_line: bool,
}

impl Printer {
    /// Prints the next piece; after the `last` one nothing is held back.
    fn print(&mut self, piece: &str, last: bool) -> std::io::Result<()> {
        let parts = match &mut self.thinking {
            Some(thinking) => {
                let mut parts = thinking.push(piece);
                parts.extend(last.then(|| thinking.finish()).into_iter().flatten());
                parts
            }
            None => vec![(Part::Answer, piece.to_owned())],
        };
        let mut stdout = std::io::stdout().lock();
        for (part, text) in parts.into_iter().filter(|(_, text)| !text.is_empty()) {
            let was_thought = std::mem::replace(&mut self.thought, part == Part::Thought);
            if was_thought && !self.thought {
                stdout.write_all(if self.ends_line { b"\n" } else { b"\n\n" })?;
            }
            self.ends_line = text.ends_with('\n');
            let text = safe(&text);
            if self.thought { write!(stdout, "\x1b[2m{text}\x1b[0m")? } else { write!(stdout, "{text}")? }
        }
        stdout.flush()
    }
}

/// The prompt's text, from where it was given.
fn prompt_text(prompt: Option<&str>, file: Option<&Path>) -> anyhow::Result<String> {
    if let Some(prompt) = prompt {
        return Ok(prompt.to_owned());
    }
    let (name, bytes) = match file {
        Some(file) if file != Path::new("-") => {
            (file, std::fs::read(file).map_err(|error| Error::io("read the prompt", file, &error))?)
        }
        from => {
            let mut stdin = std::io::stdin().lock();
            if from.is_none() && stdin.is_terminal() {
                return Err(Error::new(Class::Usage, "no prompt")
                    .advice("give one with -p or -f, or through a pipe; or use: lapwing chat")
                    .into());
            }
            let mut bytes = Vec::new();
            let stdin_name = Path::new("stdin");
            stdin
                .read_to_end(&mut bytes)
                .map_err(|error| Error::io("read the prompt", stdin_name, &error))?;
            (stdin_name, bytes)
        }
    };
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = format!("byte {}", error.utf8_error().valid_up_to());
        Error::bad_file("the prompt is not UTF-8 text").in_file(name).at(at)
    })?;
    // Editors and `echo` end the last line; that is not part of what was meant.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

/// The prompt's tokens: through the chat template, or as it is.
fn prompt_ids(engine: &Engine, args: &Args, prompt: &str, ui: &Ui) -> anyhow::Result<Vec<u32>> {
    let tokenizer = engine.model().tokenizer();
    if args.raw {
        let mut ids: Vec<u32> = tokenizer.bos().filter(|_| tokenizer.add_bos()).into_iter().collect();
        ids.extend(tokenizer.encode(prompt, false));
        return Ok(ids);
    }
    let template: ChatTemplate = load::template(engine, &args.template.clone().chosen()?, ui)?;
    let mut conversation = Conversation::default();
    conversation.set_system(args.system.clone());
    conversation.say(prompt);
    Ok(conversation.prompt(&template, tokenizer)?)
}

/// The answer as JSON.
fn report(session: &Session, answer: &Answer, seed: u64) -> Value {
    let stats = session.stats();
    let tokenizer = session.engine().model().tokenizer();
    let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let mut value = json!({
        "text": answer.text,
        "tokens": answer.ids,
        "n_prompt": stats.n_prompt,
        "n_cached": stats.n_cached,
        "n_eval": stats.n_eval,
        "n_gen": stats.n_gen,
        "stop": answer.stop.name(),
        "seed": seed,
        "timings": {
            "load": ms(session.engine().load_time()),
            "prefill": ms(stats.prefill),
            "decode": ms(stats.decode),
            "first_token": ms(stats.first_token),
        },
    });
    if stats.n_guessed > 0 {
        value["n_guessed"] = stats.n_guessed.into();
        value["n_guessed_right"] = stats.n_guessed_right.into();
    }
    if !answer.logprobs.is_empty() {
        let one = |logprob: &lapwing::logprobs::Logprob| {
            let text = piece_text(tokenizer, logprob.id);
            json!({ "id": logprob.id, "text": text, "logprob": logprob.logprob })
        };
        let tokens = answer.logprobs.iter().map(|token| {
            let mut value = one(&token.chosen);
            value["top"] = token.top.iter().map(one).collect();
            value
        });
        value["logprobs"] = tokens.collect();
    }
    value
}

/// What a token stands for; parts of characters as U+FFFD.
fn piece_text(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned()
}
