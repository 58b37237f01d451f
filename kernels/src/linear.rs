//! Matrix products of quantised or float weights with activations.
use crate::activation::{self, Activation, Gated};
use crate::acts::{Acts, MATVEC_TOKENS, Row, Source};
use crate::ahead::{Ahead, READ, prefetch};
use crate::isa::Isa;
use crate::linear_float::float_rows;
use crate::low_rank::{Apply, LowRankSum};
use crate::matrix::Matrix;
use crate::matvec::matvec;
use crate::out::{Out, PutTile};
use crate::outlier::add_outliers;
use crate::panel::matmul;
use crate::team::{Place, Scratch, SharedMut, Team, Worker, pause};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an argument x is multiplied with: `y[r] = Σ w[r]·x + bias[r]`.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    /// The matrix.
    pub w: Matrix<'a>,
    /// One value per row.
    pub bias: Option<&'a [f32]>,
    /// Low-rank deltas on the matrix.
    pub low_rank: LowRankSum<'a>,
}

impl<'a> From<Matrix<'a>> for Weights<'a> {
    /// A matrix alone.
    fn from(w: Matrix<'a>) -> Self {
        Weights { w, bias: None, low_rank: LowRankSum::default() }
    }
}

impl Weights<'_> {
    /// # Panics
    /// When they do not fit rows of `cols` values.
    fn check(&self, cols: usize) {
        let rows = self.w.rows();
        assert_eq!(self.w.cols(), cols, "columns of weights and argument");
        assert!(self.bias.is_none_or(|b| b.len() == rows), "one bias per row");
        let LowRankSum { deltas, first_row } = self.low_rank;
        for d in deltas {
            let fits = first_row.is_multiple_of(UNIT) && first_row + rows <= d.factors.rows();
            assert!(fits && d.factors.cols() == cols, "a delta has the shape of its weights");
            assert!(d.gain.as_ref().is_none_or(|g| g.len() == d.factors.rows()), "one gain per row");
        }
    }
}

/// One product of [`linear`].
pub struct Product<'a> {
    /// What the argument is multiplied with.
    pub weights: Weights<'a>,
    /// `[tokens][out_stride]`, of which the first `weights.w.rows()` of a row are written.
    pub out: &'a mut [f32],
    /// Values from one token's output to the next, at least as many as rows.
    pub out_stride: usize,
    /// Add to `out` (a residual) in place of overwriting it.
    pub add: bool,
}

impl Product<'_> {
    /// # Panics
    /// When the product does not fit `n` rows of `cols` values.
    fn check(&self, n: usize, cols: usize) {
        self.weights.check(cols);
        let rows = self.weights.w.rows();
        assert!(self.out_stride >= rows && (n == 0 || self.out.len() >= (n - 1) * self.out_stride + rows));
    }
}

/// Rows are claimed by the threads in units of this many, so that no two threads write one cache line of
/// an aligned output.
const UNIT: usize = 32;

/// Units that a thread claims at least when there are many tokens, whose activations it fetches anew for each claim.
const LEAST_UNITS: u32 = 4;

