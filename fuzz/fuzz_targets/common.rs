//! What the GGUF targets do with bytes: open them, and touch everything that opened.
use std::path::Path;

use lapwing_models::Class;
use lapwing_models::gguf::{Gguf, OpenOptions};
use lapwing_models::model::Model;
use lapwing_models::os::Bytes;

/// Opens `data` as a model; says whether it was valid GGUF.
pub fn open(data: &[u8]) -> bool {
    let bytes = Bytes::make(data.len() as u64, Path::new("fuzz"), |b| {
        b.copy_from_slice(data);
        Ok(())
    });
    let Ok(bytes) = bytes else { return false };
    let options = OpenOptions { any_type: data.len() % 2 == 0, ..OpenOptions::default() };
    let gguf = match Gguf::from_bytes(bytes, Path::new("fuzz"), &options) {
        Ok(gguf) => gguf,
        Err(error) => {
            assert_eq!(error.class, Class::BadFile, "{error}");
            assert!(error.to_string().len() < 2000);
            return false;
        }
    };
    for (key, value) in gguf.entries() {
        assert!(gguf.get(key).is_some());
        let _ = (gguf.opt_u32(key), gguf.opt_f32(key), gguf.opt_str(key), gguf.opt_strings(key));
        let _ = (gguf.opt_ints(key), gguf.opt_u32_per_layer(key, 4), value.type_name());
    }
    let mut sum = 0u64;
    for t in gguf.tensors() {
        assert_eq!(Some(t.data.len()), t.ty.row_bytes(t.cols()).map(|n| n * t.rows()));
        sum = t.data.iter().fold(sum, |sum, &b| sum.wrapping_add(b.into()));
        assert_eq!(gguf.tensor(t.name).map(|u| u.data.as_ptr()), Some(t.data.as_ptr()));
    }
    std::hint::black_box(sum);
    // The rest of what a file may hold: hyper-parameters, vocabulary, weights by name.
    let _ = Model::from_gguf(gguf);
    true
}
