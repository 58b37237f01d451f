//! Sessions on disk: conversations with their tokens, settings and stack, and, if wished, the cache.
//!
//! A file is a fixed start (48 bytes) with the lengths of what follows and the header's checksum, a header in JSON,
//! and, if wished, the blocks of the cache and the checksum of their checksums: threads check blocks at once. A file
//! comes from strangers like any other: nothing in it is believed before it is checked. Files are written beside their
//! place and renamed, so that a reader finds the old or the new one.
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use lapwing_models::cancel::Cancel;
use lapwing_models::gguf::Gguf;
use lapwing_models::kv_cache::{BLOCK, KvCache, LAYOUT};
use lapwing_models::os::{NewFile, read_exact_at};
use lapwing_models::{Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::branches::{Branch, Branches};
use crate::conversation::{Conversation, Role, Turn};
use crate::session::Session;

/// What every file begins with; the number is the format's.
const MAGIC: &[u8; 16] = b"lapwing-session2";
/// Bytes before the header: magic, length of the header (u64), its XXH3 checksum (u128) and the length of the cache
/// (u64), little-endian.
const START: usize = 16 + 8 + 16 + 8;
/// Bytes behind the cache: the checksum (u128) of the checksums of its blocks.
const END: usize = 16;
/// Longest header: thousands of long conversations.
const LONGEST_HEADER: u64 = 64 << 20;
/// Bytes read and summed up at a time: they stay in the processor's caches.
const PIECE: usize = 256 << 10;

/// All that is saved but the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The model that answered.
    pub model: SavedModel,
    /// Settings, each as it would be typed.
    pub settings: Vec<(String, String)>,
    /// Adapters, in order.
    pub stack: Vec<SavedAdapter>,
    /// Whether they are applied.
    pub stack_on: bool,
    /// The chat template, if it is not the model's own as it is. (Older sessions of this format do not say.)
    #[serde(default)]
    pub template: SavedTemplate,
    /// All branches.
    #[serde(with = "branches")]
    pub branches: Branches,
    /// What waits to be put before the next message.
    pub attached: String,
    /// What the cache in the file holds, if there is one.
    pub cache: Option<SavedCache>,
}

/// Which model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedModel {
    /// Where it was.
    pub path: PathBuf,
    /// What it was: see [`fingerprint`].
    pub fingerprint: String,
}

/// A choice of chat template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTemplate {
    /// Where it was read from, and its text, so that no change of the file changes a conversation; `None` is the
    /// model's own.
    pub file: Option<(PathBuf, String)>,
    /// What its variables are set to.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// An adapter of the stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedAdapter {
    /// Name in the stack.
    pub name: String,
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its content, hexadecimal.
    pub hash: String,
    /// The person's factor on it.
    pub scale: f32,
}

/// What a saved cache holds, and what it is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedCache {
    /// Tokens whose keys and values are in it.
    pub tokens: Vec<u32>,
    /// Arrangement of its bytes, [`LAYOUT`].
    pub layout: String,
    /// What its numbers depend on besides tokens and model: shape and type, instruction set, adapters and their scales.
    pub made_with: String,
}

impl SavedCache {
    /// The cache of `session`; `None` when it is empty.
    pub fn of(session: &Session) -> Option<Self> {
        let n = session.cache().len().min(session.tokens().len());
        (n > 0 && n == session.cache().len()).then(|| Self {
            tokens: session.tokens()[..n].to_vec(),
            layout: LAYOUT.to_owned(),
            made_with: made_with(session),
        })
    }
}

