//! The rules of the house that a compiler does not check: who may use whom,
//! what a dependency may be, how long a file may grow.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which rooms each room may use, as the table in ARCHITECTURE.md says.
const MAY_USE: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("store-format", &["wire"]),
    ("store-filesystems", &[]),
    ("store-scan", &["wire", "store-format", "store-filesystems"]),
    ("store-repo", &["wire", "store-format", "store-scan"]),
    ("store-registry", &["wire", "store-format", "store-repo"]),
    ("store-remote", &["wire", "store-format"]),
    ("builder", &["wire", "store-format", "store-repo"]),
    ("agent", &["wire", "store-format", "store-scan", "store-remote"]),
    ("bootsvc-proto", &[]),
    ("bootsvc-assets", &["wire"]),
    ("bootsvc-server", &["wire", "bootsvc-proto", "bootsvc-assets"]),
    ("controller", &["wire", "store-repo"]),
    (
        "cli",
        &[
            "wire",
            "store-format",
            "store-repo",
            "store-registry",
            "store-remote",
            "builder",
            "bootsvc-proto",
            "bootsvc-assets",
            "bootsvc-server",
            "controller",
        ],
    ),
    ("tests", &["wire", "tests-rig"]),
    ("tests-rig", &[]),
    ("xtask", &["tests", "tests-rig"]),
];

/// What must not be reachable from a room, however indirectly.
const NEVER_REACHES: &[(&str, &[&str])] = &[
    (
        "agent",
        &[
            "tokio",
            "axum",
            "hyper",
            "sqlx",
            "sqlx-core",
            "object_store",
            "reqwest",
            "rustls",
            "builder",
            "store-repo",
        ],
    ),
    ("store-format", &["tokio", "socket2", "rustix", "nix", "ureq"]),
    ("store-filesystems", &["tokio", "socket2", "rustix", "nix", "ureq"]),
    ("store-scan", &["tokio", "socket2", "sqlx", "object_store", "store-repo", "ureq"]),
    ("bootsvc-proto", &["tokio", "socket2", "rustix", "nix", "ureq"]),
    ("wire", &["tokio", "socket2", "rustix", "nix", "ureq"]),
];

/// Packages that the agent may link, its own included.
const AGENT_PACKAGES_MAX: usize = 80;

/// Rooms that take files, sockets, clocks and randomness as arguments, and the
/// words by which they would reach for them.
const PURE_ROOMS: &[&str] = &["wire", "store/format", "bootsvc/proto"];
const IMPURE_WORDS: &[&str] = &[
    "std::fs",
    "std::io::std",
    "UdpSocket",
    "TcpStream",
    "SystemTime",
    "Instant::now",
    "std::thread",
    "std::env",
    "getrandom",
];

/// Lines of a source file before its tests; longer ones want splitting by their nouns.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn metadata(extra: &[&str]) -> Value {
    let args = [&["metadata", "--format-version=1", "--locked"], extra].concat();
    serde_json::from_str(&cargo(&args)).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Every Rust source of the workspace, with its path relative to the root.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, found);
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    let relative = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
    found.iter().map(|path| (relative(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The part of a source file that ships: what stands before its test module.
fn shipped(source: &str) -> &str {
    source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(source)
}

#[test]
fn rooms_use_only_the_rooms_that_they_may() {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    assert_eq!(ours, allowed.keys().copied().collect(), "MAY_USE names every room");
    for package in packages {
        let room = text(package, "name");
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = text(dependency, "name");
            let ships = dependency["kind"].is_null();
            if ships && ours.contains(used) {
                assert!(allowed[room].contains(&used), "{room} must not use {used}");
            }
        }
    }
}

#[test]
fn members_take_versions_from_the_one_table() {
    for package in metadata(&["--no-deps"])["packages"].as_array().unwrap() {
        let manifest = std::fs::read_to_string(text(package, "manifest_path")).unwrap();
        let own = manifest.lines().find(|line| line.contains("version = \""));
        assert_eq!(own, None, "{}: write it as `workspace = true`", text(package, "name"));
    }
}

#[test]
fn nothing_forbidden_is_reachable() {
    for (room, forbidden) in NEVER_REACHES {
        let reached = closure(room);
        for name in *forbidden {
            assert!(!reached.contains(*name), "{room} reaches {name}");
        }
    }
    let agent = closure("agent");
    assert!(agent.len() <= AGENT_PACKAGES_MAX, "the agent links {} packages", agent.len());
}

/// Names of the packages that a room links.
fn closure(room: &str) -> BTreeSet<String> {
    let args = [
        "tree",
        "--locked",
        "-p",
        room,
        "-e",
        "normal,no-proc-macro",
        "--prefix",
        "none",
        "-f",
        "{p}",
    ];
    let first_word = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
    cargo(&args).lines().map(first_word).filter(|name| !name.is_empty()).collect()
}

#[test]
fn pure_rooms_reach_for_no_file_socket_clock_or_randomness() {
    for (path, source) in sources() {
        if !PURE_ROOMS.iter().any(|room| path.starts_with(&format!("{room}/src/"))) {
            continue;
        }
        for word in IMPURE_WORDS {
            assert!(!shipped(&source).contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn licences_and_bans_hold() {
    let deny: BTreeMap<&str, Vec<String>> = deny_lists();
    for package in metadata(&[])["packages"].as_array().unwrap() {
        let name = text(package, "name");
        assert!(!deny["deny"].iter().any(|banned| banned == name), "{name} is banned");
        let licence = text(package, "license");
        assert!(may_be_used_under(licence, &deny["allow"]), "{name}: licence {licence:?}");
    }
}

/// The strings of the `allow` list and the names of the `deny` list of deny.toml.
fn deny_lists() -> BTreeMap<&'static str, Vec<String>> {
    let file = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = |start: &str| {
        let body = file.split(&format!("\n{start} = [")).nth(1).unwrap();
        let body = body.split("\n]").next().unwrap();
        let quoted = |line: &str| line.split('"').nth(1).map(str::to_owned);
        body.lines().filter_map(quoted).collect::<Vec<_>>()
    };
    BTreeMap::from([("allow", list("allow")), ("deny", list("deny"))])
}

/// Whether an SPDX expression (or the old `A/B` form) can be met by the allowed licences.
fn may_be_used_under(expression: &str, allowed: &[String]) -> bool {
    let term = |term: &str| {
        let term = term.trim().trim_matches(['(', ')']);
        allowed.iter().any(|licence| licence == term)
    };
    expression.replace('/', " OR ").split(" AND ").all(|part| part.split(" OR ").any(term))
}

#[test]
fn files_stay_short_and_finished() {
    let unfinished =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ign", "ore")];
    for (path, source) in sources() {
        let lines = shipped(&source).lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines before its tests");
        for word in unfinished {
            assert!(!source.contains(word), "{path} has {word}");
        }
    }
}

#[test]
fn every_public_format_has_its_page() {
    for page in [
        "agent",
        "boot-assets",
        "boot",
        "frame",
        "chunk-table",
        "cli",
        "envelope",
        "exit-codes",
        "index",
        "locations",
        "pack",
        "policy",
        "receipt",
        "recipe",
        "upload",
    ] {
        let path = root().join(format!("docs/{page}.md"));
        assert!(path.is_file(), "{} is missing", path.display());
    }
}
