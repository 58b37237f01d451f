//! Merging neighbouring symbols, best pair first: the step that SentencePiece-style and byte-level BPE share.
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No neighbour, or no mergeable pair.
const NONE: u32 = u32::MAX;

/// One symbol: a piece of the text that may still grow to the right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// What the symbol is; meaning is the caller's.
    pub(super) id: u32,
    /// Bytes `start..end` of the text.
    pub(super) start: u32,
    /// See `start`.
    pub(super) end: u32,
    prev: u32,
    next: u32,
    /// Priority of the pair that this symbol forms with its right neighbour; `NONE`: they do not merge.
    priority: u32,
    /// What that pair becomes.
    merged: u32,
    alive: bool,
}

/// A list of symbols and its queue of pairs; kept between words to spare allocations.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    /// (priority, left symbol), smallest first; entries that time has passed by are skipped when popped.
    queue: BinaryHeap<Reverse<u64>>,
}

impl Merger {
    /// Forgets all symbols.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol; at most 2³² − 2 of them.
    pub(super) fn push(&mut self, id: u32, start: usize, end: usize) {
        let index = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        self.symbols.push(Symbol {
            id,
            start: start as u32,
            end: end as u32,
            prev: index.wrapping_sub(1),
            next: NONE,
            priority: NONE,
            merged: NONE,
            alive: true,
        });
    }

    /// Merges until no pair is left, always the pair with the smallest priority, the leftmost among equals.
    ///
    /// `pair` says with which priority (< `u32::MAX`) two neighbours merge, and into what. It is asked at
    /// most three times per symbol; all else is O(n log n) for n symbols.
    pub(super) fn run(&mut self, mut pair: impl FnMut(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let mut queue = std::mem::take(&mut self.queue).into_vec();
        queue.clear();
        for left in 0..self.symbols.len() as u32 {
            queue.extend(self.consider(left, &mut pair));
        }
        self.queue = BinaryHeap::from(queue);
        while let Some(Reverse(entry)) = self.queue.pop() {
            let (priority, left) = ((entry >> 32) as u32, entry as u32);
            let symbol = self.symbols[left as usize];
            // Equal priority means an equal pair for ranks, and an equal claim to be next for scores.
            if !symbol.alive || symbol.priority != priority {
                continue;
            }
            let right = self.symbols[symbol.next as usize];
            self.symbols[symbol.next as usize].alive = false;
            let grown = &mut self.symbols[left as usize];
            grown.id = symbol.merged;
            grown.end = right.end;
            grown.next = right.next;
            if right.next != NONE {
                self.symbols[right.next as usize].prev = left;
            }
            if symbol.prev != NONE {
                let entry = self.consider(symbol.prev, &mut pair);
                self.queue.extend(entry);
            }
            let entry = self.consider(left, &mut pair);
            self.queue.extend(entry);
        }
    }

    /// Notes the pair that starts at `left`; returns its entry for the queue.
    fn consider(
        &mut self,
        left: u32,
        pair: &mut impl FnMut(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) -> Option<Reverse<u64>> {
        let symbol = self.symbols[left as usize];
        let found = self.symbols.get(symbol.next as usize).and_then(|right| pair(&symbol, right));
        let (priority, merged) = found.unwrap_or((NONE, NONE));
        let symbol = &mut self.symbols[left as usize];
        symbol.priority = priority;
        symbol.merged = merged;
        found.map(|_| Reverse(u64::from(priority) << 32 | u64::from(left)))
    }

    /// The symbols that are left, in order.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Merges by definition: scan all neighbours, take the best, repeat.
    fn slowly(mut ids: Vec<u32>, rules: &HashMap<(u32, u32), (u32, u32)>) -> Vec<u32> {
        loop {
            let best = (1..ids.len())
                .filter_map(|i| {
                    rules.get(&(ids[i - 1], ids[i])).map(|&(priority, merged)| (priority, i, merged))
                })
                .min();
            let Some((_, i, merged)) = best else { return ids };
            ids[i - 1] = merged;
            ids.remove(i);
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        let mut state = 1_u64;
        let mut random = move |n: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % n
        };
        let mut merger = Merger::default();
        for _ in 0..300 {
            // Few priorities among many pairs, as scores have; ids of merged symbols take part again.
            let rules: HashMap<_, _> =
                (0..12).map(|i| ((random(8), random(8)), (random(6), 4 + i % 4))).collect();
            let ids: Vec<u32> = (0..random(60)).map(|_| random(4)).collect();
            merger.clear();
            for (i, &id) in ids.iter().enumerate() {
                merger.push(id, i, i + 1);
            }
            merger.run(|left, right| rules.get(&(left.id, right.id)).copied());
            let merged: Vec<u32> = merger.symbols().map(|symbol| symbol.id).collect();
            assert_eq!(merged, slowly(ids.clone(), &rules), "{ids:?} {rules:?}");
            // The spans tile the text.
            let ends: Vec<u32> = merger.symbols().map(|symbol| symbol.end).collect();
            assert_eq!(ends.last().copied().unwrap_or(0) as usize, ids.len());
            for (symbol, end) in merger.symbols().skip(1).zip(ends) {
                assert_eq!(symbol.start, end);
            }
        }
    }
}
