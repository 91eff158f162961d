//! A folder of its own and an `ingot` for every test.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder that goes away with the test, and the binary started in it.
pub struct World {
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; a signal is a failure of the test.
    pub code: i32,
    /// What it printed as result.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

impl World {
    /// An empty folder.
    pub fn new() -> World {
        World { folder: tempfile::tempdir().unwrap() }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The names of everything in one of its folders, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Every file below one of its folders.
    pub fn names_below(&self, folder: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let below = |path: PathBuf| match path.is_dir() {
            true => self.names_below(path.to_str().unwrap()),
            false => vec![path],
        };
        entries.flat_map(|entry| below(entry.unwrap().path())).collect()
    }

    /// The binary with a store in this folder, and nothing else of the
    /// tester's environment that could matter.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ingot"));
        command.args(args).current_dir(self.folder.path()).env_clear();
        command.env("HOME", self.folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("INGOT_STORE", self.path("store")).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        end(&mut self.command(args))
    }

    /// Runs it, expects success, returns what it printed.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, 0, "{ended:#?}");
        ended.stdout
    }

    /// Runs it with `--json`, expects success and one document.
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.command(args);
        let ended = end(command.arg("--json"));
        assert_eq!(ended.code, 0, "{ended:#?}");
        serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stdout))
    }

    /// Runs it, expects it to end with `code`, returns what it complained about.
    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, args: impl IntoIterator<Item = S>) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, code, "{ended:#?}");
        assert_eq!(ended.stdout, "", "an error prints no result");
        ended.stderr
    }
}

/// Runs a prepared command to its end.
pub fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap_or_else(|| panic!("ended by {:?}", output.status)),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// `len` bytes that neither repeat nor compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(len).collect()
}

/// A disk image: noise, a hole, noise again.
pub fn disk(seed: u64) -> Vec<u8> {
    let mut disk = noise(seed, 3 << 20);
    disk[1 << 20..2 << 20].fill(0);
    disk
}

/// Whether a path is there.
pub fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
