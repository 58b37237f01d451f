use super::*;
use crate::acts::Source;
use crate::format::{TensorType, blocks, random_row};
use crate::team::{SharedMut, Team};
use crate::testing::Random;

/// A product with tiles of a given level in place of the one that the processor prefers.
struct WithLevel<'a, Q, const LEVEL: usize>(Panels<'a, Q>);

impl<Q: Quantised, const LEVEL: usize> Op for WithLevel<'_, Q, LEVEL> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, simd: S) {
        match const { matches!(S::LEVELS, Levels::In16) } {
            true => self.0.multiply::<S, LEVEL>(simd),
            false => unreachable!("products of pairs"),
        }
    }
}

/// `[tokens][rows]`
fn product<Q: Quantised, const LEVEL: usize>(w: &Matrix, acts: &Acts) -> Vec<u32> {
    let (n, rows) = (acts.tokens(), w.rows());
    let mut values = vec![f32::NAN; n * rows];
    let out = Out {
        first_row: 0,
        out: SharedMut::new(&mut values),
        stride: rows,
        bias: None,
        add: false,
        factor: 1.0,
    };
    let mut scratch = Scratch::default();
    let panels = Panels::<Q>::new(w, 0..rows, (acts, 0..n), &out, &mut scratch);
    Isa::Avx2.dispatch(WithLevel::<Q, LEVEL>(panels));
    values.into_iter().map(f32::to_bits).collect()
}

/// Processors prefer one of the two: the tests of `linear` see that one alone.
fn pairs_equal_level_0<Q: Quantised>() {
    let mut random = Random::new(7);
    for (rows, units, n) in [(1, 1, 1), (16, 4, 4), (70, 9, 7), (37, 16, 10), (130, 8, 3)] {
        let cols = units * Q::BLOCK_LEN;
        let mut bytes = vec![0; rows * Q::TYPE.row_bytes(cols).unwrap()];
        random_row(Q::TYPE, &mut || random.bits(), 1.0, &mut bytes);
        // The largest sums of Q8_0: quants of −128 in the first row, activations of ±127 in the first token.
        if Q::TYPE == TensorType::Q8_0 {
            bytes[..cols / 32 * 34].chunks_exact_mut(34).for_each(|block| block[2..].fill(0x80));
        }
        let x: Vec<f32> = (0..n * cols)
            .map(|i| if i < cols { [1.0, -1.0][i % 5 / 4] } else { 2.0 * random.unit() as f32 - 1.0 })
            .collect();
        let w = Matrix::new(Q::TYPE, rows, cols, &bytes).unwrap();
        let team = Team::new(1, Isa::Avx2).unwrap();
        let mut acts = Acts::new(n, cols);
        acts.set(&team, Source::new(&x, cols));
        assert_eq!(
            product::<Q, PAIRS>(&w, &acts),
            product::<Q, 0>(&w, &acts),
            "{} {rows}x{cols} · {n}",
            Q::TYPE
        );
    }
}

#[test]
fn products_of_pairs_have_the_bits_of_products() {
    if !Isa::Avx2.is_available() {
        return;
    }
    pairs_equal_level_0::<blocks::Q8_0>();
    pairs_equal_level_0::<blocks::Iq4Nl>();
    pairs_equal_level_0::<blocks::Iq4Xs>();
}
