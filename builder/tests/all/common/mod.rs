//! What the tests that really build share: one cache for all of them, so that
//! the base tree is made once, and a look into finished disks.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use builder::{BuildError, BuiltImage, Event, Options, Outcome, Recipe, Stage};

/// Whether this process may build. Tests that build say so and end otherwise:
/// there is nothing to see without root.
pub fn can_build() -> bool {
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        eprintln!("not run: building needs root");
    }
    root
}

/// The cache that all tests share, kept from run to run.
pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("builder-cache")
}

/// A recipe of this tree.
pub fn example(name: &str) -> Recipe {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    Recipe::load(&folder.join(name)).unwrap()
}

/// A recipe on the base of the demo recipe.
pub fn recipe(name: &str, rest: &str) -> Recipe {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    let text = format!(
        "recipe = \"{name}\"\n{rest}\n[base]\ndistro = \"debian/bookworm\"\n\
         packages = [\"linux-image-cloud-amd64\"]\n"
    );
    fs::write(&path, text).unwrap();
    Recipe::load(&path).unwrap()
}

/// What a build told.
#[derive(Default)]
pub struct Told(pub RefCell<Vec<Event>>);

impl Told {
    /// How each stage ended.
    pub fn outcomes(&self) -> Vec<(Stage, Outcome)> {
        let ended = |event: &Event| match event {
            Event::Ended { stage, outcome, .. } => Some((stage.clone(), *outcome)),
            _ => None,
        };
        self.0.borrow().iter().filter_map(ended).collect()
    }

    /// The log lines of the steps.
    pub fn log(&self) -> Vec<String> {
        let line = |event: &Event| match event {
            Event::Log { stage: Stage::Step(_), line } => Some(line.clone()),
            _ => None,
        };
        self.0.borrow().iter().filter_map(line).collect()
    }
}

/// Builds with a cache folder and remembers what was told.
pub fn build_in(recipe: &Recipe, cache: PathBuf) -> (Result<BuiltImage, BuildError>, Told) {
    build_with(recipe, &Options::new(cache))
}

/// Builds with these options and remembers what was told.
pub fn build_with(recipe: &Recipe, options: &Options) -> (Result<BuiltImage, BuildError>, Told) {
    let told = Told::default();
    let result = builder::build(recipe, options, &|event| {
        if let Event::Ended { stage, outcome, elapsed } = &event {
            eprintln!("{stage}: {outcome:?} after {:.1} s", elapsed.as_secs_f64());
        }
        told.0.borrow_mut().push(event);
    });
    (result, told)
}

/// Builds with the shared cache.
pub fn build(recipe: &Recipe) -> (BuiltImage, Told) {
    let (result, told) = build_in(recipe, cache());
    (result.unwrap_or_else(|error| panic!("{}", wire::chain(&error))), told)
}

/// Copies a partition out of a disk; its zeros stay holes.
pub fn partition(disk: &Path, start_sector: u64, sectors: u64, to: &Path) {
    let mut from = File::open(disk).unwrap();
    from.seek(SeekFrom::Start(start_sector * 512)).unwrap();
    let mut out = File::create(to).unwrap();
    out.set_len(sectors * 512).unwrap();
    let mut left = from.take(sectors * 512);
    let mut block = vec![0; 1 << 16];
    loop {
        let read = left.read(&mut block).unwrap();
        if read == 0 {
            return;
        }
        if block[..read].iter().all(|&byte| byte == 0) {
            out.seek(SeekFrom::Current(i64::try_from(read).unwrap())).unwrap();
        } else {
            out.write_all(&block[..read]).unwrap();
        }
    }
}

/// Runs a tool that must succeed and returns what it printed.
pub fn tool(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}{errors}", output.status);
    text
}

/// Whether two files have the same bytes, and where they begin to differ.
pub fn first_difference(a: &Path, b: &Path) -> Option<u64> {
    let (mut a, mut b) = (open(a), open(b));
    let (mut left, mut right) = ([0; 1 << 16], [0; 1 << 16]);
    let mut at = 0;
    loop {
        let read = a.read(&mut left).unwrap();
        match b.read_exact(&mut right[..read]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Some(at),
            result => result.unwrap(),
        }
        if let Some(i) = left[..read].iter().zip(&right).position(|(a, b)| a != b) {
            return Some(at + i as u64);
        }
        at += read as u64;
        if read == 0 {
            return (b.read(&mut right).unwrap() != 0).then_some(at);
        }
    }
}

fn open(path: &Path) -> io::BufReader<File> {
    io::BufReader::new(File::open(path).unwrap())
}
