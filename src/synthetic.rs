//! Models and adapters of random weights made in memory, for benchmarks and examples that need no file.
use lapwing_models::gguf::{Gguf, Writer};
use lapwing_models::lora::Adapter;
use lapwing_models::model::Model;
use lapwing_models::synth::Synth;
use lapwing_models::{Class, Error, Result};

/// Bytes that a thread fills at a time.
const CHUNK: usize = 4 << 20;

/// Makes the model `name`, such as `llama-7b:q4_0`, in memory, on `threads` threads. The same seed gives the same
/// weights as `lapwing synth` does.
///
/// # Errors
/// [`Class::Usage`] for an unknown name, [`Class::Memory`] when the model does not fit.
pub fn model(name: &str, seed: u64, threads: usize) -> Result<Model> {
    let (shape, mix) = Synth::parse(name)?;
    Model::from_gguf(gguf(&Synth::new(&shape, mix, seed)?, name, threads)?)
}

/// Makes a LoRA adapter of this rank on all linear layers of the model `name`, such as `llama-7b:f16`, in memory. The
/// same seed gives the same factors as `lapwing synth --lora` does.
///
/// # Errors
/// As for [`model`], and for rank 0.
pub fn adapter(name: &str, rank: usize, seed: u64) -> Result<Adapter> {
    let (shape, mix) = Synth::parse(name)?;
    Adapter::from_gguf(gguf(&Synth::adapter(&shape, mix, seed, rank)?, name, 1)?)
}

fn gguf(synth: &Synth, name: &str, threads: usize) -> Result<Gguf> {
    let mut writer = Writer::new(name);
    for (key, value) in synth.entries() {
        writer.set(key, value.clone());
    }
    for t in synth.tensors() {
        writer.tensor(&t.name, t.ty, &t.shape)?;
    }
    writer.in_memory(|data| {
        // Pieces of whole rows, each taken by the next thread that is free.
        let pieces = data.into_iter().enumerate().flat_map(|(tensor, data)| {
            let row_bytes = synth.tensors()[tensor].row_bytes();
            let rows = (CHUNK / row_bytes).max(1);
            data.chunks_mut(rows * row_bytes).enumerate().map(move |(i, piece)| (tensor, i * rows, piece))
        });
        let pieces = std::sync::Mutex::new(pieces);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1))
                .map(|_| {
                    scope.spawn(|| {
                        // The lock is held only while the next piece is taken; nothing in there panics.
                        let next = || pieces.lock().ok()?.next();
                        while let Some((tensor, first, piece)) = next() {
                            synth.fill(tensor, first, piece);
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join())
        })
        .map_err(|_| Error::new(Class::Other, "a thread that made weights panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_do_not_change_the_weights() {
        let one = model("tiny-gemma3:q4_k_m", 3, 1).unwrap();
        let many = model("tiny-gemma3:q4_k_m", 3, 4).unwrap();
        for (a, b) in one.gguf().tensors().zip(many.gguf().tensors()) {
            assert!(a.data == b.data && a.data.iter().any(|&x| x != 0), "{}", a.name);
        }
        let (shape, mix) = Synth::parse("tiny-gemma3:q4_k_m").unwrap();
        let synth = Synth::new(&shape, mix, 3).unwrap();
        let last = synth.tensors().len() - 1;
        let mut row = vec![0; synth.tensors()[last].row_bytes()];
        synth.fill(last, 0, &mut row);
        assert!(one.gguf().tensors().last().unwrap().data[..row.len()] == row);
        assert_eq!(model("llama-7b", 0, 1).unwrap_err().class, Class::Usage);
    }
}
