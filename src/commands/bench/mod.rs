//! `lapwing bench`: tokens per second, with llama-bench's options, tests and keys.
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use lapwing::cost::bytes_per_token;
use lapwing::engine::{parse_isa, team};
use lapwing::sampler::Rng;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::kv::{BLOCK, KvShape};
use lapwing_kernels::probe::{f32_peak, int8_peak};
use lapwing_kernels::team::Team;
use lapwing_models::decoder::{MAX_BATCH, Want, Workspace, forward};
use lapwing_models::gguf::OpenOptions;
use lapwing_models::kv_cache::{KvCache, KvType};
use lapwing_models::lora::Stack;
use lapwing_models::model::Model;
use lapwing_models::os;

use super::config::Config;
use super::cpu::measure_bandwidth;
use super::{ModelOptions, Output, Ui, find, load};

mod range;
mod report;

use range::Numbers;
use report::{Report, Row};

/// Measures tokens per second. Lists `1,2,4` and ranges `1-8`, `1-8+2`, `1-8*2` give one row for each combination.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model files, or names of models in the model folders (default: the model that ./quickstart fetches)
    models: Vec<PathBuf>,
    /// Another model (as in llama-bench)
    #[arg(short, long = "model", value_name = "MODEL")]
    more_models: Vec<PathBuf>,
    /// Model of random weights, made in memory, such as llama-7b:q4_0 (repeatable)
    #[arg(long, value_name = "SHAPE:TYPE")]
    synthetic: Vec<String>,
    /// LoRA adapter to apply, with its scale (repeatable): each test is run without, with the first, with the first
    /// two … in turn, and the cost of each stack against none is shown
    #[arg(long, value_name = "PATH[=SCALE]")]
    lora: Vec<String>,
    /// Tokens of prompt to read; 0 is no such test
    #[arg(short = 'p', long, value_name = "N", default_value = "512")]
    n_prompt: Numbers,
    /// Tokens to generate; 0 is no such test
    #[arg(short = 'n', long, value_name = "N", default_value = "128")]
    n_gen: Numbers,
    /// Test of reading P tokens, then generating G (repeatable)
    #[arg(long = "pg", value_name = "P,G", value_parser = prompt_gen)]
    prompt_gen: Vec<(usize, usize)>,
    /// Tokens in the cache before a test
    #[arg(short = 'd', long, value_name = "N", default_value = "0")]
    n_depth: Numbers,
    /// Tokens evaluated together at most
    #[arg(short = 'b', long, visible_alias = "ubatch-size", value_name = "N", default_value = "512")]
    batch_size: Numbers,
    /// Threads (default: what this process may really use)
    #[arg(short, long, value_name = "N")]
    threads: Option<Numbers>,
    /// Runs of each test
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Seconds to wait before each test
    #[arg(long, value_name = "S", default_value_t = 0)]
    delay: u64,
    /// Leave out the run before the measured ones
    #[arg(long)]
    no_warmup: bool,
    /// Leave out measuring the limits of the machine
    #[arg(long)]
    no_limits: bool,
    /// Types of the cache (default: f16)
    #[arg(long, value_name = "TYPE", value_delimiter = ',')]
    kv_type: Vec<String>,
    /// Instruction sets (default: the best one)
    #[arg(long, value_name = "NAME", env = "LAPWING_ISA", value_delimiter = ',')]
    isa: Vec<String>,
    /// Read the weights into memory instead of mapping the file
    #[arg(long)]
    no_mmap: bool,
}

fn prompt_gen(text: &str) -> Result<(usize, usize), String> {
    match text.parse::<Numbers>()?.0.as_slice() {
        &[prompt, generated] => Ok((prompt, generated)),
        _ => Err("expected two numbers: P,G".to_owned()),
    }
}

/// One combination of options to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    n_depth: usize,
    batch: usize,
    kv: KvType,
}

