//! The tokens of a model by their bytes, and which of them a grammar allows next.
//!
//! The grammar itself knows bytes only. Tokens in the order of their bytes serve as the prefix tree of the vocabulary:
//! what a token shares with the one before it need not be tried again, and behind a byte that is refused all that begin
//! so are left out. They are put in order when their first byte is first allowed, so that an answer begins at once.
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lapwing_models::tokenizer::Tokenizer;
use llguidance::earley::{BiasComputer, ParserRecognizer};
use llguidance::toktrie::{Recognizer, SimpleVob, TokTrie};

use crate::engine::Engine;

/// What JSON allows in a string without an escape. Where a grammar allows all such text, the tokens of this form need
/// not be tried one by one.
pub(super) const PLAIN: &str = r#"[^"\\\x00-\x1F\x7F]+"#;
/// Classes of bytes: those that [`PLAIN`] leaves out, parts of longer characters, and llguidance's own.
const ESCAPED: u8 = 1;
const NOT_ASCII: u8 = 2;
const MARKER: u8 = 4;
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if matches!(byte as u8, b'"' | b'\\' | 0..=0x1f | 0x7f) {
            classes[byte] |= ESCAPED;
        }
        if byte >= 0x80 {
            classes[byte] |= NOT_ASCII;
        }
        if byte as u8 == TokTrie::SPECIAL_TOKEN_MARKER {
            classes[byte] |= MARKER;
        }
        byte += 1;
    }
    classes
};
/// Work that finding out whether it does may take: twice of what llguidance asks for at least.
const PLAIN_BUDGET: u64 = 1000;

/// The tokens of a model that are text.
pub(super) struct Vocabulary {
    engine: Arc<Engine>,
    /// The text of token `id` is at `starts[id]..starts[id + 1]`.
    data: Vec<u8>,
    starts: Vec<usize>,
    /// Bits of the tokens of the form [`PLAIN`].
    plain: Vec<u32>,
    /// Those tokens and the others, by their first byte.
    orders: [Vec<Bucket>; 2],
    /// Bytes of the longest.
    longest: usize,
}

/// Tokens that begin with one byte.
#[derive(Default)]
struct Bucket {
    ids: Vec<u32>,
    /// In the order of their bytes.
    sorted: OnceLock<Box<[u32]>>,
}

impl Vocabulary {
    pub(super) fn new(engine: &Arc<Engine>) -> Self {
        let tokenizer = engine.model().tokenizer();
        let n_vocab = tokenizer.n_vocab();
        let mut all = Self {
            engine: engine.clone(),
            data: Vec::with_capacity(8 * n_vocab),
            starts: vec![0],
            plain: vec![0; n_vocab.div_ceil(32)],
            orders: [(); 2].map(|()| (0..=u8::MAX).map(|_| Bucket::default()).collect()),
            longest: 0,
        };
        for id in 0..n_vocab as u32 {
            let start = all.data.len();
            if is_text(tokenizer, id) {
                tokenizer.push_token_bytes(id, &mut all.data);
            }
            let bytes = &all.data[start..];
            let classes = bytes.iter().fold(0, |classes, &byte| classes | CLASSES[usize::from(byte)]);
            if classes & MARKER != 0 {
                // In no text; llguidance means something of its own by it.
                all.data.truncate(start);
            } else if let Some(&first) = bytes.first() {
                let plain =
                    classes & ESCAPED == 0 && (classes & NOT_ASCII == 0 || str::from_utf8(bytes).is_ok());
                all.orders[usize::from(!plain)][usize::from(first)].ids.push(id);
                if plain {
                    allow(&mut all.plain, id);
                }
                all.longest = all.longest.max(bytes.len());
            }
            all.starts.push(all.data.len());
        }
        all
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        self.engine.model().tokenizer()
    }

