//! DoRA: a learned length for each row of W + s·B·A.
use lapwing_kernels::TensorType;
use lapwing_kernels::acts::{Acts, Source};
use lapwing_kernels::format::decode_row;
use lapwing_kernels::linear::{Product, linear};
use lapwing_kernels::matrix::Matrix;
use lapwing_kernels::team::Team;

/// Rows of W decoded at a time.
const ROWS: usize = 64;

/// What is needed to rescale a DoRA delta without looking at W again. All are `[outputs]`.
///
/// ‖W + sBA‖² = ‖W‖² + 2s·⟨W, BA⟩ + s²·‖BA‖² row by row. Source: Liu et al. 2024, arXiv 2402.09353.
#[derive(Clone, Debug)]
pub struct Dora {
    magnitude: Vec<f32>,
    ww: Vec<f64>,
    wba: Vec<f64>,
    baba: Vec<f64>,
}

impl Dora {
    /// Measures the rows of `w` against B·A: `a` is `[rank][inputs]`, `b` `[outputs][rank]`, `magnitude` `[outputs]`.
    pub fn new(team: &Team, w: Matrix<'_>, a: &[f32], b: &[f32], magnitude: Vec<f32>) -> Self {
        let (cols, rank) = (w.cols(), a.len() / w.cols());
        let mut acts = Acts::new(rank, cols);
        let gram: Vec<f64> = (0..rank * rank)
            .map(|i| dot(&a[i / rank * cols..][..cols], &a[i % rank * cols..][..cols]))
            .collect();
        let mut dora = Self { magnitude, ww: Vec::new(), wba: Vec::new(), baba: Vec::new() };
        let mut values = vec![0.0; ROWS * cols];
        let mut bytes = Vec::with_capacity(values.len() * 4);
        let mut wa = vec![0.0; rank * ROWS];
        for first in (0..w.rows()).step_by(ROWS) {
            let rows = ROWS.min(w.rows() - first);
            for r in 0..rows {
                decode_row(w.ty(), w.row(first + r), &mut values[r * cols..][..cols]);
            }
            // A·Wᵀ: the rows of A take the place of tokens, in f32 for an exact norm.
            bytes.clear();
            bytes.extend(values[..rows * cols].iter().flat_map(|v| v.to_le_bytes()));
            let part =
                Matrix::new(TensorType::F32, rows, cols, &bytes).expect("as many bytes as were decoded");
            let product = Product { weights: part.into(), out: &mut wa, out_stride: ROWS, add: false };
            linear(team, &mut acts, Source::new(a, cols), &mut [product], &[]);
            for r in 0..rows {
                let w = &values[r * cols..][..cols];
                let b = &b[(first + r) * rank..][..rank];
                dora.ww.push(dot(w, w));
                dora.wba.push(
                    b.iter().enumerate().map(|(j, b)| f64::from(*b) * f64::from(wa[j * ROWS + r])).sum(),
                );
                let pairs =
                    gram.iter().enumerate().map(|(i, g)| g * f64::from(b[i / rank]) * f64::from(b[i % rank]));
                dora.baba.push(pairs.sum());
            }
        }
        dora
    }

    /// g = m / ‖W + sBA‖ of each row, for the factor `s` on B·A.
    pub fn gain(&self, s: f32) -> Vec<f32> {
        let s = f64::from(s);
        let norms = self.ww.iter().zip(&self.wba).zip(&self.baba);
        let norms = norms.map(|((ww, wba), baba)| (ww + 2.0 * s * wba + s * s * baba).max(0.0).sqrt());
        self.magnitude
            .iter()
            .zip(norms)
            // A row of zeros has no direction; any length of it is zero.
            .map(|(m, norm)| if norm > 0.0 { (f64::from(*m) / norm) as f32 } else { 0.0 })
            .collect()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.magnitude.len() * (4 + 3 * 8)
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