/// Computes all products of the same argument in one phase of the team: q, k and v together, or gate and up. With
/// one token each thread norms and quantises it for itself, which takes less time than to wait for another.
///
/// The value of `out[t][r]` depends only on row r, token t and the instruction set: not on the number of
/// threads, on the other tokens, or on the other products.
///
/// `next` are the weights that the next call will read: near its end this one asks memory for the first of them.
///
/// # Panics
/// When shapes do not fit: every `w.cols()` must be that of the source, `out` must hold every token, and `acts`,
/// which lends memory, have room for the source.
pub fn linear(team: &Team, acts: &mut Acts, source: Source, products: &mut [Product], next: &[Matrix]) {
    let n = source.tokens();
    products.iter().for_each(|p| p.check(n, source.cols));
    if n == 0 {
        return;
    }
    let (mut units, mut count) = (0, 0);
    let mut jobs = Vec::with_capacity(products.len());
    for Product { weights, out, out_stride, add } in products {
        jobs.push((
            Job { weights: *weights, first_delta: count, first_unit: units },
            Out::new(out, *out_stride, weights.bias, *add),
        ));
        units += weights.w.rows().div_ceil(UNIT);
        count += weights.low_rank.deltas.len();
    }
    let weights = jobs.iter().map(|(job, _)| job.weights);
    share(team, acts, source, weights, units, next, |claim| {
        let Claim { units: mut claimed, end: mine, then, input, deltas, scratch, tile } = claim;
        // It may reach over several products.
        while let Some(i) = jobs.iter().rposition(|(job, _)| job.first_unit <= claimed.start) {
            let (job, out) = &jobs[i];
            let following = jobs.get(i + 1).map(|(job, _)| job);
            let end = following.map_or(units, |job| job.first_unit);
            let here = claimed.start..claimed.end.min(end);
            if here.is_empty() {
                break;
            }
            let ahead = Ahead {
                here: job.weights.w.part(&job.rows(&(here.start..mine))),
                next: match following {
                    Some(job) if mine > end => job.weights.w.part(&job.rows(&(end..mine))),
                    _ => then,
                },
            };
            job.run(input, job.rows(&here), deltas, [&mut *scratch, &mut *tile], ahead, out);
            claimed.start = here.end;
        }
    });
}

/// `out` = act(gate · x) · (up · x), `[n][rows]`, of two weights of as many rows, in one phase of the team.
///
/// # Panics
/// As [`linear`], and when the two differ in their rows, or `out` in its size.
pub fn gated_linear(
    team: &Team,
    acts: &mut Acts,
    source: Source,
    act: Activation,
    weights: [Weights; 2],
    out: &mut [f32],
    next: &[Matrix],
) {
    let (n, all_rows) = (source.tokens(), weights[0].w.rows());
    weights.iter().for_each(|weights| weights.check(source.cols));
    assert_eq!(weights[1].w.rows(), all_rows, "gate and up are alike");
    assert_eq!(out.len(), n * all_rows, "output of a gated product");
    if n == 0 {
        return;
    }
    let firsts = [0, weights[0].low_rank.deltas.len()];
    let jobs = [0, 1].map(|i| Job { weights: weights[i], first_delta: firsts[i], first_unit: 0 });
    let out = SharedMut::new(out);
    let units = all_rows.div_ceil(UNIT);
    // What both give stays in the cache until it becomes the output.
    let step = (TILE / n / UNIT).max(1);
    share(team, acts, source, weights.into_iter(), units, next, |claim| {
        let Claim { units: claimed, end: mine, then, input, deltas, scratch, tile } = claim;
        for unit in claimed.clone().step_by(step) {
            let units = unit..claimed.end.min(unit + step);
            let rows = jobs[0].rows(&units);
            let stride = rows.len().next_multiple_of(UNIT);
            let (gate, up) = tile.get::<f32>(2 * n * stride).split_at_mut(n * stride);
            for (i, values) in [&mut *gate, &mut *up].into_iter().enumerate() {
                let part = |i: usize, units: &Range<usize>| jobs[i].weights.w.part(&jobs[i].rows(units));
                let next = match i {
                    0 => part(1, &units),
                    _ if units.end < mine => part(0, &(units.end..mine)),
                    _ => then,
                };
                let ahead = Ahead { here: part(i, &units), next };
                let bias = weights[i].bias;
                jobs[i].tile(input, rows.clone(), bias, deltas, scratch, ahead, values, stride);
            }
            team.isa().dispatch_floats(Gated { act, gate, up, stride, out: &out, all_rows, rows });
        }
    });
}

/// What a thread has claimed of a call, and what it takes to compute it.
struct Claim<'a> {
    units: Range<usize>,
    /// Where what it will most likely go on with ends: the units of its own that are left.
    end: usize,
    /// What it reads after those.
    then: &'a [u8],
    input: &'a Input<'a>,
    deltas: &'a Deltas<'a>,
    scratch: &'a mut Scratch,
    tile: &'a mut Scratch,
}