    /// The text of a token; nothing for markup.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        &self.data[self.starts[id as usize]..self.starts[id as usize + 1]]
    }

    /// The tokens of a bucket in the order of their bytes.
    fn sorted<'a>(&self, bucket: &'a Bucket) -> &'a [u32] {
        bucket.sorted.get_or_init(|| {
            let mut ids = bucket.ids.clone().into_boxed_slice();
            ids.sort_unstable_by(|&a, &b| self.bytes(a).cmp(self.bytes(b)));
            ids
        })
    }

    /// The tokens that begin with `prefix`, which has at least one byte, in two slices: those that are it come first.
    fn beginning(&self, prefix: &[u8]) -> [&[u32]; 2] {
        [0, 1].map(|order| {
            let ids = self.sorted(&self.orders[order][usize::from(prefix[0])]);
            let from = &ids[ids.partition_point(|&id| self.bytes(id) < prefix)..];
            &from[..from.partition_point(|&id| self.bytes(id).starts_with(prefix))]
        })
    }

    /// The tokens that are `bytes`, which are at least one.
    fn exactly(&self, bytes: &[u8]) -> impl Iterator<Item = u32> {
        self.beginning(bytes).into_iter().flat_map(move |ids| {
            ids.iter().copied().take_while(move |&id| self.bytes(id).len() == bytes.len())
        })
    }

    /// Tokens of `bytes`, each as long as may be; `None` when there is no token for some byte.
    pub(super) fn greedy(&self, mut bytes: &[u8]) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        while !bytes.is_empty() {
            let lengths = (1..=bytes.len().min(self.longest)).rev();
            let (id, length) =
                lengths.into_iter().find_map(|n| Some((self.exactly(&bytes[..n]).next()?, n)))?;
            ids.push(id);
            bytes = &bytes[length..];
        }
        Some(ids)
    }

    /// The tokens that the model's tokeniser makes of `bytes` inside a text.
    pub(super) fn tokens(&self, bytes: &[u8]) -> Option<Vec<u32>> {
        let Ok(text) = std::str::from_utf8(bytes) else { return self.greedy(bytes) };
        let ids = self.tokenizer().encode_inside(text);
        let same = ids.iter().flat_map(|&id| self.bytes(id)).eq(bytes);
        same.then_some(ids)
    }

    /// Tokens of `bytes`, no more than `room` if that is found to be possible: as the tokeniser has them, which takes no
    /// order of tokens, or each as long as may be.
    pub(super) fn within(&self, bytes: &[u8], room: usize) -> Option<Vec<u32>> {
        self.tokens(bytes).filter(|ids| ids.len() <= room).or_else(|| self.greedy(bytes))
    }

    /// The mask of the tokens that the grammar allows where the bytes `forced` must come next, which it was given.
    fn mask(&self, grammar: &mut ParserRecognizer<'_>, forced: &[u8]) -> Vec<u32> {
        let mut mask = vec![0; self.plain.len()];
        (1..=forced.len().min(self.longest)).for_each(|n| {
            self.exactly(&forced[..n]).for_each(|id| allow(&mut mask, id));
        });
        let mut take = |id| {
            allow(&mut mask, id);
            true
        };
        if !forced.is_empty() {
            grammar.trie_started("mask");
            self.beginning(forced)
                .iter()
                .for_each(|ids| _ = self.descend(ids, forced.len(), grammar, &mut take));
            grammar.trie_finished();
            return mask;
        }
        let state = grammar.lexer_state();
        let all_plain = grammar.lexer_mut().subsume_possible(state)
            && grammar.lexer_mut().check_subsume(state, 0, PLAIN_BUDGET, None).unwrap_or(false);
        grammar.trie_started("mask");
        for order in &self.orders[usize::from(all_plain)..] {
            for (bucket, first) in order.iter().zip(0..=u8::MAX) {
                if !bucket.ids.is_empty() && grammar.byte_allowed(first) {
                    self.descend(self.sorted(bucket), 0, grammar, &mut take);
                }
            }
        }
        grammar.trie_finished();
        if all_plain {
            mask.iter_mut().zip(&self.plain).for_each(|(word, plain)| *word |= plain);
        }
        mask
    }

    /// Bytes at the end of `text`, which the grammar was given, that a token may share with what it allows next: the
    /// model may want to write these with that token.
    fn extensible(&self, grammar: &mut ParserRecognizer<'_>, text: &[u8]) -> usize {
        grammar.trie_started("extensible");
        let from = text.len().saturating_sub(self.longest);
        let fits = |from: &usize| {
            let tail = &text[*from..];
            let mut stop = |_| false;
            self.beginning(tail).iter().any(|ids| !self.descend(ids, tail.len(), grammar, &mut stop))
        };
        let longest = (from..text.len()).find(fits);
        grammar.trie_finished();
        longest.map_or(0, |from| text.len() - from)
    }

    /// Gives `take` the tokens of `ids`, which are in the order of their bytes, that the grammar allows; it was given
    /// their first `depth` bytes, and those that have no more are left out. Ends when `take` wants no more, and tells
    /// whether it did not.
    fn descend(
        &self,
        mut ids: &[u32],
        depth: usize,
        grammar: &mut ParserRecognizer<'_>,
        take: &mut dyn FnMut(u32) -> bool,
    ) -> bool {
        // What the grammar was given behind that.
        let mut given: &[u8] = &[];
        let mut more = true;
        while let Some((&id, later)) = ids.split_first().filter(|_| more) {
            ids = later;
            let bytes = &self.bytes(id)[depth..];
            let common = given.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            grammar.pop_bytes(given.len() - common);
            let fits = bytes[common..].iter().take_while(|&&byte| grammar.try_push_byte(byte)).count();
            given = &bytes[..common + fits];
            if given.len() < bytes.len() {
                let refused = &bytes[..=given.len()];
                ids = &ids[ids.partition_point(|&id| self.bytes(id)[depth..].starts_with(refused))..];
            } else if !bytes.is_empty() {
                more = take(id);
            }
        }
        grammar.pop_bytes(given.len());
        more
    }
}

