//! The rules of the house, read from the sources: who may depend on whom, what each room may touch, and what no room
//! may hold. A rule that the compiler can enforce is not repeated here.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

/// One room: the folder of its sources, words its code may not hold, and why.
struct Room {
    folder: &'static str,
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const PRINTING: &[&str] = &[
    "println!",
    "eprintln!",
    "print!",
    "eprint!",
    "dbg!",
    "io::stdout",
    "io::stderr",
    "stdout()",
    "stderr()",
];
const SOCKETS: &[&str] = &["std::net", "TcpStream", "TcpListener", "UdpSocket", "UnixStream", "UnixListener"];

const ROOMS: &[Room] = &[
    Room { folder: "kernels/src", except: &[], words: PRINTING, why: "kernels print nothing" },
    Room {
        folder: "kernels/src",
        except: &[],
        words: &["std::fs", "std::path", "std::process", "fs::File", "File::open", "memmap2"],
        why: "kernels know no files",
    },
    Room {
        folder: "kernels/src",
        except: &[],
        words: &[
            "\"general.",
            "\"tokenizer.",
            ".block_count",
            ".attention.",
            ".rope.",
            "token_embd",
            "attn_q",
        ],
        why: "kernels know no metadata keys and no tensor names",
    },
    Room {
        folder: "kernels/src",
        except: &[],
        words: &["lapwing_models", "lapwing::", "clap", "anyhow"],
        why: "arrows point src → models → kernels",
    },
    Room { folder: "models/src", except: &[], words: PRINTING, why: "models print nothing" },
    Room {
        folder: "models/src",
        except: &[],
        words: &["core::arch", "std::arch", "rayon"],
        why: "instruction sets and threads belong to kernels",
    },
    Room {
        folder: "models/src",
        except: &[],
        words: &["lapwing::", "clap", "anyhow", "rustyline", "indicatif"],
        why: "arrows point src → models → kernels",
    },
    Room {
        folder: "models/src",
        except: &["models/src/gguf/map", "models/src/os"],
        words: &["unsafe"],
        why: "unsafe lives in kernels, in the map and in the os module",
    },
    Room {
        folder: "models/src/gguf",
        except: &[],
        words: &[".unwrap()", ".expect(", "panic!", "unreachable!"],
        why: "no file may make a reader panic: return an error",
    },
    Room {
        folder: "src",
        except: &[],
        words: &["unsafe {", "unsafe fn", "core::arch", "std::arch"],
        why: "unsafe and instruction sets belong to kernels",
    },
    Room {
        folder: "src",
        except: &["src/commands", "src/main.rs"],
        words: PRINTING,
        why: "the library half has no terminal",
    },
    Room {
        folder: "src",
        except: &["src/commands", "src/main.rs"],
        words: &["anyhow", "clap", "rustyline", "indicatif"],
        why: "the library half is built without the feature `cli`",
    },
    Room { folder: "kernels/src", except: &[], words: SOCKETS, why: "no network" },
    Room { folder: "models/src", except: &[], words: SOCKETS, why: "no network" },
    Room { folder: "src", except: &[], words: SOCKETS, why: "no network" },
];

/// Nowhere at all, tests and benches included. Written in two halves so that this file does not break its own rule.
const NOWHERE: &[(&str, &str)] = &[
    ("todo", "!("),
    ("unimplemented", "!("),
    ("#[ign", "ore"),
    ("allow(dead", "_code)"),
    ("target-c", "pu"),
    ("target_c", "pu="),
];

/// Lines that a room's rule would hit and that are right all the same: a path and a piece of the line.
const ALLOWED: &[(&str, &str)] = &[
    // only a writer of metadata calls it, with strings of its own; documented as a panic
    ("models/src/gguf/value.rs", "strings of one array stay below 4 GiB"),
];

const MAX_LINES: usize = 700;

/// All Rust sources below `folder` of the repository, as (path relative to the repository, text).
fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The code of a source without its comments and without its unit tests (which end a file, or are one: `tests.rs`).
fn code(path: &str, text: &str) -> Vec<(usize, String)> {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return Vec::new();
    }
    let mut code = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim() == "#[cfg(test)]" && next_is_module(text, number) {
            break;
        }
        code.push((number + 1, uncommented(line).to_string()));
    }
    code
}

/// Is the attribute at this line (counted from 0) that of an inline module?
fn next_is_module(text: &str, line: usize) -> bool {
    text.lines().skip(line + 1).find(|l| !l.trim_start().starts_with("#[")).is_some_and(|l| {
        let l = l.trim();
        (l.starts_with("mod ") || l.starts_with("pub mod ") || l.starts_with("pub(crate) mod "))
            && l.ends_with('{')
    })
}

/// The line up to a comment; `//` inside a string (an address) does not count.
fn uncommented(line: &str) -> &str {
    let mut from = 0;
    while let Some(at) = line[from..].find("//") {
        let at = from + at;
        if line[..at].matches('"').count().is_multiple_of(2) {
            return &line[..at];
        }
        from = at + 2;
    }
    line
}

/// Does `line` hold `word` with no identifier character directly around its ends?
fn holds(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open = !word.starts_with(part) || !before.is_some_and(part);
        let close = !word.ends_with(part) || !after.is_some_and(part);
        open && close
    })
}