/// The threads share the `units` of products with `weights`: each prepares the argument, does its part of the deltas'
/// first factors, and computes what it claims.
fn share<'a>(
    team: &Team,
    acts: &mut Acts,
    source: Source,
    weights: impl Iterator<Item = Weights<'a>> + Clone,
    units: usize,
    next: &[Matrix],
    compute: impl Fn(Claim) + Sync,
) {
    let n = source.tokens();
    if n > MATVEC_TOKENS {
        acts.set(team, source);
    }
    let acts = &*acts;
    let mut t = vec![0.0; n * t_len(weights.clone())];
    let deltas = &Deltas::new(weights.clone(), &mut t, n, team.threads());
    team.share(units, least_units(n), |worker| {
        let Worker { scratch, tile, input, idle, place, .. } = worker;
        deltas.ask(n, place);
        let input = &Input::new(team.isa(), source, acts, input);
        deltas.multiply(input, place, scratch);
        let (own, then) = (place.share(units), first_part(next, place));
        while let Some(units) = place.take() {
            let end = if own.contains(&units.start) { own.end } else { units.end };
            compute(Claim { units, end, then, input, deltas, scratch, tile });
        }
        idle.set(then);
    });
    for Weights { w, .. } in weights {
        // Keeps what the products were missing.
        if let Some(columns) = w.columns() {
            columns.keep_missing(team, &w);
        }
    }
}

/// Units that a thread claims at least of `n` tokens.
fn least_units(n: usize) -> u32 {
    if n > MATVEC_TOKENS { LEAST_UNITS } else { 1 }
}

/// Values of the products with A of all deltas, for each token.
fn t_len<'a>(weights: impl Iterator<Item = Weights<'a>>) -> usize {
    weights.flat_map(|weights| weights.low_rank.deltas).map(|d| d.factors.t_len()).sum()
}

/// What a thread reads first when the team shares all rows of `matrices`.
fn first_part<'a>(matrices: &[Matrix<'a>], place: Place) -> &'a [u8] {
    let units = |w: &Matrix| w.rows().div_ceil(UNIT);
    let mut mine = place.share(matrices.iter().map(units).sum());
    for w in matrices {
        let units = units(w);
        if mine.start < units {
            return w.part(&(mine.start * UNIT..(mine.end * UNIT).min(w.rows())));
        }
        mine = mine.start - units..mine.end - units;
    }
    &[]
}

/// The argument of all products of a call.
#[derive(Clone)]
struct Input<'a> {
    isa: Isa,
    n: usize,
    /// Those of the `n` to multiply with: whole tiles of the activations.
    tokens: Range<usize>,
    /// `[n][cols]`
    x: &'a [f32],
    quantised: Quants<'a>,
}

