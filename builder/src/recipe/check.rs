//! From the recipe as written to one that can be built, or to the place of the mistake.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use wire::Digest;

use super::raw::{self, Text};
use super::uses::uses;
use super::words::{
    base, disk, file_mode, firmware, package_list, recipe_name, step_name, system, target_path,
};
use super::{
    Check, FILE_BYTES_MAX, FILES_MAX, File, Firmware, RECIPE_BYTES_MAX, Recipe, STEPS_MAX, Script,
    Step,
};
use crate::configuration::content;

/// Longest wait for a boot, in seconds.
const TIMEOUT_SECS_MAX: u64 = 3600;
/// The wait for a boot unless the recipe says otherwise, in seconds: an emulated
/// machine on a busy host needs minutes.
const TIMEOUT_SECS: u64 = 600;
/// Longest text to wait for, in bytes.
const EXPECT_MAX: usize = 256;

/// Why a recipe cannot be built, and where that stands.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file itself cannot be read.
    #[error("cannot read the recipe {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It has a mistake.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Mistake {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What is wrong and what is allowed.
        message: String,
    },
}

/// A mistake and the bytes of the recipe that it is about.
pub(super) struct Mistake {
    at: Range<usize>,
    message: String,
}

pub(super) type Checked<T> = Result<T, Mistake>;

pub(super) fn load(path: &Path) -> Result<Recipe, RecipeError> {
    let read = |source| RecipeError::Read { path: path.to_owned(), source };
    let bytes = read_limited(path, RECIPE_BYTES_MAX).map_err(read)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| read(std::io::Error::other("the file is not UTF-8 text")))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text)
        .and_then(|raw| Checker { folder, sources: RefCell::default() }.recipe(raw, path, &text))
        .map_err(|mistake| {
            let (line, column) = wire::expr::position(&text, mistake.at.start);
            RecipeError::Mistake { path: path.to_owned(), line, column, message: mistake.message }
        })
}

fn parse(text: &str) -> Checked<raw::Recipe> {
    toml::from_str(text).map_err(|error| Mistake {
        at: error.span().unwrap_or(0..0),
        message: error.message().to_owned(),
    })
}

pub(super) fn mistake<T>(at: Range<usize>, message: impl Into<String>) -> Checked<T> {
    Err(Mistake { at, message: message.into() })
}

pub(super) struct Checker<'a> {
    folder: &'a Path,
    /// Files that were read.
    sources: RefCell<Vec<PathBuf>>,
}

