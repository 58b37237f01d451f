//! The list of recipes. What each breaks is in its name.
use super::Reject;
use super::build::{File, Key, V, key, strings, tensor, truncations};

fn reject(name: &str, file: impl FnOnce(&mut File), says: &[&str]) -> Reject {
    let bytes = File::with(file).bytes();
    Reject { name: name.into(), bytes, says: says.iter().map(|s| (*s).to_owned()).collect() }
}

fn raw(name: &str, bytes: &[u8], says: &[&str]) -> Reject {
    Reject { name: name.into(), bytes: bytes.to_vec(), says: says.iter().map(|s| (*s).to_owned()).collect() }
}

/// Every file that must be refused, with class bad-file.
pub fn rejects() -> Vec<Reject> {
    let mut all = header();
    all.extend(keys());
    all.extend(values());
    all.extend(arrays());
    all.extend(tensors());
    all.extend(places());
    all.extend(truncations().into_iter().map(|(name, bytes)| {
        // Empty files are told apart; all others name the place.
        let says = if bytes.is_empty() { vec!["empty".into()] } else { vec![] };
        Reject { name, bytes, says }
    }));
    all
}

fn header() -> Vec<Reject> {
    let mut all = vec![
        raw("empty", b"", &["empty", "0 bytes"]),
        raw("one byte", b"G", &["not a GGUF", "\"G\""]),
        raw("text", b"Once upon a time there was a file\n", &["not a GGUF", "\"Once\""]),
        raw("zeros", &[0; 4096], &["not a GGUF", "\\0"]),
        raw("escape codes in place of the magic", b"\x1b[2J and more", &["not a GGUF", "\\u{1b}[2J"]),
        raw("older format ggml", b"lmgg\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &["not a GGUF"]),
        reject("magic in lower case", |f| f.magic = *b"gguf", &["\"GGUF\"", "\"gguf\""]),
        reject("version 0", |f| f.version = 0, &["version", "2 or 3", "0"]),
        reject("version 1", |f| f.version = 1, &["version", "2 or 3", "1"]),
        reject("version 4", |f| f.version = 4, &["version", "2 or 3", "4"]),
        reject("big-endian", |f| f.version = 3u32.swap_bytes(), &["big-endian"]),
        reject("largest version", |f| f.version = u32::MAX, &["4294967295"]),
        reject("a key fewer than announced", |f| f.n_keys = Some(7), &[]),
        reject("a key more than announced", |f| f.n_keys = Some(5), &[]),
        reject("a tensor more than there is", |f| f.n_tensors = Some(3), &["tensor 2"]),
    ];
    for (name, n) in [("2^40", 1 << 40), ("2^63", 1 << 63), ("2^64-1", u64::MAX), ("100,000", 100_000)] {
        all.push(reject(
            &format!("{name} keys"),
            |f| f.n_keys = Some(n),
            &["number of keys", &n.to_string()],
        ));
        let says = ["number of tensors", &n.to_string()];
        all.push(reject(&format!("{name} tensors"), |f| f.n_tensors = Some(n), &says));
    }
    // Enough bytes for them all, and still too many.
    let big = |f: &mut File| f.data = vec![0; 4 << 20];
    all.push(reject(
        "65,537 keys in a large file",
        |f| (big(f), f.n_keys = Some(65_537)).1,
        &["number of keys", "65536"],
    ));
    all.push(reject(
        "65,537 tensors in a large file",
        |f| (big(f), f.n_tensors = Some(65_537)).1,
        &["number of tensors", "65536"],
    ));
    all
}

fn keys() -> Vec<Reject> {
    let mut all = vec![
        reject("empty key", |f| f.keys[2].name.clear(), &["key 2", "empty"]),
        reject("key not UTF-8", |f| f.keys[2].name = b"a.\xff".to_vec(), &["key 2", "UTF-8"]),
        reject("key of half a character", |f| f.keys[2].name = b"a.\xc3".to_vec(), &["key 2", "UTF-8"]),
        reject("key with a surrogate", |f| f.keys[2].name = b"\xed\xa0\x80".to_vec(), &["key 2", "UTF-8"]),
        reject("key overlong", |f| f.keys[2].name = b"\xc0\x80".to_vec(), &["key 2", "UTF-8"]),
        reject("key of 65,536 bytes", |f| f.keys[2].name = vec![b'k'; 65_536], &["key 2", "65535", "65536"]),
        reject("key twice", |f| f.keys[3].name = f.keys[2].name.clone(), &["key a.number", "twice"]),
        reject(
            "same key and value twice",
            |f| f.keys.push(f.keys[0].clone()),
            &["general.architecture", "twice"],
        ),
        reject(
            "terminal escapes in a key twice",
            |f| f.keys.extend([key("\x1b[31m", V::U32(1)), key("\x1b[31m", V::U32(1))]),
            &["\\u{1b}[31m", "twice"],
        ),
    ];
    for len in [1 << 20, 1 << 40, u64::MAX, u64::MAX - 7, 1 << 63] {
        let says = ["key 1", &len.to_string()];
        all.push(reject(&format!("key announced as {len} bytes"), |f| f.keys[1].len = Some(len), &says));
    }
    all
}

fn values() -> Vec<Reject> {
    let mut all = vec![
        reject("bool 2", |f| f.keys[3].value = V::Bool(2), &["key a.flag", "0 or 1", "2"]),
        reject("bool 255", |f| f.keys[3].value = V::Bool(255), &["key a.flag", "255"]),
        reject(
            "string not UTF-8",
            |f| f.keys[0].value = V::Str(b"ll\xf8ma".to_vec()),
            &["general.architecture", "UTF-8"],
        ),
        reject("string cut in a character", |f| f.keys[0].value = V::Str(b"ll\xe2\x82".to_vec()), &["UTF-8"]),
        reject(
            "alignment 0",
            |f| f.keys[1].value = V::U32(0),
            &["general.alignment", "power of two", "got 0"],
        ),
        reject("alignment 1", |f| f.keys[1].value = V::U32(1), &["general.alignment", "got 1"]),
        reject("alignment 4", |f| f.keys[1].value = V::U32(4), &["general.alignment", "got 4"]),
        reject("alignment 48", |f| f.keys[1].value = V::U32(48), &["general.alignment", "got 48"]),
        reject("alignment 131072", |f| f.keys[1].value = V::U32(131_072), &["general.alignment", "131072"]),
        reject("alignment 2^31", |f| f.keys[1].value = V::U32(1 << 31), &["general.alignment"]),
        reject("alignment of another type", |f| f.keys[1].value = V::U64(64), &["general.alignment", "u64"]),
        reject(
            "alignment as text",
            |f| f.keys[1].value = V::Str(b"64".to_vec()),
            &["general.alignment", "string"],
        ),
        reject(
            "alignment as array",
            |f| f.keys[1].value = V::Array(4, 1, vec![64, 0, 0, 0]),
            &["general.alignment", "array"],
        ),
    ];
    for id in [13, 14, 255, 1 << 16, u32::MAX] {
        let says = ["key a.number", "type", &id.to_string()];
        all.push(reject(&format!("value of type {id}"), |f| f.keys[2].value = V::Raw(id, vec![0; 8]), &says));
    }
    for len in [1 << 30, 1 << 40, 1 << 63, u64::MAX] {
        let says = ["general.architecture", &len.to_string()];
        let value = V::LongStr(len, b"llama".to_vec());
        all.push(reject(&format!("string announced as {len} bytes"), |f| f.keys[0].value = value, &says));
    }
    // Each kind of number at the very end of the file, one byte short.
    for (id, size) in
        [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)]
    {
        let short = |f: &mut File| {
            f.keys = vec![
                key("some.quite.long.key.to.fill", V::Raw(4, vec![0; 4])),
                key("last", V::Raw(id, vec![0; size - 1])),
            ];
            f.tensors.clear();
            f.data.clear();
        };
        all.push(reject(&format!("value of type {id} cut short"), short, &["key last", "ends early"]));
    }
    all
}