/// Markup is no text: no grammar that asks for text allows it.
fn is_text(tokenizer: &Tokenizer, id: u32) -> bool {
    !tokenizer.is_control(id) && tokenizer.unknown() != Some(id) && !tokenizer.is_eog(id)
}

pub(super) fn allow(mask: &mut [u32], id: u32) {
    mask[id as usize / 32] |= 1 << (id % 32);
}

/// Answers questions about the vocabulary while the grammar computes which bytes may come next.
pub(super) struct Asked {
    pub vocabulary: Arc<Vocabulary>,
    /// Computes the bytes.
    bytes: Arc<dyn BiasComputer>,
    question: Mutex<Question>,
}

impl Asked {
    pub(super) fn new(vocabulary: Arc<Vocabulary>, bytes: Arc<dyn BiasComputer>) -> Self {
        Self { vocabulary, bytes, question: Mutex::default() }
    }

    pub(super) fn question(&self) -> MutexGuard<'_, Question> {
        self.question.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is asked, and then the answer.
#[derive(Default)]
pub(super) enum Question {
    #[default]
    Nothing,
    /// The mask of the tokens allowed.
    Mask(Vec<u32>),
    /// How much at the end of this text, which the grammar was given, a longer token may begin with.
    Extensible(Vec<u8>, usize),
}

impl BiasComputer for Asked {
    fn compute_bias(&self, grammar: &mut ParserRecognizer<'_>, forced: &[u8]) -> SimpleVob {
        match &mut *self.question() {
            Question::Nothing => {}
            Question::Mask(mask) => *mask = self.vocabulary.mask(grammar, forced),
            Question::Extensible(text, bytes) => *bytes = self.vocabulary.extensible(grammar, text),
        }
        self.bytes.compute_bias(grammar, forced)
    }

    fn trie(&self) -> &TokTrie {
        self.bytes.trie()
    }
}