/// What the numbers in a session's cache depend on besides tokens and model: shape and type, instruction set, and hash
/// and scale of every adapter that is applied.
fn made_with(session: &Session) -> String {
    let isa = session.engine().team().isa();
    let stack = session.stack().key();
    let stack = stack.iter().map(|(hash, scale)| format!(" {}*{scale:08x}", hex(hash))).collect::<String>();
    format!("{:?} {isa}{stack}", session.cache().shape())
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Branches as a list, checked when read.
mod branches {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Branch, Branches, Conversation, Role, Turn};

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct All {
        current: String,
        all: Vec<One>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct One {
        name: String,
        turns: Vec<(Who, String, Option<Vec<u32>>)>,
        left_out: usize,
        summary: Option<String>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Who {
        System,
        User,
        Assistant,
    }

    pub fn serialize<S: Serializer>(branches: &Branches, to: S) -> Result<S::Ok, S::Error> {
        let turn = |turn: &Turn| {
            let who = match turn.role {
                Role::System => Who::System,
                Role::User => Who::User,
                Role::Assistant => Who::Assistant,
            };
            (who, turn.text.clone(), turn.ids.clone())
        };
        let one = |branch: &Branch| One {
            name: branch.name.clone(),
            turns: branch.conversation.turns().iter().map(turn).collect(),
            left_out: branch.conversation.left_out(),
            summary: branch.conversation.summary().map(str::to_owned),
        };
        let current = branches.current().name.clone();
        All { current, all: branches.all().iter().map(one).collect() }.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Branches, D::Error> {
        let All { current, all } = All::deserialize(from)?;
        let turn = |(who, text, ids)| {
            let role = match who {
                Who::System => Role::System,
                Who::User => Role::User,
                Who::Assistant => Role::Assistant,
            };
            Turn { role, text, ids }
        };
        let branch = |one: One| {
            let conversation = Conversation::from_turns(one.turns.into_iter().map(turn).collect());
            conversation.map(|mut conversation| {
                conversation.restore_left_out(one.left_out, one.summary);
                Branch { name: one.name, conversation }
            })
        };
        let branches = all.into_iter().map(branch).collect::<lapwing_models::Result<_>>();
        branches.and_then(|branches| Branches::new(branches, &current)).map_err(D::Error::custom)
    }
}

/// Names a model by its content: hyper-parameters, vocabulary, and of every tensor name, type, shape and both ends.
/// It is meant to tell models apart, not to withstand forgery.
pub fn fingerprint(gguf: &Gguf) -> String {
    let mut hash = Xxh3::new();
    for (key, value) in gguf.entries() {
        hash.update(key.as_bytes());
        hash.update(format!("{value:?}").as_bytes());
    }
    for tensor in gguf.tensors() {
        hash.update(format!("{} {} {:?}", tensor.name, tensor.ty, tensor.shape).as_bytes());
        let end = tensor.data.len().min(64);
        hash.update(&tensor.data[..end]);
        hash.update(&tensor.data[tensor.data.len() - end..]);
    }
    format!("{:032x}", hash.digest128())
}

/// Writes a session to `path`, for nobody else to read; with its cache if `cache` is what `saved.cache` describes.
///
/// # Errors
/// As [`NewFile`], and an interruption when it is cancelled; the file is then as it was before.
pub fn write(path: &Path, saved: &Saved, cache: Option<&KvCache>, cancel: &Cancel) -> Result<()> {
    let header =
        serde_json::to_vec(saved).map_err(|error| Error::bad_file(error.to_string()).in_file(path))?;
    let bytes = cache.and_then(|cache| cache.dump_bytes(cache.len())).unwrap_or_default();
    let mut file = NewFile::create_private(path)?;
    file.write(MAGIC)?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&xxh3_128(&header).to_le_bytes())?;
    file.write(&(bytes as u64).to_le_bytes())?;
    file.write(&header)?;
    if let Some(cache) = cache {
        let mut sums = Vec::new();
        cache.dump(&mut |block| {
            cancel.check()?;
            let mut sum = Xxh3::new();
            for part in block {
                sum.update(part);
                file.write(part)?;
            }
            sums.push(sum.digest128());
            Ok(())
        })?;
        file.write(&sum_of(&sums).to_le_bytes())?;
    }
    cancel.check()?;
    file.commit()
}

/// The checksum of checksums.
fn sum_of(sums: &[u128]) -> u128 {
    xxh3_128(&sums.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<_>>())
}

/// A session's file, of which all but the cache has been read.
pub struct Opened {
    /// What it holds.
    pub saved: Saved,
    path: PathBuf,
    file: File,
    /// Where the cache begins.
    offset: u64,
    cache_bytes: u64,
}

impl Opened {
    /// Opens the session at `path`.
    ///
    /// # Errors
    /// When there is none, or its start or header is not what it should be.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(path).map_err(|error| error.in_file(path))
    }

    fn read(path: &Path) -> Result<Self> {
        let failed = |e| Error::io("read", path, &e);
        let mut file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let cut = |expected: u64| {
            Error::bad_file("the session is cut off or has something behind its end")
                .expected_got(format!("{expected} bytes"), meta.len())
        };
        if !meta.is_file() {
            return Err(Error::bad_file("not a saved session").expected_got("a file", "something else"));
        }
        let mut start = [0; START];
        let n = file.by_ref().take(START as u64).read(&mut start).map_err(failed)?;
        if n < MAGIC.len() || start[..MAGIC.len() - 1] != MAGIC[..MAGIC.len() - 1] {
            return Err(Error::bad_file("not a saved session"));
        }
        if start[..MAGIC.len()] != *MAGIC {
            return Err(Error::bad_file("the session has a format that is not known")
                .expected_got("format 2", char::from(start[MAGIC.len() - 1]).escape_default())
                .advice("the version of lapwing that saved it can read it"));
        }
        if n < START {
            return Err(cut(START as u64));
        }
        let mut numbers = &start[MAGIC.len()..];
        let mut number = |n: usize| {
            let (bytes, rest) = numbers.split_at(n);
            numbers = rest;
            bytes.iter().rev().fold(0_u128, |all, &byte| all << 8 | u128::from(byte))
        };
        let (header_bytes, header_sum, cache_bytes) = (number(8) as u64, number(16), number(8) as u64);
        if header_bytes > LONGEST_HEADER {
            return Err(Error::bad_file("the session's header is too long")
                .expected_got(format!("at most {LONGEST_HEADER} bytes"), header_bytes));
        }
        let offset = START as u64 + header_bytes;
        let end = if cache_bytes > 0 { END as u64 } else { 0 };
        let whole = offset.saturating_add(cache_bytes).saturating_add(end);
        if meta.len() != whole {
            return Err(cut(whole));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(failed)?;
        if xxh3_128(&header) != header_sum {
            return Err(damaged("header"));
        }
        let saved: Saved = serde_json::from_slice(&header).map_err(|error| {
            Error::bad_file(format!("the session's header cannot be read: {error}"))
                .at(format!("byte {}", START + error.column().saturating_sub(1)))
        })?;
        Ok(Self { saved, path: path.to_path_buf(), file, offset, cache_bytes })
    }

    /// Gives `session`, which has the model that the file names, the tokens and the cache in the file. Says whether there
    /// are any that it can use: those of other adapters, another instruction set or type of cache are not.
    ///
    /// # Errors
    /// When the bytes are damaged, or do not fit the session. It is then empty.
    pub fn restore(self, session: &mut Session) -> Result<bool> {
        let Some(cache) = &self.saved.cache else { return Ok(false) };
        if cache.layout != LAYOUT || cache.made_with != made_with(session) {
            return Ok(false);
        }
        let path = self.path.clone();
        let threads = session.engine().team().threads();
        let restored = session.restore(cache.tokens.clone(), |cache| self.fill(cache, threads));
        restored.map(|()| true).map_err(|error| error.in_file(&path))
    }

    /// Fills `cache` with what the file holds; it must have the shape that the saved one had.
    fn fill(self, cache: &mut KvCache, threads: usize) -> Result<()> {
        let filled = self.try_fill(cache, threads).map_err(|error| error.in_file(&self.path));
        if filled.is_err() {
            cache.truncate(0);
        }
        filled
    }

    fn try_fill(&self, cache: &mut KvCache, threads: usize) -> Result<()> {
        let saved = self.saved.cache.as_ref().ok_or_else(|| Error::bad_file("no cache was saved"))?;
        let len = saved.tokens.len();
        let expected = cache.dump_bytes(len).map(|bytes| bytes as u64);
        if saved.layout != LAYOUT || expected != Some(self.cache_bytes) {
            return Err(Error::bad_file("the saved cache is of another shape").expected_got(
                format!("{} bytes, layout {LAYOUT}", expected.unwrap_or(u64::MAX)),
                format!("{} bytes, layout {}", self.cache_bytes, saved.layout),
            ));
        }
        let failed = |e| Error::io("read", &self.path, &e);
        let sums = Mutex::new(vec![0; len.div_ceil(BLOCK)]);
        cache.restore(len, threads, |at, block| {
            let mut offset =
                self.offset + at as u64 * block.iter().map(|part| part.len() as u64).sum::<u64>();
            let mut sum = Xxh3::new();
            for piece in block.into_iter().flat_map(|part| part.chunks_mut(PIECE)) {
                read_exact_at(&self.file, piece, offset).map_err(failed)?;
                offset += piece.len() as u64;
                sum.update(piece);
            }
            if let Ok(mut sums) = sums.lock() {
                sums[at] = sum.digest128();
            }
            Ok(())
        })?;
        let mut end = [0; END];
        read_exact_at(&self.file, &mut end, self.offset + self.cache_bytes).map_err(failed)?;
        let sums = sums.into_inner().unwrap_or_default();
        if sum_of(&sums).to_le_bytes() == end { Ok(()) } else { Err(damaged("cache")) }
    }
}

fn damaged(part: &str) -> Error {
    Error::bad_file(format!("the session's {part} is damaged")).expected_got("its checksum", "another one")
}

#[cfg(test)]
mod tests {
    use lapwing_models::Class;
    use lapwing_models::kv_cache::KvType;

    use tempfile::tempdir;

    use super::*;

    fn example() -> Saved {
        let mut branches = Branches::default();
        branches.conversation_mut().set_system(Some("Be brief.".to_owned()));
        branches.conversation_mut().say("one \u{1b}\n\"two\"");
        branches.conversation_mut().answer("three", Some(vec![3, 4]));
        branches.fork("idea").unwrap();
        branches.conversation_mut().say("four");
        branches.conversation_mut().leave_out(2, Some("five"));
        Saved {
            model: SavedModel { path: "/m/a.gguf".into(), fingerprint: "00ff".to_owned() },
            settings: vec![("temp".to_owned(), "0.5".to_owned())],
            stack: vec![SavedAdapter {
                name: "bard".to_owned(),
                path: "/l/bard".into(),
                hash: "ab".to_owned(),
                scale: 0.1,
            }],
            stack_on: true,
            template: SavedTemplate {
                file: Some(("/t/a.jinja".into(), "{{ messages }}".to_owned())),
                variables: serde_json::Map::from_iter([("thinks".to_owned(), false.into())]),
            },
            branches,
            attached: "notes".to_owned(),
            cache: Some(SavedCache {
                tokens: (0..100).collect(),
                layout: LAYOUT.to_owned(),
                made_with: String::new(),
            }),
        }
    }

    /// A cache of 100 positions, filled with bytes that differ.
    fn cache() -> KvCache {
        let model = crate::synthetic::model("tiny-llama:q8_0", 1, 1).unwrap();
        let mut cache = KvCache::new(model.spec(), KvType::F16, 200).unwrap();
        let fill = |at: usize, block: [&mut [u8]; 2]| -> Result<()> {
            let mut next = at as u8;
            block.into_iter().flatten().for_each(|byte| {
                next = next.wrapping_mul(5).wrapping_add(1);
                *byte = next;
            });
            Ok(())
        };
        cache.restore(100, 1, fill).unwrap();
        cache
    }

    fn bytes(cache: &KvCache) -> Vec<u8> {
        let mut all = Vec::new();
        cache
            .dump(&mut |block| {
                block.into_iter().for_each(|part| all.extend_from_slice(part));
                Ok(())
            })
            .unwrap();
        all
    }

    #[test]
    fn what_is_saved_is_read_back() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.session");
        let (saved, full) = (example(), cache());
        write(&path, &saved, Some(&full), &Cancel::default()).unwrap();
        let opened = Opened::open(&path).unwrap();
        assert_eq!(opened.saved, saved);
        let mut again = full.fork();
        opened.fill(&mut again, 1).unwrap();
        for threads in [1, 2, 9] {
            again.truncate(0);
            Opened::open(&path).unwrap().fill(&mut again, threads).unwrap();
            assert_eq!(again.len(), 100);
            assert_eq!(bytes(&again), bytes(&full), "{threads} threads");
        }
        // One that is given up leaves the file alone.
        let cancel = Cancel::default();
        cancel.cancel();
        assert_eq!(write(&path, &saved, Some(&full), &cancel).unwrap_err().class, Class::Interrupted);
        assert!(Opened::open(&path).unwrap().saved.cache.is_some());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        // Again, without the cache, over the old one.
        let saved = Saved { cache: None, ..saved };
        write(&path, &saved, None, &Cancel::default()).unwrap();
        let opened = Opened::open(&path).unwrap();
        assert_eq!(opened.saved, saved);
        assert_eq!(opened.fill(&mut again, 2).unwrap_err().class, Class::BadFile);
        assert!(again.is_empty());
    }

    #[test]
    fn damaged_files_are_refused_wherever_the_damage_is() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.session");
        let full = cache();
        write(&path, &example(), Some(&full), &Cancel::default()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let header = whole.len() - bytes(&full).len() - END;
        let refused = |bytes: &[u8], what: &str| {
            std::fs::write(&path, bytes).unwrap();
            let mut cache = full.fork();
            let error = Opened::open(&path).and_then(|opened| opened.fill(&mut cache, 2)).expect_err(what);
            assert_eq!(error.class, Class::BadFile, "{what}: {error}");
            assert!(error.to_string().contains("a.session"), "{what}: {error}");
        };
        for len in (0..header).step_by(3).chain((header..whole.len()).step_by(9973)) {
            refused(&whole[..len], &format!("{len} bytes"));
        }
        refused(&[&whole[..], b"x"].concat(), "one byte more");
        for at in (0..header + 99).step_by(2).chain((header..whole.len()).step_by(9973)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            refused(&bytes, &format!("byte {at}"));
        }
    }

    /// Headers with a right checksum and wrong content, as a stranger would write them.
    #[test]
    fn forged_headers_are_refused() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.session");
        let good = serde_json::to_value(Saved { cache: None, ..example() }).unwrap();
        let open = |header: &[u8]| {
            let mut file = MAGIC.to_vec();
            file.extend((header.len() as u64).to_le_bytes());
            file.extend(xxh3_128(header).to_le_bytes());
            file.extend(0_u64.to_le_bytes());
            file.extend(header);
            std::fs::write(&path, file).unwrap();
            Opened::open(&path)
        };
        assert!(open(good.to_string().as_bytes()).is_ok());
        let set = |pointer: &str, value: serde_json::Value| {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} in {good}")) = value;
            bad.to_string()
        };
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for header in [
            String::new(),
            "{}".to_owned(),
            "null".to_owned(),
            deep,
            set("/branches/current", "nowhere".into()),
            set("/branches/all", serde_json::json!([])),
            set("/branches/all/1/name", "main".into()),
            set("/branches/all/1/name", "../x".into()),
            set("/branches/all/0/turns/1/0", "system".into()),
            set("/branches/all/0/turns/1/0", "nobody".into()),
            set("/branches/all/0/turns/2/2", serde_json::json!([-1])),
            set("/branches/all/0/turns/2/2", serde_json::json!([1_u64 << 32])),
            set("/stack/0/scale", "much".into()),
            set("/settings", serde_json::json!([["temp"]])),
            good.to_string().replacen('{', "{\"more\":1,", 1),
        ] {
            let error = open(header.as_bytes()).err().unwrap_or_else(|| panic!("accepted: {header:.200}"));
            assert_eq!(error.class, Class::BadFile, "{error}");
        }
        assert!(open(b"\xff").is_err());
    }

    #[test]
    fn what_is_no_session_is_told() {
        let folder = tempdir().unwrap();
        assert_eq!(Opened::open(folder.path()).err().unwrap().class, Class::BadFile);
        assert_eq!(Opened::open(&folder.path().join("missing")).err().unwrap().class, Class::Other);
        std::fs::write(
            folder.path().join("text"),
            "a letter, longer than the start of any session would be at all",
        )
        .unwrap();
        let error = Opened::open(&folder.path().join("text")).err().unwrap();
        assert!(error.to_string().contains("not a saved session"), "{error}");
    }
}