/// Runs the command.
pub fn run(args: Args, ui: &Ui) -> anyhow::Result<()> {
    let files = args.models.iter().chain(&args.more_models).cloned().map(Source::File);
    let mut sources: Vec<_> = files.chain(args.synthetic.iter().cloned().map(Source::Synthetic)).collect();
    if sources.is_empty() {
        let usual = Config::get()?.model.clone().map(PathBuf::from);
        sources.push(Source::File(usual.map_or_else(find::default_model, Ok)?));
    }
    let sources: Vec<_> = sources
        .into_iter()
        .map(|source| Ok((source.options(&args)?, source)))
        .collect::<lapwing_models::Result<_>>()?;
    let isas = match args.isa.as_slice() {
        [] => vec![Isa::best()],
        names => names.iter().map(|name| parse_isa(name)).collect::<Result<_, _>>()?,
    };
    let lora = sources.iter().any(|(options, _)| !options.lora.is_empty());
    let mut report = Report::new(std::io::stdout().lock(), ui.output.unwrap_or(Output::Md), lora);
    for (options, source) in &sources {
        let kvs = match args.kv_type.as_slice() {
            [] => vec![options.session()?.kv_type],
            names => names.iter().map(|name| load::kv_type(name)).collect::<Result<_, _>>()?,
        };
        let tests = tests(&args, &kvs);
        let usual = || Numbers(vec![options.threads.map_or_else(os::default_threads, usize::from)]);
        let threads = args.threads.clone().unwrap_or_else(usual);
        let model = source.open(&args, ui)?;
        for &isa in &isas {
            for &threads in &threads.0 {
                let team = team(threads, isa)?;
                let mut limits = Limits::default();
                let stacks = stacks(&model, &team, &options.lora)?;
                for test in &tests {
                    std::thread::sleep(Duration::from_secs(args.delay));
                    if !args.no_limits {
                        ui.notice("measuring the limits of this machine …");
                        limits.measure(&team, &model)?;
                    }
                    let base = describe(&model, &team, test, !args.no_mmap);
                    ui.notice(&format!("{}: {}, {threads} threads …", base.model_type, base.test()));
                    let samples = measure(&model, &team, &stacks, test, &args)?;
                    for (n, (stack, of_stack)) in stacks.iter().zip(&samples).enumerate() {
                        let mut row = Row { lora: options.lora[..n].to_vec(), ..base.clone() };
                        row.bytes_per_token += stack.bytes_per_token() as u64;
                        row.lora_cost_pct = (n > 0).then(|| report::cost_pct(&samples[0], of_stack));
                        row.set_samples(of_stack.clone(), test.n_prompt + test.n_gen);
                        (row.peak_read_gb_s, row.peak_gops) = (limits.read_gb_s, limits.gops);
                        row.set_limits(cache_bytes(&model, test));
                        report.row(&row)?;
                    }
                }
            }
        }
    }
    report.finish()
}

/// Where a model comes from.
enum Source {
    File(PathBuf),
    Synthetic(String),
}

impl Source {
    /// What the settings file says of it, for what may be listed here as well, and the adapters.
    fn options(&self, args: &Args) -> lapwing_models::Result<ModelOptions> {
        let options = ModelOptions { lora: args.lora.clone(), ..ModelOptions::default() };
        match self {
            Self::File(name) => options.or_config(Config::get()?.named(name)),
            // Adapters are made for a model.
            Self::Synthetic(_) => Ok(ModelOptions { lora: args.lora.clone(), ..options.or_config(None)? }),
        }
    }

    fn open(&self, args: &Args, ui: &Ui) -> lapwing_models::Result<Model> {
        match self {
            Self::File(name) => {
                let options = OpenOptions { mmap: !args.no_mmap, ..OpenOptions::default() };
                Model::open(find::model(name)?, &options)
            }
            Self::Synthetic(name) => {
                ui.notice(&format!("making {name} …"));
                lapwing::synthetic::model(name, 0, os::default_threads())
            }
        }
    }
}