fn room_violations(room: &Room, path: &str, text: &str) -> Vec<String> {
    if room.except.iter().any(|e| path.starts_with(e)) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in code(path, text) {
        if ALLOWED.iter().any(|(file, piece)| path == *file && line.contains(piece)) {
            continue;
        }
        for word in room.words {
            if holds(&line, word) {
                found.push(format!("{path}:{number}: `{word}`: {}", room.why));
            }
        }
    }
    found
}

fn general_violations(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{path}: {lines} lines, at most {MAX_LINES}: is it one room?"));
    }
    for (number, line) in text.lines().enumerate() {
        for (a, b) in NOWHERE {
            if line.contains(&format!("{a}{b}")) {
                found.push(format!("{path}:{}: `{a}{b}` is allowed nowhere", number + 1));
            }
        }
    }
    found
}

fn report(found: &[String]) {
    assert!(found.is_empty(), "{} broken rules:\n{}", found.len(), found.join("\n"));
}

#[test]
fn rooms_hold_only_what_is_theirs() {
    let mut found = Vec::new();
    for room in ROOMS {
        for (path, text) in sources(room.folder) {
            found.extend(room_violations(room, &path, &text));
        }
    }
    report(&found);
}

#[test]
fn no_source_is_too_long_or_unfinished() {
    let mut found = Vec::new();
    let mut seen = 0;
    for folder in ["kernels", "models", "src", "tests", "benches", "fuzz"] {
        for (path, text) in sources(folder) {
            if path.contains("/target/") {
                continue;
            }
            seen += 1;
            found.extend(general_violations(&path, &text));
        }
    }
    assert!(seen > 10, "only {seen} sources found: does the walk still work?");
    report(&found);
}

#[test]
fn arrows_between_crates_point_one_way() {
    let manifest = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let depends = |text: &str, name: &str| text.lines().any(|l| l.trim_start().starts_with(name));
    let kernels = manifest("kernels/Cargo.toml");
    for name in ["lapwing", "memmap2", "clap", "anyhow"] {
        assert!(!depends(&kernels, name), "kernels depends on {name}");
    }
    let models = manifest("models/Cargo.toml");
    for name in ["lapwing =", "lapwing.", "rayon", "clap", "anyhow", "rustyline", "indicatif"] {
        assert!(!depends(&models, name), "models depends on {name}");
    }
    assert!(depends(&models, "lapwing-kernels"), "the search for dependencies no longer works");
}

#[test]
fn the_program_forbids_unsafe_code() {
    for (path, text) in sources("src") {
        if path == "src/lib.rs" || path == "src/main.rs" {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{path} does not forbid unsafe code");
        }
    }
}

#[test]
fn no_build_setting_names_a_machine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in
        ["Cargo.toml", "kernels/Cargo.toml", "models/Cargo.toml", "check", "quickstart", ".cargo/config.toml"]
    {
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        for (a, b) in [("target-c", "pu"), ("-C nat", "ive"), ("-march", "=")] {
            assert!(!text.contains(&format!("{a}{b}")), "{path} holds {a}{b}: one binary for every machine");
        }
    }
}

/// The rules must be able to fail: each on a line that breaks it, and not on a harmless twin.
#[test]
fn rules_can_fail() {
    let breaks = |folder: &str, path: &str, text: &str| -> usize {
        let rooms = ROOMS.iter().filter(|r| r.folder == folder);
        rooms.map(|r| room_violations(r, path, text).len()).sum()
    };
    assert_eq!(breaks("kernels/src", "kernels/src/a.rs", "    println!(\"x\");"), 1);
    assert_eq!(breaks("kernels/src", "kernels/src/a.rs", "    // println!(\"x\");"), 0);
    assert_eq!(
        breaks("kernels/src", "kernels/src/a.rs", "#[cfg(test)]\nmod tests {\n println!(\"x\");\n}"),
        0
    );
    assert_eq!(breaks("kernels/src", "kernels/src/a.rs", "let s = \"http://x\"; println!(\"{s}\");"), 1);
    assert_eq!(breaks("models/src", "models/src/a.rs", "use rayon::prelude::*;"), 1);
    assert_eq!(breaks("models/src", "models/src/a.rs", "let crayon = 1;"), 0);
    assert_eq!(breaks("models/src", "models/src/decoder.rs", "unsafe { f() }"), 1);
    assert_eq!(breaks("models/src", "models/src/gguf/map.rs", "unsafe { f() }"), 0);
    assert_eq!(breaks("models/src/gguf", "models/src/gguf/a.rs", "let a = b.unwrap();"), 1);
    assert_eq!(breaks("models/src/gguf", "models/src/gguf/a.rs", "let a = b.unwrap_or(0);"), 0);
    assert_eq!(breaks("src", "src/session.rs", "use anyhow::Result;"), 1);
    assert_eq!(breaks("src", "src/commands/run.rs", "use anyhow::Result;"), 0);
    assert_eq!(breaks("src", "src/commands/run.rs", "TcpStream::connect(a)"), 1);
    assert_eq!(general_violations("a.rs", &"x\n".repeat(MAX_LINES + 1)).len(), 1);
    assert_eq!(general_violations("a.rs", &format!("{}{})", NOWHERE[0].0, NOWHERE[0].1)).len(), 1);
}
