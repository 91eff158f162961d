//! The policy file on disk, read again whenever it changes.

mod replace;

use std::cell::Cell;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use wire::Digest;
use wire::admin::{PolicyCheck, PolicyProblem, PolicyStatus};

use super::stamp::Stamp;
use super::{BYTES_MAX, CheckRecipe, Policy, RecipeFacts};
pub use replace::ReplaceError;

/// A policy that follows its file. A file that changes into something wrong
/// leaves the policy before it in force, and says so.
pub struct PolicyFile {
    path: PathBuf,
    recipes: Recipes,
    clock: fn() -> SystemTime,
    write: Write,
    loaded: Mutex<Loaded>,
    /// Held by whoever replaces the file.
    replacing: Mutex<()>,
}

/// How a text is put in place of a file's.
type Write = fn(&Path, &str) -> std::io::Result<()>;

/// As [`CheckRecipe`].
type Recipes = Box<dyn Fn(&Path) -> Result<RecipeFacts, String> + Send + Sync>;

#[derive(Debug)]
struct Loaded {
    policy: Arc<Policy>,
    /// What it was read from.
    text: Arc<str>,
    stamp: Option<Stamp>,
    error: Option<String>,
}

/// Why a policy file is not in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("the policy {path:?} cannot be read: create it (docs/policy.md) or name another file")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It can be read and is wrong.
    #[error("the policy has problems:\n{}", Lines { path, problems })]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problems: Vec<PolicyProblem>,
    },
}

impl fmt::Debug for PolicyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyFile").field("path", &self.path).finish_non_exhaustive()
    }
}

struct Lines<'a> {
    path: &'a Path,
    problems: &'a [PolicyProblem],
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, PolicyProblem { line, column, message }) in self.problems.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{}:{line}:{column}: {message}", self.path.display())?;
        }
        Ok(())
    }
}

impl PolicyFile {
    /// Reads a policy file for the first time; it has to be right, and so have
    /// its recipes.
    pub fn open(
        path: impl Into<PathBuf>,
        recipes: impl Fn(&Path) -> Result<RecipeFacts, String> + Send + Sync + 'static,
    ) -> Result<PolicyFile, PolicyError> {
        PolicyFile::open_with(path.into(), Box::new(recipes), SystemTime::now)
    }

    fn open_with(
        path: PathBuf,
        recipes: Recipes,
        clock: fn() -> SystemTime,
    ) -> Result<PolicyFile, PolicyError> {
        let stamp = Stamp::of(&path);
        let (policy, text) = load(&path, &|recipe| recipes(&beside(&path, recipe)))?;
        let (policy, text) = (Arc::new(policy), text.into());
        let loaded = Mutex::new(Loaded { policy, text, stamp, error: None });
        let (write, replacing) = (replace::write, Mutex::default());
        Ok(PolicyFile { path, recipes, clock, write, loaded, replacing })
    }

    /// A policy without a file, which never changes.
    pub fn fixed(policy: Policy) -> PolicyFile {
        let (policy, text) = (Arc::new(policy), "".into());
        let loaded = Loaded { policy, text, stamp: None, error: None };
        PolicyFile {
            path: PathBuf::new(),
            recipes: Box::new(|_| Ok(RecipeFacts::default())),
            clock: SystemTime::now,
            write: replace::write,
            loaded: Mutex::new(loaded),
            replacing: Mutex::default(),
        }
    }

    /// Where a recipe is that a rule names.
    pub fn recipe(&self, recipe: &Path) -> PathBuf {
        beside(&self.path, recipe)
    }

    /// What would be wrong with this text in place of the file's.
    pub fn check(&self, text: &str) -> PolicyCheck {
        Policy::check(text, &|recipe| (self.recipes)(&self.recipe(recipe)))
    }

    /// The policy in force. Reads the file again where it has changed and been
    /// left alone for two seconds; costs one look at its metadata where it has not.
    pub fn current(&self) -> Arc<Policy> {
        self.refreshed().policy.clone()
    }

    /// What is in force, and what is wrong with the file as it is now.
    pub fn status(&self) -> PolicyStatus {
        let loaded = self.refreshed();
        let text = Some(&loaded.text).filter(|_| !self.path.as_os_str().is_empty());
        PolicyStatus {
            file: self.path.display().to_string(),
            rules: loaded.policy.rules().iter().map(|rule| rule.name.clone()).collect(),
            error: loaded.error.clone(),
            text: text.map(|text| text.to_string()),
            digest: text.map(|text| digest(text)),
        }
    }

    fn refreshed(&self) -> MutexGuard<'_, Loaded> {
        // A panic elsewhere leaves nothing half-done in here: fields are set at once.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if self.path.as_os_str().is_empty() {
            return loaded;
        }
        // Taken before reading: a file written meanwhile is read again next time.
        let stamp = Stamp::of(&self.path);
        let settled = stamp.as_ref().is_none_or(|stamp| stamp.is_settled((self.clock)()));
        if settled && stamp != loaded.stamp {
            loaded.stamp = stamp;
            let wrong = Cell::new(false);
            let recipes = |recipe: &Path| {
                (self.recipes)(&self.recipe(recipe)).inspect_err(|_| wrong.set(true))
            };
            let result = load(&self.path, &recipes);
            if wrong.get() {
                // It may become right without a change to this file.
                loaded.stamp = None;
            }
            match result {
                Ok((policy, text)) => {
                    tracing::info!(file = %self.path.display(), rules = policy.rules().len(), "policy read again");
                    (loaded.policy, loaded.text) = (Arc::new(policy), text.into());
                    loaded.error = None;
                }
                Err(error) => {
                    let error = wire::chain(&error);
                    if loaded.error.as_ref() != Some(&error) {
                        tracing::error!(%error, "the policy before it stays in force");
                    }
                    loaded.error = Some(error);
                }
            }
        }
        loaded
    }
}

