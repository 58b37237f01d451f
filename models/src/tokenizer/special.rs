//! Finding added and special tokens in text, before anything else is tokenised.
//!
//! As in llama.cpp longer tokens win over shorter ones wherever they are, and among occurrences of equal
//! length the leftmost wins. That is done in one pass over the text and a queue of what was found, not in
//! one pass for each of thousands of tokens.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::vocab::{Vocab, kind};

/// Longer texts of special tokens are refused when loading, so that no text can make the search slow.
pub(super) const LONGEST: usize = 1024;

const NONE: u32 = u32::MAX;

/// A node of the tree of all special texts.
#[derive(Clone, Copy)]
struct Node {
    /// Edges `edges.0..edges.1` of the tree.
    edges: (u32, u32),
    /// The token that ends here, or `NONE`.
    token: u32,
    /// The nearest node above at which a token ends, or `NONE`.
    above: u32,
    /// Length of the text up to here.
    depth: u32,
}

/// The tree of all special texts of a vocabulary.
pub(super) struct SpecialTree {
    nodes: Vec<Node>,
    /// (next byte, node), in ascending order for each node.
    edges: Vec<(u8, u32)>,
    first: [bool; 256],
}

/// A special token in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: u32,
    /// Bytes `start..end` of the text are the token and the white space that it swallows.
    pub(super) start: usize,
    pub(super) end: usize,
}

