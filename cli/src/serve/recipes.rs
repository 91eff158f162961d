//! Recipes that rules name, read again when they or a file of theirs changed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use builder::Recipe;
use controller::policy::{OnTarget, RecipeFacts, Stamp};
use tracing::{error, info};

/// What a policy has to know of the recipe in a file, or what is wrong with it.
/// `uploads`: whether the server that it is for takes them.
pub fn check_recipe(path: &Path, uploads: bool) -> Result<RecipeFacts, String> {
    let mut recipe = load(path)?;
    let on_target = match &recipe.target {
        None => OnTarget::No,
        Some(_) if uploads => OnTarget::Yes,
        Some(_) => OnTarget::Impossible(
            "a machine that makes this image sends it to the store, and this server takes no \
             uploads: set uploads = true in [store] of its configuration"
                .to_owned(),
        ),
    };
    recipe.uses.extend(recipe.target.into_iter().flat_map(|target| target.uses));
    Ok(RecipeFacts { uses: recipe.uses, on_target })
}

fn load(path: &Path) -> Result<Recipe, String> {
    Recipe::load(path).map_err(|error| wire::chain(&error))
}

/// Recipes by their files. One that changes into something wrong leaves the
/// one before it in force, and the log says so.
#[derive(Debug)]
pub struct Recipes {
    clock: fn() -> SystemTime,
    loaded: Mutex<HashMap<PathBuf, Loaded>>,
}

#[derive(Debug, Clone)]
struct Loaded {
    recipe: Arc<Recipe>,
    /// Of the recipe's file and all that were read for it.
    stamps: Vec<Option<Stamp>>,
    /// Why the file as it is now is not in force.
    error: Option<String>,
}

impl Default for Recipes {
    fn default() -> Recipes {
        Recipes { clock: SystemTime::now, loaded: Mutex::default() }
    }
}

impl Recipes {
    /// The recipe in a file. Where nothing changed this costs a look at the
    /// metadata of its files.
    pub fn get(&self, path: &Path) -> Result<Arc<Recipe>, String> {
        // Nothing in there is half-done at any moment.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let before = loaded.get(path).cloned();
        if let Some(before) = &before
            && before.stamps == stamps(path, &before.recipe)
        {
            return Ok(before.recipe.clone());
        }
        match (self.read(path), before) {
            (Ok(now), before) => {
                if before.is_some() {
                    info!(recipe = %path.display(), "recipe read again");
                }
                let recipe = now.recipe.clone();
                loaded.insert(path.to_owned(), now);
                Ok(recipe)
            }
            (Err(error), Some(before)) => {
                if before.error.as_ref() != Some(&error) {
                    error!(%error, "the recipe before it stays in force");
                }
                let recipe = before.recipe.clone();
                loaded.insert(path.to_owned(), Loaded { error: Some(error), ..before });
                Ok(recipe)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Reads a recipe, unless it is just being written.
    fn read(&self, path: &Path) -> Result<Loaded, String> {
        let recipe = Arc::new(load(path)?);
        // Taken after reading: what was written meanwhile is not settled.
        let stamps = stamps(path, &recipe);
        let now = (self.clock)();
        let settled = |stamp: &Option<Stamp>| stamp.as_ref().is_some_and(|s| s.is_settled(now));
        if !stamps.iter().all(settled) {
            let path = path.display();
            return Err(format!("{path} was just changed: it is read when it is left alone"));
        }
        Ok(Loaded { recipe, stamps, error: None })
    }
}

fn stamps(path: &Path, recipe: &Recipe) -> Vec<Option<Stamp>> {
    let files = std::iter::once(path).chain(recipe.sources.iter().map(PathBuf::as_path));
    files.map(Stamp::of).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Replaces a file by one that was written so long ago.
    fn write(path: &Path, text: &str, age: Duration) {
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        let file = std::fs::File::options().write(true).open(&new).unwrap();
        file.set_modified(clock() - age).unwrap();
        std::fs::rename(&new, path).unwrap();
    }

    /// The time in these tests.
    fn clock() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const TEXT: &str = "recipe = \"web\"\n[base]\ndistro = \"debian/bookworm\"\n\
                        [files]\n\"etc/motd\" = \"motd\"\n";

    #[test]
    fn an_image_that_machines_make_wants_a_server_that_takes_uploads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gpu.toml");
        let target = "uses = [\"label.role\"]\n[target]\nscript = \"echo it\"\n\
                      uses = [\"pci.modalias\"]\n";
        let (name, rest) = TEXT.split_once("[base]").unwrap();
        let (uses, target) = target.split_once('\n').unwrap();
        let rest = rest.split_once("[files]").unwrap().0;
        write(&path, &format!("{name}{uses}\n[base]{rest}{target}"), MINUTE);
        let facts = |uploads| check_recipe(&path, uploads).unwrap();
        assert_eq!(facts(true).uses, ["label.role", "pci.modalias"]);
        assert_eq!(facts(true).on_target, OnTarget::Yes);
        let OnTarget::Impossible(why) = facts(false).on_target else { panic!() };
        assert!(why.contains("set uploads = true in [store]"), "{why}");
    }

    #[test]
    fn a_recipe_is_read_again_when_it_or_a_file_of_it_changed_and_was_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, motd) = (dir.path().join("web.toml"), dir.path().join("motd"));
        let recipes = Recipes { clock, ..Recipes::default() };
        let content = || recipes.get(&path).map(|recipe| recipe.content);
        assert!(content().unwrap_err().starts_with("cannot read the recipe"));

        write(&motd, "hello", MINUTE);
        write(&path, TEXT, Duration::from_secs(1));
        assert!(content().unwrap_err().ends_with("it is read when it is left alone"));
        let plain = RecipeFacts { uses: vec![], on_target: OnTarget::No };
        assert_eq!(check_recipe(&path, false), Ok(plain));
        write(&path, TEXT, MINUTE);
        let first = content().unwrap();
        assert!(Arc::ptr_eq(&recipes.get(&path).unwrap(), &recipes.get(&path).unwrap()));

        write(&motd, "hell", Duration::from_secs(1));
        assert_eq!(content(), Ok(first), "it is being written");
        write(&motd, "hello!", MINUTE);
        let second = content().unwrap();
        assert_ne!(second, first);

        write(&path, &TEXT.replace("files", "fils"), MINUTE);
        assert_eq!(content(), Ok(second), "the one before stays in force");
        assert!(
            check_recipe(&path, false).unwrap_err().contains("web.toml:4:2: unknown field `fils`")
        );
        std::fs::remove_file(&motd).unwrap();
        assert_eq!(content(), Ok(second));
        write(&motd, "hello", MINUTE);
        write(&path, TEXT, MINUTE);
        assert_eq!(content(), Ok(first));
    }
}
