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
    let length = |bytes: &[u8]| (bytes.len() as u64).to_le_bytes();
    let sum = xxh3_128(header).to_le_bytes();
    // Behind a cache stands its checksum.
    let end = if cache.is_empty() { &[][..] } else { &[0; 16] };
    [&b"lapwing-session2"[..], &length(header), &sum, &length(cache), header, cache, end].concat()
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
                        let who = ["system", "user", "assistant"][usize::from(*who) % 3];
                        serde_json::json!([who, text, ids])
                    })
                    .collect();
                let header = serde_json::json!({
                    "model": {"path": "m", "fingerprint": "f"},
                    "settings": [["temp", "1"], ["ctx-size", "64"]], "stack": [], "stack_on": true,
                    "template": {"file": ["t", "{{ messages }}"], "variables": {"thinks": true}},
                    "branches": {
                        "current": "main",
                        "all": [{"name": "main", "turns": turns, "left_out": 0, "summary": null}],
                    },
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