impl SpecialTree {
    /// The tree of the tokens of `vocab` that are control, user-defined or unknown.
    pub(super) fn new(vocab: &Vocab) -> Self {
        let special = kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN;
        let mut texts: Vec<(&[u8], u32)> = (0..vocab.len() as u32)
            .filter(|&id| vocab.is(id, special))
            .map(|id| (vocab.text(id).as_bytes(), id))
            .filter(|(text, _)| !text.is_empty())
            .collect();
        texts.sort_unstable();
        let mut first = [false; 256];
        for (text, _) in &texts {
            first[usize::from(text[0])] = true;
        }
        let mut tree = Self { nodes: Vec::new(), edges: Vec::new(), first };
        tree.nodes.push(Node { edges: (0, 0), token: NONE, above: NONE, depth: 0 });
        // Each entry: a node, and the texts that share the way to it.
        let mut open = vec![(0_usize, texts.as_slice())];
        while let Some((at, mut texts)) = open.pop() {
            let depth = tree.nodes[at].depth as usize;
            // Of equal texts the last id counts, as in the vocabulary's own map.
            while let [(text, id), rest @ ..] = texts
                && text.len() == depth
            {
                tree.nodes[at].token = *id;
                texts = rest;
            }
            let above = if tree.nodes[at].token == NONE { tree.nodes[at].above } else { at as u32 };
            let begin = tree.edges.len() as u32;
            for group in texts.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
                let node = tree.nodes.len();
                tree.edges.push((group[0].0[depth], node as u32));
                tree.nodes.push(Node { edges: (0, 0), token: NONE, above, depth: depth as u32 + 1 });
                open.push((node, group));
            }
            tree.nodes[at].edges = (begin, tree.edges.len() as u32);
        }
        tree
    }

    /// The deepest node on the way along `text` at which a token ends, or `NONE`.
    fn deepest(&self, text: &[u8]) -> u32 {
        let (mut at, mut deepest) = (0_u32, NONE);
        for byte in text {
            let node = &self.nodes[at as usize];
            let edges = &self.edges[node.edges.0 as usize..node.edges.1 as usize];
            let Ok(edge) = edges.binary_search_by_key(byte, |edge| edge.0) else { break };
            at = edges[edge].1;
            if self.nodes[at as usize].token != NONE {
                deepest = at;
            }
        }
        deepest
    }

    /// Positions in `text`, ascending, at which a control token begins, overlapping or not.
    pub(super) fn control_starts<'t>(
        &'t self,
        vocab: &'t Vocab,
        text: &'t str,
    ) -> impl Iterator<Item = usize> + 't {
        let bytes = text.as_bytes();
        (0..bytes.len()).filter(move |&start| {
            self.first[usize::from(bytes[start])] && {
                let mut node = self.deepest(&bytes[start..]);
                while node != NONE && !vocab.is(self.nodes[node as usize].token, kind::CONTROL) {
                    node = self.nodes[node as usize].above;
                }
                node != NONE
            }
        })
    }

    /// The special tokens in `text`, in order and apart from each other. Control and unknown tokens are
    /// recognised only where `markup` says that this range of the text may be one.
    pub(super) fn find(
        &self,
        vocab: &Vocab,
        text: &str,
        markup: impl Fn(Range<usize>) -> bool,
    ) -> Vec<Found> {
        let text = text.as_bytes();
        // The longest allowed token at `start` that ends at `node` or above it.
        let allowed = |start: usize, mut node: u32| {
            while node != NONE {
                let Node { token, depth, above, .. } = self.nodes[node as usize];
                let range = start..start + depth as usize;
                if !vocab.is(token, kind::CONTROL | kind::UNKNOWN) || markup(range) {
                    return Some((depth, Reverse(start), node));
                }
                node = above;
            }
            None
        };
        let mut queue = Vec::new();
        for start in 0..text.len() {
            if self.first[usize::from(text[start])] {
                queue.extend(allowed(start, self.deepest(&text[start..])));
            }
        }
        let mut found = Vec::new();
        if queue.is_empty() {
            return found;
        }
        let mut queue = BinaryHeap::from(queue);
        let mut taken = vec![false; text.len()];
        while let Some((depth, Reverse(start), node)) = queue.pop() {
            let mut end = start + depth as usize;
            if taken[start] {
                continue;
            }
            // What is taken already is at least as long, so it cannot lie between the two ends.
            if taken[end - 1] {
                queue.extend(allowed(start, self.nodes[node as usize].above));
                continue;
            }
            let id = self.nodes[node as usize].token;
            if vocab.is(id, kind::STRIPS_RIGHT) {
                while end < text.len() && !taken[end] && matches!(text[end], b' ' | 9..=13) {
                    end += 1;
                }
            }
            taken[start..end].fill(true);
            found.push(Found { id, start, end });
        }
        found.sort_unstable_by_key(|found| found.start);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(tokens: &[(&str, u8)]) -> (Vocab, SpecialTree) {
        let vocab = Vocab::new(tokens.iter().map(|t| t.0).collect(), tokens.iter().map(|t| t.1).collect());
        let tree = SpecialTree::new(&vocab);
        (vocab, tree)
    }

    /// The definition, after llama.cpp: token by token, the longest first, through all free text.
    fn slowly(vocab: &Vocab, text: &str, markup: bool) -> Vec<Found> {
        let mut order: Vec<u32> = (0..vocab.len() as u32).filter(|&id| !vocab.is(id, kind::NORMAL)).collect();
        order.sort_by_key(|&id| Reverse(vocab.text(id).len()));
        let mut taken = vec![false; text.len()];
        let mut found = Vec::new();
        for id in order {
            let token = vocab.text(id);
            if !markup && !vocab.is(id, kind::USER_DEFINED) {
                continue;
            }
            for start in 0..text.len() {
                let mut end = start + token.len();
                if !text[start..].starts_with(token) || taken[start..end].contains(&true) {
                    continue;
                }
                if vocab.is(id, kind::STRIPS_RIGHT) {
                    while end < text.len() && !taken[end] && text.as_bytes()[end].is_ascii_whitespace() {
                        end += 1;
                    }
                }
                taken[start..end].fill(true);
                found.push(Found { id, start, end });
            }
        }
        found.sort_by_key(|found| found.start);
        found
    }

    #[test]
    fn agrees_with_the_definition() {
        // One token of each length: among equal lengths the definition's order would be arbitrary.
        let (vocab, tree) = tree(&[
            ("a", kind::NORMAL),
            ("\n", kind::USER_DEFINED),
            ("ab", kind::CONTROL),
            ("bbb", kind::USER_DEFINED | kind::STRIPS_RIGHT),
            ("abba", kind::CONTROL | kind::STRIPS_RIGHT),
            ("bab\nb", kind::UNKNOWN),
            ("ab\nabb", kind::USER_DEFINED),
        ]);
        let mut state = 3_u64;
        for _ in 0..3000 {
            let text: String = (0..24)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    ['a', 'b', 'b', '\n'][(state >> 40) as usize % 4]
                })
                .collect();
            for markup in [false, true] {
                assert_eq!(tree.find(&vocab, &text, |_| markup), slowly(&vocab, &text, markup), "{text:?}");
            }
        }
    }

    #[test]
    fn markup_is_recognised_only_where_it_may_be() {
        let (vocab, tree) = tree(&[("<s>", kind::CONTROL), ("<s", kind::USER_DEFINED)]);
        let found = tree.find(&vocab, "<s><s>", |range| range.end <= 3);
        assert_eq!(found, [Found { id: 0, start: 0, end: 3 }, Found { id: 1, start: 3, end: 5 }]);
    }
}