fn arrays() -> Vec<Reject> {
    let list = |value: V| move |f: &mut File| f.keys[4].value = value;
    let words = |value: V| move |f: &mut File| f.keys[5].value = value;
    let mut all = vec![
        reject("array of arrays", list(V::Array(9, 1, vec![0; 32])), &["key a.list", "array of arrays"]),
        reject(
            "array of bools with a 3",
            list(V::Array(7, 3, vec![0, 1, 3])),
            &["key a.list", "0 or 1", "3"],
        ),
        reject(
            "word not UTF-8",
            words(V::Array(8, 2, strings(&[b"ok", b"\x80"]))),
            &["key a.words", "string 1", "UTF-8"],
        ),
        reject(
            // Whole only when put together.
            "character divided between two words",
            words(V::Array(8, 2, strings(&[b"\xc3", b"\xa4"]))),
            &["key a.words", "string 0", "UTF-8"],
        ),
    ];
    for id in [13, 100, u32::MAX] {
        let says = ["key a.list", "elements", &id.to_string()];
        all.push(reject(&format!("array of type {id}"), list(V::Array(id, 1, vec![0; 8])), &says));
    }
    for id in [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12] {
        for (what, n) in [("2^34", 1 << 34), ("2^61+1", (1 << 61) + 1), ("2^64-1", u64::MAX)] {
            let says = ["key a.list", "number of elements", &n.to_string()];
            all.push(reject(
                &format!("array of {what} of type {id}"),
                list(V::Array(id, n, vec![0; 8])),
                &says,
            ));
        }
    }
    for len in [1 << 33, u64::MAX] {
        let mut bytes = strings(&[b"one"]);
        bytes.extend(len.to_le_bytes());
        bytes.extend(b"two");
        all.push(reject(
            &format!("word announced as {len} bytes"),
            words(V::Array(8, 2, bytes)),
            &["key a.words", &len.to_string()],
        ));
    }
    all
}