/// What names the text of a policy.
fn digest(text: &str) -> Digest {
    Digest(*blake3::hash(text.as_bytes()).as_bytes())
}

/// A path that starts at the folder of the policy's file.
fn beside(policy: &Path, recipe: &Path) -> PathBuf {
    policy.parent().unwrap_or(Path::new("")).join(recipe)
}

fn load(path: &Path, recipes: CheckRecipe<'_>) -> Result<(Policy, String), PolicyError> {
    let unreadable = |source| PolicyError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    // One byte more than allowed is enough to be refused for its length.
    let limit = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(limit).read_to_string(&mut text).map_err(unreadable)?;
    match Policy::parse_with(&text, recipes) {
        Ok(policy) => Ok((policy, text)),
        Err(problems) => Err(PolicyError::Wrong { path: path.to_owned(), problems }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::stamp::SETTLED;
    use super::*;

    const GOOD: &str = "[[rule]]\nname = 'a'\nhold = 'wait'\n";

    /// The time in these tests.
    fn clock() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    /// Writes a file in place, some time ago.
    fn write_before(path: &Path, text: &str, age: Duration) {
        std::fs::write(path, text).unwrap();
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(clock() - age).unwrap();
    }

    fn write(path: &Path, text: &str) {
        // Replaced, not rewritten: the stamp differs whatever the clock's grain.
        let new = path.with_extension("new");
        write_before(&new, text, SETTLED);
        std::fs::rename(&new, path).unwrap();
    }

    #[test]
    fn a_file_that_is_being_written_is_not_read_yet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        write(&path, GOOD);
        let file =
            PolicyFile::open_with(path.clone(), Box::new(|_| Ok(RecipeFacts::default())), clock)
                .unwrap();
        // The first half of a policy may be a policy that says something else.
        let half = GOOD.replace("'a'", "'half'");
        write_before(&path, &half, SETTLED - Duration::from_millis(1));
        assert_eq!((file.status().rules, file.status().error), (vec!["a".to_owned()], None));
        write_before(&path, &half.replace("half", "whole"), SETTLED);
        assert_eq!(file.status().rules, ["whole"]);

        let tomorrow = path.with_extension("tomorrow");
        std::fs::write(&tomorrow, GOOD).unwrap();
        let written = std::fs::File::options().write(true).open(&tomorrow).unwrap();
        written.set_modified(clock() + Duration::from_secs(86_400)).unwrap();
        std::fs::rename(&tomorrow, &path).unwrap();
        assert_eq!(file.status().rules, ["a"]);
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_keeps_the_old_policy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        write(&path, GOOD);
        let file =
            PolicyFile::open_with(path.clone(), Box::new(|_| Ok(RecipeFacts::default())), clock)
                .unwrap();
        assert_eq!(file.status().rules, ["a"]);

        write(&path, "[[rule]]\nname = 'b'\nhold = 4\n");
        assert_eq!(file.current().rules()[0].name, "a");
        let error = file.status().error.unwrap();
        assert!(
            error.ends_with("policy.toml:3:8: hold is a text in quotes, not integer"),
            "{error}"
        );

        write(&path, &GOOD.replace("'a'", "'c'"));
        assert_eq!((file.status().rules, file.status().error), (vec!["c".to_owned()], None));

        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.status().rules, ["c"]);
        assert!(file.status().error.unwrap().contains("cannot be read"));
    }

    #[test]
    fn a_policy_whose_recipe_is_wrong_is_taken_up_once_that_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let recipe = |path: &Path| match path.exists() {
            true => Ok(RecipeFacts::default()),
            false => Err(format!("{} is not there", path.display())),
        };
        let with_recipe = "[[rule]]\nname = 'b'\nrecipe = 'b.toml'\n";
        write(&path, with_recipe);
        assert!(PolicyFile::open(&path, recipe).unwrap_err().to_string().contains("b.toml is not"));

        write(&path, GOOD);
        let file = PolicyFile::open_with(path.clone(), Box::new(recipe), clock).unwrap();
        write(&path, with_recipe);
        for _ in 0..2 {
            let status = file.status();
            assert_eq!(status.rules, ["a"]);
            assert!(status.error.unwrap().ends_with("b.toml is not there"));
        }
        assert_eq!(file.check(with_recipe).problems.len(), 1);
        // The recipe appears beside the policy, which itself does not change.
        write(&dir.path().join("b.toml"), "");
        assert_eq!((file.status().rules, file.status().error), (vec!["b".to_owned()], None));
    }

    #[test]
    fn a_first_file_has_to_be_there_and_right() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        assert!(matches!(
            PolicyFile::open(&path, |_| Ok(RecipeFacts::default())),
            Err(PolicyError::Read { .. })
        ));
        write(&path, "[[rule]]\n");
        let error =
            PolicyFile::open(&path, |_| Ok(RecipeFacts::default())).unwrap_err().to_string();
        assert!(error.contains("policy.toml:1:1: this rule has no name"), "{error}");
    }
}