#[derive(Clone, Copy)]
enum Quants<'a> {
    One(Row<'a>),
    Many(&'a Acts),
}

impl<'a> Input<'a> {
    /// The argument as the calling thread reads it: what all prepared together, or, of one token, in its own `memory`.
    fn new(isa: Isa, source: Source<'a>, acts: &'a Acts, memory: &'a mut Scratch) -> Self {
        let n = source.tokens();
        if n > MATVEC_TOKENS {
            return Input { isa, n, tokens: 0..n, x: acts.values(source), quantised: Quants::Many(acts) };
        }
        let (x, row) = source.one(isa, memory);
        Input { isa, n, tokens: 0..1, x, quantised: Quants::One(row) }
    }

    /// Computes the rows `rows` of `w` for its tokens. With one token, weights are asked for `ahead`.
    fn multiply(&self, w: &Matrix, rows: Range<usize>, out: &Out, scratch: &mut Scratch, ahead: Ahead) {
        let (isa, tokens) = (self.isa, self.tokens.clone());
        if !w.ty().is_quantised() {
            return float_rows(isa, w, rows, (self.x, tokens), out, scratch, ahead);
        }
        match self.quantised {
            Quants::Many(acts) => matmul(isa, w, rows.clone(), (acts, tokens.clone()), out, scratch),
            Quants::One(row) => matvec(isa, w, rows.clone(), row, out, scratch, ahead),
        }
        let outliers = match &self.quantised {
            Quants::Many(acts) => acts.outliers(),
            Quants::One(row) => row.outlier.as_slice(),
        };
        add_outliers(isa, w, rows, (outliers, tokens), out);
    }
}

/// Bytes of the deltas' A that a thread asks for while their argument is still to be prepared.
const BEGINNING: usize = 16 << 10;

/// The products t = s·A·x of all deltas, which the threads compute before the rows that need them. There is
/// no barrier: a thread waits, if at all, when its first rows are done.
struct Deltas<'a> {
    /// A of every delta, in the order of the products, and its t, `[tokens][t_len]`.
    jobs: Vec<(Matrix<'a>, Out<'a>)>,
    /// Threads that have done their part, and how many there are.
    done: AtomicUsize,
    threads: usize,
}

impl<'a> Deltas<'a> {
    fn new<'w: 'a>(
        weights: impl Iterator<Item = Weights<'w>>,
        t: &'a mut [f32],
        n: usize,
        threads: usize,
    ) -> Self {
        let (mut jobs, mut rest) = (Vec::new(), t);
        for delta in weights.flat_map(|weights| weights.low_rank.deltas) {
            let stride = delta.factors.t_len();
            let (part, others) = rest.split_at_mut(n * stride);
            rest = others;
            let (out, factor) = (SharedMut::new(part), delta.scale);
            jobs.push((delta.factors.a(), Out { first_row: 0, out, stride, bias: None, add: false, factor }));
        }
        Self { jobs, done: AtomicUsize::new(0), threads }
    }

    /// What a thread computes of all t of one token: rows of some A, in fours, which share the loads of the argument.
    fn rows(&self, place: Place) -> impl Iterator<Item = (&(Matrix<'a>, Out<'a>), Range<usize>)> {
        let fours = |a: &Matrix| a.rows().div_ceil(4);
        let mine = place.share(self.jobs.iter().map(|(a, _)| fours(a)).sum());
        let mut first = 0;
        self.jobs.iter().map(move |job| {
            let a = &job.0;
            let row = |four: usize| (4 * four.saturating_sub(first)).min(a.rows());
            let rows = row(mine.start)..row(mine.end);
            first += fours(a);
            (job, rows)
        })
    }

    /// Asks memory for what this thread begins with, when the argument is still to be prepared.
    fn ask(&self, tokens: usize, place: Place) {
        if tokens == 1 {
            let mut left = BEGINNING;
            for ((a, _), rows) in self.rows(place) {
                let bytes = a.part(&rows);
                let count = bytes.len().min(left);
                prefetch::<READ>(bytes.as_ptr(), count);
                left -= count;
            }
        }
    }

    /// This thread's part of all t.
    fn multiply(&self, input: &Input, place: Place, scratch: &mut Scratch) {
        if self.jobs.is_empty() {
            return;
        }
        // Told also when this thread panics, or the others would wait for ever.
        let _done = Told(&self.done);
        match input.quantised {
            Quants::One(_) => {
                for ((a, out), rows) in self.rows(place).filter(|(_, rows)| !rows.is_empty()) {
                    let ahead = Ahead { here: a.part(&(rows.start..a.rows())), next: &[] };
                    input.multiply(a, rows, out, scratch, ahead);
                }
            }
            // Ranks are fewer than the rows of a panel: the tokens are shared.
            Quants::Many(acts) => {
                let tiles: Vec<_> = acts.tiles().collect();
                if let [first, .., last] | [first @ last] = &tiles[place.share(tiles.len())] {
                    let input = Input { tokens: first.start..last.end, ..input.clone() };
                    for (a, out) in &self.jobs {
                        input.multiply(a, 0..a.rows(), out, scratch, Ahead { here: &[], next: &[] });
                    }
                }
            }
        }
    }