fn tensors() -> Vec<Reject> {
    let change = |what: fn(&mut super::Tensor)| move |f: &mut File| what(&mut f.tensors[1]);
    let mut all = vec![
        reject("nameless tensor", change(|t| t.name.clear()), &["tensor 1", "no name"]),
        reject("tensor name of 65 bytes", change(|t| t.name = vec![b'n'; 65]), &["tensor 1", "64", "65"]),
        reject("tensor name not UTF-8", change(|t| t.name = b"\xff.weight".to_vec()), &["tensor 1", "UTF-8"]),
        reject("tensor twice", change(|t| t.name = b"a.weight".to_vec()), &["tensor a.weight", "twice"]),
        reject("no dimensions", change(|t| t.dims.clear()), &["tensor b.weight", "1 to 4", "0"]),
        reject(
            "five dimensions",
            change(|t| t.dims = vec![32, 1, 1, 1, 1]),
            &["tensor b.weight", "1 to 4", "5"],
        ),
        reject(
            "2^32-1 dimensions",
            change(|t| t.n_dims = Some(u32::MAX)),
            &["tensor b.weight", "4294967295"],
        ),
        reject(
            "row of no values",
            change(|t| t.dims = vec![0, 2]),
            &["tensor b.weight", "at least 1", "[0, 2]"],
        ),
        reject("no rows", change(|t| t.dims = vec![32, 0]), &["tensor b.weight", "at least 1"]),
        reject(
            "last dimension 0",
            change(|t| t.dims = vec![32, 1, 1, 0]),
            &["tensor b.weight", "at least 1"],
        ),
        reject(
            "huge dimensions and a 0",
            change(|t| t.dims = vec![1 << 62, 1 << 62, 0]),
            &["tensor b.weight"],
        ),
        reject(
            "row of 33 values in blocks of 32",
            change(|t| t.dims = vec![33, 2]),
            &["b.weight", "multiple of 32", "[33, 2]"],
        ),
        reject(
            "row of 32 values in blocks of 256",
            change(|t| t.ty = 12),
            &["b.weight", "q4_k", "multiple of 256"],
        ),
        reject(
            "row of 16 values in blocks of 32",
            change(|t| t.dims = vec![16, 4]),
            &["b.weight", "multiple of 32"],
        ),
        reject("dimension 2^63", change(|t| t.dims = vec![1 << 63]), &["tensor b.weight", "fits in memory"]),
        reject(
            "dimension 2^64-32",
            change(|t| t.dims = vec![u64::MAX - 31]),
            &["tensor b.weight", "fits in memory"],
        ),
        reject(
            "product wraps to 0",
            change(|t| t.dims = vec![1 << 32, 1 << 32]),
            &["tensor b.weight", "fits in memory"],
        ),
        reject(
            "product wraps to 64",
            change(|t| t.dims = vec![1 << 32, (1 << 32) + 1, 64]),
            &["b.weight", "fits in memory"],
        ),
        reject(
            "bytes wrap, values do not",
            change(|t| (t.ty = 0, t.dims = vec![1 << 61, 2]).1),
            &["b.weight", "fits in memory"],
        ),
        reject(
            "values wrap, bytes do not",
            change(|t| t.dims = vec![1 << 60, 8]),
            &["b.weight", "fits in memory"],
        ),
    ];
    for ty in [4, 5, 31, 32, 33, 36, 37, 38, 43, 99, 1 << 31, u32::MAX] {
        let says = ["tensor b.weight", "type", &ty.to_string()];
        all.push(reject(&format!("tensor of unknown type {ty}"), |f| f.tensors[1].ty = ty, &says));
    }
    for (ty, name) in [
        (16, "iq2_xxs"),
        (18, "iq3_xxs"),
        (19, "iq1_s"),
        (24, "i8"),
        (26, "i32"),
        (28, "f64"),
        (34, "tq1_0"),
        (39, "mxfp4"),
    ] {
        let says = ["tensor b.weight", name, "q4_0"];
        let other = |f: &mut File| {
            f.tensors[1] = tensor("b.weight", &[256], ty, 64);
            f.data = vec![0; 64 + 2048];
        };
        all.push(reject(&format!("tensor of type {name}, which is not computed"), other, &says));
    }
    all
}