impl Checker<'_> {
    fn recipe(&self, raw: raw::Recipe, path: &Path, text: &str) -> Checked<Recipe> {
        let name = recipe_name(&raw.recipe)?;
        let mut steps =
            vec![self.step(name.clone(), &raw.packages, raw.files, raw.script.as_ref())?];
        if raw.step.len() >= STEPS_MAX {
            return mistake(
                raw.step[STEPS_MAX - 1].name.span(),
                format!("more than {STEPS_MAX} steps"),
            );
        }
        for step in raw.step {
            let at = step.name.span();
            let name = step_name(&step.name)?;
            if steps.iter().any(|other| other.name == name) {
                return mistake(at, format!("two steps have the name {name:?}"));
            }
            steps.push(self.step(name, &step.packages, step.files, step.script.as_ref())?);
        }
        let mut recipe = Recipe {
            content: Digest([0; 32]),
            base: base(&raw.base)?,
            system: system(&raw.system, &name)?,
            disk: disk(&raw.disk)?,
            check: self.check(&raw.check)?,
            target: raw.target.map(|target| self.target(target, &raw.uses)).transpose()?,
            name,
            path: path.to_owned(),
            digest: Digest(*blake3::hash(text.as_bytes()).as_bytes()),
            uses: uses(&raw.uses)?,
            sources: self.sources.take(),
            steps,
        };
        recipe.content = content(&recipe);
        Ok(recipe)
    }

    fn step(
        &self,
        name: String,
        packages: &[Text],
        files: BTreeMap<Text, raw::FileEntry>,
        script: Option<&Text>,
    ) -> Checked<Step> {
        if let Some(over) = files.keys().nth(FILES_MAX) {
            return mistake(over.span(), format!("more than {FILES_MAX} files in one step"));
        }
        let mut checked = BTreeMap::new();
        for (target, entry) in files {
            let path = target_path(&target)?;
            let file = self.file(entry)?;
            if checked.insert(path, file).is_some() {
                return mistake(target.span(), format!("{} is there twice", target.as_ref()));
            }
        }
        Ok(Step {
            name,
            packages: package_list(packages)?,
            files: checked,
            script: script.map(|script| self.script(script)).transpose()?,
        })
    }

    fn file(&self, entry: raw::FileEntry) -> Checked<File> {
        let (at, table) = match entry {
            raw::FileEntry::Path(path) => return self.source_file(&path),
            raw::FileEntry::Table(table) => (table.span(), table.into_inner()),
        };
        let mode = table.mode.as_ref().map(file_mode).transpose()?;
        let file = match (table.from, table.text) {
            (Some(path), None) => self.source_file(&path)?,
            (None, Some(text)) => File { mode: 0o644, bytes: text.into_bytes() },
            _ => {
                return mistake(
                    at,
                    "a file needs either `from`, the path of its source, or `text`, its content",
                );
            }
        };
        Ok(File { mode: mode.unwrap_or(file.mode), ..file })
    }

    /// Only whether the owner may execute a source is taken from its mode: the
    /// rest depends on the umask of whoever checked it out.
    fn source_file(&self, path: &Text) -> Checked<File> {
        let (bytes, mode) = self.read(path)?;
        Ok(File { mode: if mode & 0o100 != 0 { 0o755 } else { 0o644 }, bytes })
    }

    /// A single word is the path of a script, anything else the script itself.
    pub(super) fn script(&self, script: &Text) -> Checked<Script> {
        let text = script.as_ref();
        if text.trim().is_empty() {
            return mistake(script.span(), "an empty script: leave it out");
        }
        if text.trim().contains(char::is_whitespace) {
            return Ok(Script { name: "script".to_owned(), bytes: text.clone().into_bytes() });
        }
        let (bytes, _) = self.read(script)?;
        Ok(Script { name: text.clone(), bytes })
    }

    fn read(&self, path: &Text) -> Checked<(Vec<u8>, u32)> {
        let source = self.folder.join(path.as_ref());
        self.sources.borrow_mut().push(source.clone());
        let read = || {
            let mode = std::fs::metadata(&source)?.permissions().mode();
            Ok((read_limited(&source, FILE_BYTES_MAX)?, mode))
        };
        read().map_err(|error: std::io::Error| Mistake {
            at: path.span(),
            message: format!("cannot read {}: {error}", source.display()),
        })
    }

    fn check(&self, raw: &raw::Check) -> Checked<Check> {
        let boot = match &raw.boot {
            raw::Boot::No => Vec::new(),
            raw::Boot::Yes => vec![Firmware::Bios, Firmware::Uefi],
            raw::Boot::On(names) => {
                let set: Checked<BTreeSet<_>> = names.iter().map(firmware).collect();
                set?.into_iter().collect()
            }
        };
        let expect = match &raw.expect {
            Some(text) if text.as_ref().is_empty() || text.as_ref().len() > EXPECT_MAX => {
                return mistake(text.span(), format!("expected 1 to {EXPECT_MAX} bytes of text"));
            }
            Some(text) => text.as_ref().clone(),
            None => "login:".to_owned(),
        };
        let timeout_secs = match &raw.timeout {
            Some(secs) if !(1..=TIMEOUT_SECS_MAX).contains(secs.as_ref()) => {
                return mistake(secs.span(), format!("expected 1 to {TIMEOUT_SECS_MAX} seconds"));
            }
            Some(secs) => *secs.as_ref(),
            None => TIMEOUT_SECS,
        };
        let script = raw.script.as_ref().map(|script| self.script(script)).transpose()?;
        Ok(Check { script, boot, expect, timeout_secs })
    }
}

fn read_limited(path: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    match u64::try_from(read) {
        Ok(read) if read <= bytes_max => Ok(bytes),
        _ => Err(std::io::Error::other(format!("it has more than {bytes_max} bytes"))),
    }
}