    /// t of delta `i`, `[tokens][t_len]`, once every thread has done its part.
    fn t(&self, i: usize) -> &[f32] {
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) < self.threads {
            pause(&mut spins);
        }
        // SAFETY: all writes came before the counts that were acquired, and none come after.
        unsafe { self.jobs[i].1.out.all() }
    }
}

struct Told<'a>(&'a AtomicUsize);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// Values of a tile whose rows are finished together: 256 KiB, a part of the L2 cache.
const TILE: usize = 1 << 16;

/// A product while threads share it.
struct Job<'a> {
    weights: Weights<'a>,
    /// Index of the first of its deltas among all of a call.
    first_delta: usize,
    /// Likewise of its units.
    first_unit: usize,
}

impl Job<'_> {
    /// The rows in `units` of a call.
    fn rows(&self, units: &Range<usize>) -> Range<usize> {
        let row = |unit: usize| ((unit - self.first_unit) * UNIT).min(self.weights.w.rows());
        row(units.start)..row(units.end)
    }

    /// Computes the rows `rows` for all tokens, into their places in `out`.
    fn run(
        &self,
        input: &Input,
        rows: Range<usize>,
        deltas: &Deltas,
        [scratch, tile]: [&mut Scratch; 2],
        ahead: Ahead,
        out: &Out,
    ) {
        let Weights { w, low_rank, .. } = &self.weights;
        if low_rank.deltas.is_empty() {
            return input.multiply(w, rows, out, scratch, ahead);
        }
        let step = (TILE / input.n / UNIT * UNIT).clamp(UNIT, 8 * UNIT);
        for row in rows.clone().step_by(step) {
            let part = row..rows.end.min(row + step);
            let stride = part.len().next_multiple_of(UNIT);
            let tile = tile.get::<f32>(input.n * stride);
            let ahead = Ahead { here: &ahead.here[(row - rows.start) * w.row_bytes()..], ..ahead };
            self.tile(input, part.clone(), None, deltas, scratch, ahead, tile, stride);
            input.isa.dispatch_floats(PutTile { out, rows: part, tile, stride });
        }
    }

    /// Computes the rows `rows` with their deltas for all tokens, into `tile`, `[n][stride]`, of rows rounded up to
    /// units. A `bias` is added before outliers when there are no deltas, else at the end, behind their gains.
    #[allow(clippy::too_many_arguments)]
    fn tile(
        &self,
        input: &Input,
        rows: Range<usize>,
        bias: Option<&[f32]>,
        deltas: &Deltas,
        scratch: &mut Scratch,
        ahead: Ahead,
        tile: &mut [f32],
        stride: usize,
    ) {
        let Weights { w, low_rank, .. } = &self.weights;
        let plain = low_rank.deltas.is_empty();
        let out = Out {
            first_row: rows.start,
            out: SharedMut::new(tile),
            stride,
            bias: bias.filter(|_| plain),
            add: false,
            factor: 1.0,
        };
        if input.n == 1 {
            for delta in low_rank.deltas {
                let b = delta.factors.b_rows(low_rank.first_row + rows.start, rows.len());
                prefetch::<READ>(b.as_ptr(), b.len());
            }
        }
        input.multiply(w, rows.clone(), &out, scratch, ahead);
        if plain {
            return;
        }
        let t = |i| deltas.t(self.first_delta + i);
        let (row, count) = (rows.start, rows.len());
        input.isa.dispatch_floats(Apply { sum: *low_rank, t, row, rows: count, tile: &mut *tile, stride });
        if let Some(bias) = bias {
            for y in tile.chunks_exact_mut(stride) {
                activation::add(&mut y[..count], &bias[rows.clone()]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