fn places() -> Vec<Reject> {
    let offset = |offset: u64| move |f: &mut File| f.tensors[1].offset = offset;
    let mut all = vec![
        reject("two tensors in one place", offset(0), &["overlap", "a.weight", "b.weight"]),
        reject(
            "tensors overlap by a byte of the last block",
            |f| (f.tensors[0].dims = vec![8, 2, 1, 2], f.data.resize(200, 0)).1,
            &["overlap"],
        ),
        reject(
            "a tensor within another",
            |f| (f.tensors[0].dims = vec![1024], f.data.resize(8192, 0)).1,
            &["overlap", "b.weight"],
        ),
        reject(
            "overlap with tables in another order",
            |f| (f.tensors[0].offset = 64, f.tensors[1].offset = 64, f.data.resize(512, 0)).2,
            &["overlap"],
        ),
        reject("data a byte short", |f| f.data.truncate(99), &["b.weight", "outside", "truncated"]),
        reject("no data at all", |f| f.data.clear(), &["outside"]),
        reject("data half there", |f| f.data.truncate(50), &["a.weight", "outside"]),
        reject(
            "a tensor larger than the file",
            |f| f.tensors[1].dims = vec![32, 1 << 40],
            &["b.weight", "outside"],
        ),
        reject("offset just behind the end", offset(128), &["b.weight", "outside"]),
    ];
    for n in [1, 8, 32, 63, 65, 96] {
        let says = ["b.weight", "multiple of 64", &n.to_string()];
        all.push(reject(&format!("offset {n} where 64 is the alignment"), offset(n), &says));
    }
    for n in [1 << 40, 1 << 62, 1 << 63, u64::MAX - 63] {
        all.push(reject(&format!("offset {n}"), offset(n), &["b.weight", "outside", &n.to_string()]));
    }
    all.push(reject("offset 2^64-1", offset(u64::MAX), &["b.weight", "multiple of 64"]));
    all
}