/// What the machine can do at most, measured beside what is compared with it.
#[derive(Default)]
struct Limits {
    read_gb_s: Option<f64>,
    gops: Option<f64>,
}

impl Limits {
    /// Measures once more; the highest of all measurements counts.
    fn measure(&mut self, team: &Team, model: &Model) -> anyhow::Result<()> {
        let read = measure_bandwidth(team.threads())?.map(|bytes| bytes / 1e9);
        self.read_gb_s = [self.read_gb_s, read].into_iter().flatten().reduce(f64::max);
        let params = |quantised: bool| {
            let tensors = model.gguf().tensors().filter(|t| t.ty.is_quantised() == quantised);
            tensors.map(|t| t.len()).sum::<usize>()
        };
        let gops = if params(true) > params(false) { int8_peak(team) } else { f32_peak(team) } / 1e9;
        self.gops = Some(self.gops.map_or(gops, |before| before.max(gops)));
        Ok(())
    }
}

/// All combinations in llama-bench's order: reading, then generating, then both.
fn tests(args: &Args, kvs: &[KvType]) -> Vec<Test> {
    let prompts = args.n_prompt.0.iter().map(|&p| (p, 0));
    let gens = args.n_gen.0.iter().map(|&g| (0, g));
    let both = args.prompt_gen.iter().copied();
    let sizes: Vec<_> = prompts.chain(gens).chain(both).filter(|&(p, g)| p + g > 0).collect();
    let mut tests = Vec::new();
    for &kv in kvs {
        for &n_depth in &args.n_depth.0 {
            for &batch in &args.batch_size.0 {
                let batch = batch.clamp(1, MAX_BATCH);
                tests.extend(sizes.iter().map(|&(n_prompt, n_gen)| Test {
                    n_prompt,
                    n_gen,
                    n_depth,
                    batch,
                    kv,
                }));
            }
        }
    }
    tests
}

/// No adapter, the first, the first two, and so on to all.
fn stacks(model: &Model, team: &Team, named: &[String]) -> lapwing_models::Result<Vec<Stack>> {
    let all = load::stack(model, team, named)?;
    let first = |n: usize| {
        let mut stack = all.clone();
        all.entries()[n..].iter().try_for_each(|e| stack.remove(&e.name).map(drop))?;
        Ok(stack)
    };
    (0..=named.len()).map(first).collect()
}

/// Times of the runs of one test for each stack, in nanoseconds; the stacks take turns, so that they are comparable
/// also where the machine does not hold its speed. Choosing tokens is outside: they are random.
fn measure(
    model: &Model,
    team: &Team,
    stacks: &[Stack],
    test: &Test,
    args: &Args,
) -> anyhow::Result<Vec<Vec<u64>>> {
    let spec = model.spec();
    let mut cache = KvCache::new(spec, test.kv, test.n_depth + test.n_prompt + test.n_gen)?;
    let mut workspace = Workspace::new(model, test.batch)?;
    let mut rng = Rng::new(1);
    let mut token = || (rng.next_u64() % spec.vocab as u64) as u32;
    let read = |ws: &mut Workspace, cache: &mut KvCache, tokens: &[u32]| -> lapwing_models::Result<()> {
        let mut rest = tokens;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(test.batch));
            rest = later;
            let want = if rest.is_empty() { Want::Last } else { Want::None };
            forward(model, team, ws, cache, now, want)?;
        }
        Ok(())
    };
    let depth: Vec<u32> = (0..test.n_depth).map(|_| token()).collect();
    let prompt: Vec<u32> = (0..test.n_prompt).map(|_| token()).collect();
    let generated: Vec<u32> = (0..test.n_gen).map(|_| token()).collect();
    team.scope(|| {
        read(&mut workspace, &mut cache, &depth)?;
        let mut samples = vec![Vec::new(); stacks.len()];
        for round in 0..=args.repetitions {
            for (stack, samples) in stacks.iter().zip(&mut samples) {
                workspace.set_stack(stack);
                cache.truncate(test.n_depth);
                if round == 0 {
                    if !args.no_warmup {
                        read(&mut workspace, &mut cache, &prompt)?;
                        read(&mut workspace, &mut cache, &generated[..generated.len().min(1)])?;
                    }
                    continue;
                }
                let start = Instant::now();
                read(&mut workspace, &mut cache, &prompt)?;
                for id in &generated {
                    read(&mut workspace, &mut cache, std::slice::from_ref(id))?;
                }
                samples.push(start.elapsed().as_nanos() as u64);
            }
        }
        Ok(samples)
    })
}

