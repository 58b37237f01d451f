//! Commands that show what is going on.
use lapwing::conversation::Role;
use lapwing::sampler::Settings;
use lapwing::text::safe;

use super::slash::{Complete, Next, Slash};
use super::{Chat, count, settings};
use crate::commands::load::model_type;

/// The commands of this theme.
pub static COMMANDS: &[Slash] = &[
    Slash {
        name: "show",
        args: "",
        help: "model, template, samplers, adapters, memory",
        complete: Complete::No,
        run: show,
    },
    Slash {
        name: "context",
        args: "",
        help: "how full the context is, and of what",
        complete: Complete::No,
        run: context,
    },
    Slash {
        name: "stats",
        args: "",
        help: "tokens and speed of the last answer",
        complete: Complete::No,
        run: stats,
    },
];

/// A line of `/show`: what it is about, and what it says.
type Line = (&'static str, fn(&Chat) -> String);

/// All lines of `/show`.
static SHOWN: &[Line] = &[
    ("model", |chat| {
        let model = chat.session.engine().model();
        format!("{} ({})", model.gguf().path().display(), model_type(model))
    }),
    ("template", |chat| match (&chat.chosen.file, chat.template.fallback()) {
        (Some((file, _)), _) => format!("the one in {}", file.display()),
        (None, Some(why)) => format!("ChatML: {why}"),
        (None, None) => "the model's own".to_owned(),
    }),
    ("computing", |chat| {
        let team = chat.session.engine().team();
        format!("{}, {}", count(team.threads(), "thread"), team.isa())
    }),
    ("samplers", |chat| {
        let usual = Settings::default();
        let changed = chat.settings.iter().filter(|(param, value)| usual.get(param.name) != Some(value));
        let changed: Vec<_> =
            changed.map(|(param, value)| format!("{} {}", param.name, settings::typed(value))).collect();
        let changed = if changed.is_empty() { "the defaults".to_owned() } else { changed.join(", ") };
        format!("{changed}; the seed is {}", chat.chain.seed())
    }),
    ("adapters", |chat| match chat.session.stack().entries() {
        [] => "none".to_owned(),
        entries => entries.iter().map(|e| format!("{} × {}", e.name, e.scale)).collect::<Vec<_>>().join(", "),
    }),
    ("memory", Chat::memory),
    ("context", |chat| format!("{} of {} used", chat.used_tokens(), count(chat.session.context(), "token"))),
    ("limits", |chat| {
        let values =
            settings::SETTINGS.iter().map(|setting| format!("{} {}", setting.name, (setting.get)(chat)));
        values.collect::<Vec<_>>().join(", ")
    }),
];

fn show(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let width = SHOWN.iter().map(|(about, _)| about.len()).max().unwrap_or_default();
    let line = |&(about, say): &Line| format!("{about:width$}  {}", safe(&say(chat)));
    let text: Vec<_> = SHOWN.iter().map(line).collect();
    chat.out.note(&text.join("\n"))?;
    Ok(Next::Prompt)
}

/// Columns of the meter: any terminal has more.
const METER: usize = 30;

fn context(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let tokenizer = chat.session.engine().model().tokenizer();
    let (used, context) = (chat.used_tokens(), chat.session.context());
    let said = |role: Role| -> usize {
        let turns = chat.branches.conversation().turns().iter().filter(|turn| turn.role == role);
        turns
            .map(|turn| turn.ids.as_ref().map_or_else(|| tokenizer.encode(&turn.text, false).len(), Vec::len))
            .sum()
    };
    let parts = [("system", said(Role::System)), ("you", said(Role::User)), ("model", said(Role::Assistant))];
    let markup = used.saturating_sub(parts.iter().map(|(_, n)| n).sum());
    let percent = |n: usize| n * 100 / context;
    let filled = (used * METER).div_ceil(context).min(METER);
    let mut text = format!(
        "[{}{}] {}%\n{used} of {} used, {} left",
        "#".repeat(filled),
        ".".repeat(METER - filled),
        percent(used),
        count(context, "token"),
        context.saturating_sub(used)
    );
    for (who, n) in parts.iter().chain(&[("template", markup)]).filter(|(_, n)| *n > 0) {
        text += &format!("\n{who:8}  {n:>7}  {:>3}%", percent(*n));
    }
    if !chat.attached.is_empty() {
        let n = tokenizer.encode(&chat.attached, false).len();
        text += &format!("\n{} wait for your next message (/read)", count(n, "token"));
    }
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}

fn stats(chat: &mut Chat, _: &str) -> anyhow::Result<Next> {
    let stats = chat.session.stats();
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let text = format!(
        "prompt      {} tokens: {} from the cache, {} read in {:.2} s ({:.1}/s)\n\
         answer      {} tokens in {:.2} s ({:.1}/s), the first after {:.2} s\n\
         context     {} of {} tokens used\n\
         load        {:.2} s",
        stats.n_prompt,
        stats.n_cached,
        stats.n_eval,
        seconds(stats.prefill),
        stats.prefill_speed(),
        stats.n_gen,
        seconds(stats.decode),
        stats.decode_speed(),
        seconds(stats.first_token),
        chat.session.tokens().len(),
        chat.session.context(),
        seconds(chat.session.engine().load_time()),
    );
    chat.out.note(&text)?;
    Ok(Next::Prompt)
}
