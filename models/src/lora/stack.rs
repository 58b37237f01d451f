//! A stack of adapters on one model: any number, each with a scale, in an order that does not matter.
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use lapwing_kernels::TensorType;
use lapwing_kernels::low_rank::{Factors, LowRank, LowRankSum};
use lapwing_kernels::team::Team;

use super::combine::transposed;
use super::dora::Dora;
use super::{Adapter, Delta};
use crate::error::{Class, Error, Result};
use crate::gguf::TensorId;
use crate::linear::Linear;
use crate::model::Model;

/// Type in which factors are kept in memory unless another is asked for.
pub const DEFAULT_FACTORS: TensorType = TensorType::Q8_0;

/// An adapter fitted to a model: its factors packed for the kernels, in the model's row order.
pub struct Fitted {
    /// The adapter as it is on disk.
    pub adapter: Adapter,
    /// Type of the packed factors.
    pub ty: TensorType,
    linear: HashMap<TensorId, Packed>,
    embedding: Option<Embedding>,
}

struct Packed {
    factors: Factors,
    scale: f32,
    dora: Option<Dora>,
}

/// The delta of the token embedding: rows of A are gathered, so there is no product with A.
struct Embedding {
    rank: usize,
    scale: f32,
    /// `[vocabulary][rank]`
    a: Vec<f32>,
    /// `[rank][width]`
    b: Vec<f32>,
}

/// One adapter of a stack.
#[derive(Clone)]
pub struct Entry {
    /// Unique in the stack.
    pub name: String,
    /// The adapter.
    pub fitted: Arc<Fitted>,
    /// The user's factor on the whole delta; 0 means absent.
    pub scale: f32,
}

/// Names a stack by what it computes: content hash and scale of every adapter that is not absent, sorted.
pub type StackKey = Vec<([u8; 32], u32)>;

/// Adapters in use by one session.
#[derive(Clone)]
pub struct Stack {
    entries: Vec<Entry>,
    on: bool,
}

impl Default for Stack {
    fn default() -> Self {
        Self { entries: Vec::new(), on: true }
    }
}

impl Fitted {
    /// Packs `adapter` for `base`.
    ///
    /// # Errors
    /// The adapter does not fit the model.
    pub(super) fn new(adapter: Adapter, base: &Model, ty: TensorType, team: &Team) -> Result<Self> {
        adapter.check_fits(base)?;
        let deltas: Vec<_> = adapter.deltas.iter().collect();
        // The time to load an adapter is that of packing it, which the threads do together.
        let packed: Vec<OnceLock<_>> = deltas.iter().map(|_| OnceLock::new()).collect();
        team.for_each(deltas.len(), |i| {
            let (target, delta) = deltas[i];
            if !Delta::is_embedding(target) {
                let (a, b) = (delta.a.to_f32(), delta.b_in_base_order(target, base));
                packed[i].get_or_init(|| Factors::pack(ty, delta.rank, delta.a.cols, delta.b.rows, &a, &b));
            }
        });
        let (mut linear, mut embedding) = (HashMap::new(), None);
        for ((target, delta), packed) in deltas.into_iter().zip(packed) {
            let values = || (delta.a.to_f32(), delta.b_in_base_order(target, base));
            let Some(factors) = packed.into_inner() else {
                let (a, b) = values();
                let b = transposed(&b, delta.rank);
                embedding = Some(Embedding { rank: delta.rank, scale: delta.scale, a, b });
                continue;
            };
            let factors = factors
                .map_err(|e| Error::new(Class::Usage, format!("factors cannot be kept as {ty}: {e}")))?;
            let missing =
                || Error::bad_file("the model has no such tensor").in_file(&adapter.path).at(target);
            let mut dora = None;
            if let Some(m) = delta.magnitude_in_base_order(target, base) {
                let (a, b) = values();
                dora = Some(Dora::new(team, base.target_matrix(target).ok_or_else(missing)?, &a, &b, m));
            }
            let tensor = base.target_tensor(target).ok_or_else(missing)?;
            linear.insert(tensor, Packed { factors, scale: delta.scale, dora });
        }
        Ok(Self { adapter, ty, linear, embedding })
    }

    /// Bytes of factors read to evaluate one token; of an embedding that is next to nothing, and not counted.
    pub fn bytes_per_token(&self) -> usize {
        self.linear.values().map(|p| p.factors.bytes()).sum()
    }

    /// Bytes of memory that the packed factors take.
    pub fn bytes(&self) -> usize {
        let linear = self.linear.values().map(|p| p.factors.bytes() + p.dora.as_ref().map_or(0, Dora::bytes));
        linear.sum::<usize>() + self.embedding.as_ref().map_or(0, |e| (e.a.len() + e.b.len()) * 4)
    }
}

impl Stack {
    /// The adapters, in the order in which they were added.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the stack is applied; off, the base answers alone.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Applies the stack, or not, without forgetting it.
    pub fn set_on(&mut self, on: bool) {
        self.on = on;
    }

