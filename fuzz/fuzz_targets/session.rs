//! Saved sessions: any bytes, and any header behind a start with the right lengths and checksums.
#![no_main]
use arbitrary::Arbitrary;
use lapwing::saved::Opened;
use lapwing_models::Class;
use xxhash_rust::xxh3::xxh3_128;

#[derive(Arbitrary, Debug)]
enum File {
    Raw(Vec<u8>),
    Header(String, Vec<u8>),
    Valid { turns: Vec<(u8, String, Option<Vec<u32>>)>, flip: Option<(u16, u8)>, cache: Vec<u8> },
}

fn whole(header: &[u8], cache: &[u8]) -> Vec<u8> {
    let part =
        |bytes: &[u8]| [&(bytes.len() as u64).to_le_bytes()[..], &xxh3_128(bytes).to_le_bytes()].concat();
    [&b"lapwing-session1"[..], &part(header), &part(cache), header, cache].concat()
}

impl File {
    fn bytes(&self) -> Vec<u8> {
        match self {
            File::Raw(bytes) => bytes.clone(),
            File::Header(header, cache) => whole(header.as_bytes(), cache),
            File::Valid { turns, flip, cache } => {
                let turns: Vec<_> = turns
                    .iter()
                    .map(|(who, text, ids)| {
                        serde_json::json!([["system", "user", "assistant"][usize::from(*who) % 3], text, ids])
                    })
                    .collect();
                let header = serde_json::json!({
                    "model": {"path": "m", "fingerprint": "f"}, "context": 64, "kv_type": "f16",
                    "settings": [["temp", "1"]], "stack": [],
                    "branches": {"current": "main", "all": [{"name": "main", "turns": turns}]},
                    "attached": "", "cache": null,
                });
                let mut header = header.to_string().into_bytes();
                if let Some((at, bits)) = flip {
                    let at = usize::from(*at) % header.len();
                    header[at] ^= bits;
                }
                whole(&header, cache)
            }
        }
    }
}

libfuzzer_sys::fuzz_target!(|file: File| {
    let path = std::env::temp_dir().join(format!("lapwing-fuzz-session-{}", std::process::id()));
    std::fs::write(&path, file.bytes()).unwrap();
    if let Err(error) = Opened::open(&path) {
        assert_eq!(error.class, Class::BadFile, "{error}");
        assert!(error.to_string().len() < 5000, "{error}");
    }
});