/// Files that look odd and are valid.
pub fn accepts() -> Vec<(String, Vec<u8>)> {
    let accept = |name: &str, file: fn(&mut File)| (name.to_owned(), File::with(file).bytes());
    let only_keys = |f: &mut File| {
        f.tensors.clear();
        f.data.clear();
    };
    let mut all = vec![
        accept("the file that all others change", |_| {}),
        accept("version 2", |f| f.version = 2),
        accept("bytes behind the last tensor", |f| f.data.resize(5000, 7)),
        accept("a gap between tensors", |f| (f.tensors[1].offset = 192, f.data.resize(228, 0)).1),
        accept("tensors not in the order of their places", |f| {
            f.tensors[0].offset = 64;
            f.tensors[1].offset = 0;
            f.data.resize(128, 0);
        }),
        accept("unicode, spaces and escapes in a key", |f| f.keys[2].name = "ключ \x1b[31m\0 key".into()),
        accept("key of 65,535 bytes", |f| f.keys[2].name = vec![b'k'; 65_535]),
        accept("empty string", |f| f.keys[2].value = V::Str(Vec::new())),
        accept("NaN", |f| f.keys[2].value = V::F32(f32::NAN)),
        accept("empty array of every type", |f| {
            f.keys.extend(
                [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12]
                    .map(|id| key(&format!("empty.{id}"), V::Array(id, 0, Vec::new()))),
            );
        }),
        accept("a value of every type", |f| {
            let sizes =
                [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)];
            f.keys.extend(sizes.map(|(id, size)| key(&format!("one.{id}"), V::Raw(id, vec![1; size]))));
            f.keys.extend(
                sizes.map(|(id, size)| key(&format!("two.{id}"), V::Array(id, 2, vec![1; 2 * size]))),
            );
        }),
        accept("tensor name of 64 bytes", |f| f.tensors[1].name = vec![b'n'; 64]),
        accept("four dimensions", |f| f.tensors[1].dims = vec![32, 1, 2, 1]),
        accept("a tensor of one value", |f| f.tensors[0].dims = vec![1]),
        accept("1,000 tensors", |f| {
            f.tensors = (0..1000).map(|i| tensor(&format!("t.{i}"), &[1], 0, i * 64)).collect();
            f.data = vec![0; 64_000];
        }),
        accept("1,000 keys", |f| f.keys.extend((0..1000).map(|i| key(&format!("k.{i}"), V::I32(i))))),
        accept("alignment 65536", |f| {
            f.keys[1].value = V::U32(65_536);
            f.alignment = 65_536;
            f.tensors[1].offset = 65_536;
            f.data.resize(65_536 + 36, 0);
        }),
        accept("alignment 8", |f| {
            f.keys[1].value = V::U32(8);
            f.alignment = 8;
        }),
        accept("no alignment: 32", |f| {
            f.keys.remove(1);
            f.alignment = 32;
            f.tensors[1].offset = 96;
            f.data.resize(132, 0);
        }),
        accept("100,000 words", |f| {
            let words = strings(&vec![&b"word"[..]; 100_000]);
            f.keys.push(Key { name: b"many".to_vec(), len: None, value: V::Array(8, 100_000, words) });
        }),
        accept("a large string", |f| f.keys.push(key("text", V::Str(vec![b'x'; 1 << 20])))),
        ("keys only".into(), File::with(only_keys).bytes()),
        ("nothing at all".into(), File::with(|f| (only_keys(f), f.keys.clear()).1).bytes()),
        ("infinite and NaN scales in blocks".into(), File::with(|f| f.data = vec![0xff; 100]).bytes()),
    ];
    for ty in lapwing_kernels::TensorType::ALL {
        let file = File::with(|f| {
            f.tensors[1] = tensor("b.weight", &[256], ty.id(), 64);
            f.data = vec![0x5a; 64 + ty.row_bytes(256).unwrap()];
        });
        all.push((format!("a row of {ty}"), file.bytes()));
    }
    all
}
