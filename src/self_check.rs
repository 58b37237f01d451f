//! Do this machine's kernels compute what they should? Every block format on every instruction set against the oracle.
use lapwing_kernels::TensorType;
use lapwing_kernels::acts::{Acts, Source};
use lapwing_kernels::format::random_row;
use lapwing_kernels::isa::Isa;
use lapwing_kernels::linear::{Product, linear};
use lapwing_kernels::matrix::Matrix;
use lapwing_kernels::team::Team;
use lapwing_models::{Error, Result};

use crate::engine::team;
use crate::sampler::Rng;

/// Columns of the matrices: two superblocks and a half, so that tails are computed too.
const COLS: usize = 512 + 128;
/// Rows: more than a panel, and no multiple of one.
const ROWS: usize = 100;
/// Tokens: one takes the path of decoding, several that of prefill.
const TOKENS: [usize; 2] = [1, 7];

/// Multiplies random weights of every type with random activations on `isa` with `threads` threads, and compares with
/// the plain loops on one thread. Gives the number of products compared.
///
/// # Errors
/// The first product that differs by more than summing in another order explains.
pub fn self_check(isa: Isa, threads: usize) -> Result<usize> {
    let (oracle, team) = (team(1, Isa::Scalar)?, team(threads, isa)?);
    let mut compared = 0;
    for &ty in TensorType::ALL {
        // Superblocks divide only the first 512 columns.
        let cols = if COLS.is_multiple_of(ty.block_len()) { COLS } else { 512 };
        let mut rng = Rng::new(cols as u64 + u64::from(ty.id()));
        let mut weights = vec![0; ROWS * ty.row_bytes(cols).unwrap_or_default()];
        random_row(ty, &mut || rng.next_u64(), 0.02, &mut weights);
        for n in TOKENS {
            let x: Vec<f32> = (0..n * cols).map(|_| rng.next_f64() as f32 - 0.5).collect();
            let expected = multiply(&oracle, ty, &weights, &x, n, cols)?;
            let got = multiply(&team, ty, &weights, &x, n, cols)?;
            let scale = expected.iter().fold(0.0f32, |max, y| max.max(y.abs()));
            for (i, (e, g)) in expected.iter().zip(&got).enumerate() {
                // NaN must fail, too.
                if (e - g).abs() <= 1e-5 * scale {
                    compared += 1;
                } else {
                    return Err(Error::new(lapwing_models::Class::Other, "a kernel computes wrong results")
                        .at(format!("{isa}, {ty}, row {}, {n} tokens", i % ROWS))
                        .expected_got(e, g)
                        .advice("choose another instruction set with --isa, and report this"));
                }
            }
        }
    }
    Ok(compared)
}

/// `[n][ROWS]` products of `[ROWS][cols]` weights with `[n][cols]` activations.
fn multiply(
    team: &Team,
    ty: TensorType,
    weights: &[u8],
    x: &[f32],
    n: usize,
    cols: usize,
) -> Result<Vec<f32>> {
    let w = Matrix::new(ty, ROWS, cols, weights)
        .map_err(|error| Error::new(lapwing_models::Class::Other, error.to_string()))?;
    let mut out = vec![0.0; n * ROWS];
    let mut acts = Acts::new(n, cols);
    team.scope(|| {
        linear(
            team,
            &mut acts,
            Source::new(x, cols),
            &mut [Product { weights: w.into(), out: &mut out, out_stride: ROWS, add: false }],
            &[],
        );
    });
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn all_instruction_sets_of_this_machine_pass() {
        for isa in lapwing_kernels::isa::Isa::available() {
            assert!(super::self_check(isa, 2).unwrap() > 1000, "{isa}");
        }
    }
}
