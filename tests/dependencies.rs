//! The rules for other people's code: nothing in the tree compiles or links C or C++, wraps another runtime or speaks
//! to a network. The fuzz targets stand outside (`fuzz/` is no member of the workspace).
#![forbid(unsafe_code)]

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates whose purpose is to find, compile or bind C or C++.
const BUILDERS: &[&str] = &[
    "autotools",
    "bindgen",
    "cbindgen",
    "cc",
    "cmake",
    "cpp",
    "cpp_build",
    "cxx",
    "cxx-build",
    "meson",
    "nasm-rs",
    "pkg-config",
    "system-deps",
    "vcpkg",
];

/// `*-sys` crates that only declare what the operating system has, and compile nothing.
const DECLARATIONS: &[&str] = &["js-sys", "linux-raw-sys", "web-sys", "windows-sys"];

/// Crates that open connections, or exist to do so.
const NETWORK: &[&str] = &[
    "actix-web",
    "async-std",
    "attohttpc",
    "aws-lc-rs",
    "axum",
    "curl",
    "h2",
    "hf-hub",
    "hickory-resolver",
    "hyper",
    "isahc",
    "libp2p",
    "mio",
    "minreq",
    "native-tls",
    "openssl",
    "quinn",
    "reqwest",
    "ring",
    "rustls",
    "smol",
    "socket2",
    "ssh2",
    "surf",
    "tiny_http",
    "tokio",
    "tonic",
    "tungstenite",
    "ureq",
    "warp",
    "webpki",
];

/// Parts of names of crates that wrap another runtime for models.
const WRAPPERS: &[&str] =
    &["ggml", "llama-cpp", "llama_cpp", "whisper-rs", "onnxruntime", "ort-sys", "torch"];

/// Packages with a `links` key that names no library: cargo's way to allow one version only.
const LINKS_NOTHING: &[&str] = &["rayon-core"];

/// Packages with a build script and C files that the script does not compile: nix keeps one for its own tests.
const C_FILES_UNUSED: &[&str] = &["nix"];

/// Shared libraries every Linux program has: the C library and what it consists of, and the unwinder.
const SYSTEM_LIBRARIES: &[&str] =
    &["linux-vdso", "libc.so", "libm.so", "libgcc_s.so", "ld-linux", "libpthread.so", "libdl.so", "librt.so"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Why a crate of this name may not be in the tree.
fn denied(name: &str) -> Option<&'static str> {
    if BUILDERS.contains(&name) {
        Some("compiles or binds C or C++")
    } else if name.ends_with("-sys") && !DECLARATIONS.contains(&name) {
        Some("binds a library")
    } else if NETWORK
        .iter()
        .any(|n| name == *n || name.strip_prefix(n).is_some_and(|r| r.starts_with(['-', '_'])))
    {
        Some("speaks to a network")
    } else if WRAPPERS.iter().any(|w| name.contains(w)) {
        Some("wraps another runtime")
    } else {
        None
    }
}

/// What `cargo metadata` says of the packages that are built for one platform, with build and dev dependencies.
fn packages(platform: &str) -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--all-features",
            "--filter-platform",
            platform,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let built: BTreeSet<String> = nodes.iter().map(|n| text(&n["id"])).collect();
    let all = metadata["packages"].as_array().expect("packages");
    all.iter().filter(|p| built.contains(&text(&p["id"]))).cloned().collect()
}

/// C, C++ or assembly files below a folder.
fn foreign_sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
            if path.is_dir() {
                folders.push(path);
            } else if ["c", "cc", "cpp", "cxx", "m", "mm", "S", "s", "asm", "cu", "o", "a"]
                .contains(&extension)
            {
                found.push(path);
            }
        }
    }
    found
}

/// Cargo.lock holds every crate of every platform, so this sees more than one build does.
#[test]
fn no_crate_of_the_lock_file_is_denied() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names: Vec<&str> =
        lock.lines().filter_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert!(names.contains(&"lapwing"), "Cargo.lock is not read as it should be");
    let found: Vec<String> =
        names.iter().filter_map(|n| denied(n).map(|why| format!("{n}: {why}"))).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn names_are_denied_and_allowed_as_meant() {
    for name in [
        "cc",
        "openssl-sys",
        "reqwest",
        "hyper-util",
        "tokio",
        "llama-cpp-2",
        "onig_sys-sys",
        "rustls-webpki",
    ] {
        assert!(denied(name).is_some(), "{name}");
    }
    for name in ["linux-raw-sys", "windows-sys", "libc", "ringbuf", "match_token", "h2o"] {
        assert!(denied(name).is_none(), "{name}");
    }
}

#[test]
fn no_package_compiles_c() {
    for platform in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        let packages = packages(platform);
        assert!(packages.len() > 20, "{} packages: is the tree read as it should be?", packages.len());
        let mut found = Vec::new();
        for package in &packages {
            let name = package["name"].as_str().unwrap();
            if let Some(library) = package["links"].as_str()
                && !LINKS_NOTHING.contains(&name)
            {
                found.push(format!("{name} links {library}"));
            }
            let targets = package["targets"].as_array().unwrap();
            let script =
                targets.iter().any(|t| t["kind"].as_array().unwrap().iter().any(|k| k == "custom-build"));
            let own = package["source"].is_null();
            let folder = Path::new(package["manifest_path"].as_str().unwrap()).parent().unwrap();
            if own {
                assert!(!script, "{name} has a build script: say here why it may");
            } else if script && !C_FILES_UNUSED.contains(&name) {
                let files = foreign_sources(folder);
                found.extend(files.iter().map(|f| format!("{name} has a build script and {}", f.display())));
            }
        }
        assert!(found.is_empty(), "{platform}: {found:#?}");
    }
}

/// The proof of the pudding: what the program asks the dynamic linker for.
#[cfg(target_os = "linux")]
#[test]
fn the_program_links_the_c_library_only() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_lapwing")).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("libc.so") || text.contains("statically linked"), "ldd says: {text}");
    for line in text.lines().map(str::trim) {
        let name = line.split_whitespace().next().unwrap_or("");
        let name = name.rsplit('/').next().unwrap_or("");
        let known = SYSTEM_LIBRARIES.iter().any(|l| name.starts_with(l)) || name == "statically";
        assert!(known, "the program links {line}");
    }
}

#[test]
fn every_own_package_has_the_licence() {
    for package in packages("x86_64-unknown-linux-gnu").iter().filter(|p| p["source"].is_null()) {
        assert_eq!(package["license"], "MIT OR Apache-2.0", "{}", package["name"]);
    }
    for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
        assert!(root().join(file).is_file(), "{file} is missing");
    }
}