/// Bytes of keys and values that one generated token reads, on average over the test.
fn cache_bytes(model: &Model, test: &Test) -> u64 {
    let spec = model.spec();
    let shape = KvShape { ty: test.kv, layers: 1, kv_heads: spec.kv_heads, dim: spec.head_dim };
    let block = shape.block_bytes().unwrap_or_default();
    let layer = |window: Option<usize>| {
        let seen =
            (0..test.n_gen).map(|i| (test.n_depth + test.n_prompt + i).min(window.unwrap_or(usize::MAX)));
        seen.sum::<usize>() / test.n_gen.max(1)
    };
    let positions: usize = spec.layers.iter().map(|l| layer(l.window)).sum();
    (positions * block / BLOCK) as u64
}

/// Weights that every token of a prompt is multiplied with: what follows the keys and values of the last layer is computed
/// for the last token alone.
fn prompt_params(model: &Model) -> u64 {
    let layers = &model.weights().layers;
    let mut linears = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        linears.extend([&layer.q, &layer.k, &layer.v]);
        if i + 1 < layers.len() {
            linears.extend([&layer.o, &layer.gate, &layer.up, &layer.down]);
        }
    }
    linears.into_iter().map(|linear| model.matrix(linear)).map(|w| (w.rows() * w.cols()) as u64).sum()
}

/// A row with everything but its measurements.
fn describe(model: &Model, team: &Team, test: &Test, mmap: bool) -> Row {
    let gguf = model.gguf();
    let (mut size, mut params) = (0u64, 0u64);
    for tensor in gguf.tensors() {
        size += tensor.data.len() as u64;
        params += tensor.len() as u64;
    }
    Row {
        model_filename: gguf.path().display().to_string(),
        model_type: load::model_type(model),
        model_size: size,
        model_n_params: params,
        cpu_info: os::cpu_name().unwrap_or_default(),
        isa: team.isa().to_string(),
        n_threads: team.threads(),
        n_batch: test.batch,
        type_k: test.kv.to_string(),
        type_v: test.kv.to_string(),
        lora: Vec::new(),
        use_mmap: mmap,
        n_prompt: test.n_prompt,
        n_gen: test.n_gen,
        n_depth: test.n_depth,
        test_time: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        bytes_per_token: bytes_per_token(gguf),
        used_params: prompt_params(model),
        ..Row::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_prompt_leaves_out_what_one_token_alone_meets() {
        let model = lapwing::synthetic::model("tiny-llama:q4_0", 0, 1).unwrap();
        let layers = model.spec().layers.len();
        let params = |layer: usize, names: &[&str]| {
            let tensors = names.iter().map(|name| model.gguf().tensor(&format!("blk.{layer}.{name}.weight")));
            tensors.map(|tensor| tensor.unwrap().len() as u64).sum::<u64>()
        };
        let met = |layer| params(layer, &["attn_q", "attn_k", "attn_v"]);
        let alone = |layer| params(layer, &["attn_output", "ffn_gate", "ffn_up", "ffn_down"]);
        let expected = (0..layers).map(met).sum::<u64>() + (0..layers - 1).map(alone).sum::<u64>();
        assert!(alone(layers - 1) > 0);
        assert_eq!(prompt_params(&model), expected);
    }
}