    /// Adds an adapter under `name`, or under `name-2`, `name-3` ... when that is taken. Returns the name.
    ///
    /// # Errors
    /// A scale that is not finite, or a second adapter with DoRA magnitudes.
    pub fn add(&mut self, name: &str, fitted: Arc<Fitted>, scale: f32) -> Result<String> {
        check_scale(scale)?;
        if fitted.adapter.is_dora()
            && let Some(other) = self.entries.iter().find(|e| e.fitted.adapter.is_dora())
        {
            return Err(Error::new(Class::Usage, "a stack can hold one DoRA adapter")
                .in_file(&fitted.adapter.path)
                .advice(format!("remove {} first", other.name)));
        }
        let taken = |name: &str| self.entries.iter().any(|e| e.name == name);
        let mut unique = name.to_string();
        let mut number = 2;
        while taken(&unique) {
            unique = format!("{name}-{number}");
            number += 1;
        }
        self.entries.push(Entry { name: unique.clone(), fitted, scale });
        Ok(unique)
    }

    /// Changes the scale of the adapter `name`.
    ///
    /// # Errors
    /// No such adapter, or a scale that is not finite.
    pub fn set_scale(&mut self, name: &str, scale: f32) -> Result<()> {
        check_scale(scale)?;
        let at = self.find(name)?;
        self.entries[at].scale = scale;
        Ok(())
    }

    /// Removes the adapter `name` and returns it.
    ///
    /// # Errors
    /// No such adapter.
    pub fn remove(&mut self, name: &str) -> Result<Entry> {
        Ok(self.entries.remove(self.find(name)?))
    }

    fn find(&self, name: &str) -> Result<usize> {
        self.entries.iter().position(|e| e.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.entries.iter().map(|e| e.name.as_str()).collect();
            Error::new(Class::Usage, format!("no adapter is called {name}"))
                .expected_got(if names.is_empty() { "none is loaded".into() } else { names.join(", ") }, name)
        })
    }

    /// The adapters that change anything, in the one order in which deltas are summed: DoRA first, then by content.
    fn active(&self) -> Vec<&Entry> {
        let mut active: Vec<&Entry> = self.entries.iter().filter(|e| self.on && e.scale != 0.0).collect();
        active.sort_by_key(|e| (!e.fitted.adapter.is_dora(), e.fitted.adapter.hash, e.scale.to_bits()));
        active
    }

    /// Bytes of factors read to evaluate one token.
    pub fn bytes_per_token(&self) -> usize {
        self.active().iter().map(|e| e.fitted.bytes_per_token()).sum()
    }

    /// What the stack computes; equal keys give equal bits.
    pub fn key(&self) -> StackKey {
        let mut key: StackKey =
            self.active().iter().map(|e| (e.fitted.adapter.hash, e.scale.to_bits())).collect();
        key.sort_unstable();
        key
    }

    /// Everything that the forward pass needs of the stack, looked up once for a change.
    pub fn resolve(&self) -> Resolved {
        let mut resolved = Resolved::default();
        let mut linear: BTreeMap<TensorId, Vec<LowRank>> = BTreeMap::new();
        for entry in self.active() {
            for (tensor, packed) in &entry.fitted.linear {
                let scale = packed.scale * entry.scale;
                let gain = packed.dora.as_ref().map(|d| d.gain(scale));
                let delta = LowRank { factors: packed.factors.clone(), scale, gain };
                linear.entry(*tensor).or_default().push(delta);
            }
            if let Some(e) = &entry.fitted.embedding {
                resolved.embedding.push((Arc::clone(&entry.fitted), e.scale * entry.scale));
            }
        }
        for (tensor, deltas) in linear {
            let first = resolved.deltas.len();
            resolved.deltas.extend(deltas);
            resolved.of_tensor.resize(tensor.index() + 1, 0..0);
            resolved.of_tensor[tensor.index()] = first..resolved.deltas.len();
        }
        resolved
    }
}

/// # Errors
/// A scale that is not finite.
pub fn check_scale(scale: f32) -> Result<()> {
    if scale.is_finite() {
        return Ok(());
    }
    Err(Error::new(Class::Usage, "the scale of an adapter must be a finite number")
        .expected_got("such as 1.0", scale))
}

/// A stack as the forward pass reads it: for the tensor of each product the deltas in the order of summation.
#[derive(Default)]
pub struct Resolved {
    /// In the order of the tensors.
    deltas: Vec<LowRank>,
    /// Which of them belong to a tensor, by its index.
    of_tensor: Vec<Range<usize>>,
    embedding: Vec<(Arc<Fitted>, f32)>,
}

impl Resolved {
    /// Whether nothing is added anywhere.
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty() && self.embedding.is_empty()
    }

    /// The deltas on `weights`, in the order of summation.
    pub(crate) fn of(&self, weights: &Linear) -> LowRankSum<'_> {
        let mine = self.of_tensor.get(weights.tensor().index()).cloned().unwrap_or_default();
        LowRankSum { deltas: &self.deltas[mine], first_row: weights.first_row() }
    }

    /// Adds the deltas of the embedding of `token` to its row `x` (`[width]`).
    pub fn add_embedding(&self, token: u32, x: &mut [f32]) {
        for (fitted, scale) in &self.embedding {
            let Some(e) = &fitted.embedding else { continue };
            let a = &e.a[token as usize * e.rank..][..e.rank];
            for (a, b) in a.iter().zip(e.b.chunks_exact(x.len())) {
                let t = scale * a;
                x.iter_mut().zip(b).for_each(|(x, b)| *x += t * b);
            }
        }
    }
}
