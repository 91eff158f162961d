//! A builder without disks: recipes are a table, and a build ends when the test
//! says so.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, Mutex};

use controller::{Builder, Building, Built, Plan, Progress, Tell};
use tokio::sync::Semaphore;
use wire::{Configuration, Digest, Facts, Making};

use crate::common::{AT_ONCE, Table};

/// A recipe as far as this builder looks at it.
#[derive(Clone)]
pub struct Recipe {
    pub version: u32,
    pub uses: Vec<&'static str>,
    /// Why its build fails.
    pub broken: Option<&'static str>,
    /// What the script uses that makes its image on a machine, where one does.
    pub target: Option<Vec<&'static str>>,
}

/// Makes images that are only names.
#[derive(Clone)]
pub struct Workshop {
    images: Arc<Table>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    recipes: Mutex<BTreeMap<String, Recipe>>,
    /// Every build that began, in order.
    begun: Mutex<Vec<Configuration>>,
    /// Keys of those that run.
    running: Mutex<BTreeSet<Digest>>,
    /// A permit for each build that may end.
    ends: Mutex<Ends>,
}

/// Of one controller's life.
#[derive(Clone)]
struct Ends(Arc<Semaphore>);

impl Default for Ends {
    fn default() -> Ends {
        Ends(Arc::new(Semaphore::new(0)))
    }
}

impl Workshop {
    pub fn new(images: Arc<Table>) -> Workshop {
        let recipe = |uses: &[&'static str]| Recipe {
            version: 1,
            uses: uses.into(),
            broken: None,
            target: None,
        };
        let gpu = Recipe { target: Some(vec!["system.product"]), ..recipe(&["label.role"]) };
        let recipes = [
            ("a.toml".to_owned(), recipe(&["label.role", "system.product"])),
            ("b.toml".to_owned(), recipe(&[])),
            ("gpu.toml".to_owned(), gpu),
        ];
        let state = State { recipes: Mutex::new(recipes.into()), ..State::default() };
        Workshop { images, state: Arc::new(state) }
    }

    /// Changes a recipe.
    pub fn change(&self, recipe: &str, change: impl FnOnce(&mut Recipe)) {
        change(self.state.recipes.lock().unwrap().get_mut(recipe).unwrap());
    }

    /// Lets so many builds end.
    pub fn end(&self, builds: usize) {
        self.state.ends.lock().unwrap().0.add_permits(builds);
    }

    /// What runs goes nowhere any more, as when its process is killed.
    pub fn stop(&self) {
        *self.state.ends.lock().unwrap() = Ends::default();
        self.state.running.lock().unwrap().clear();
    }

    /// Every build that began, in order.
    pub fn begun(&self) -> Vec<Configuration> {
        self.state.begun.lock().unwrap().clone()
    }

    pub fn running(&self) -> usize {
        self.state.running.lock().unwrap().len()
    }

    /// What a recipe makes for a machine with these facts.
    pub fn configuration(&self, recipe: &str, facts: &Facts) -> Configuration {
        self.plan(Path::new(recipe), facts).unwrap().configuration().clone()
    }

    /// What machines with these facts make of that.
    pub fn whole(&self, recipe: &str, facts: &Facts) -> Configuration {
        self.plan(Path::new(recipe), facts).unwrap().on_target().unwrap().configuration.clone()
    }

    /// A build begins; what it waits for before it may end.
    fn begins(&self, configuration: &Configuration) -> Ends {
        self.state.begun.lock().unwrap().push(configuration.clone());
        let mut running = self.state.running.lock().unwrap();
        assert!(running.insert(configuration.key), "built twice at a time: {configuration}");
        assert!(running.len() <= AT_ONCE, "{} builds at a time", running.len());
        self.state.ends.lock().unwrap().clone()
    }
}

/// The image that is made for a key.
pub fn image(key: Digest) -> Digest {
    Digest(key.0.map(|byte| byte ^ 0xff))
}

struct Job {
    configuration: Configuration,
    on_target: Option<Making>,
    broken: Option<&'static str>,
    workshop: Workshop,
}

impl Plan for Job {
    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn on_target(&self) -> Option<&Making> {
        self.on_target.as_ref()
    }

    fn build(self: Box<Self>, tell: Tell) -> Building {
        Box::pin(async move {
            let Job { configuration, broken, workshop, .. } = *self;
            let ends = workshop.begins(&configuration);
            tell(Progress::Stage("base".into()));
            tell(Progress::Line("unpacking".into()));
            ends.0.acquire().await.unwrap().forget();
            tell(Progress::Stage("disk".into()));
            workshop.state.running.lock().unwrap().remove(&configuration.key);
            if let Some(broken) = broken {
                tell(Progress::Line(format!("E: {broken}")));
                assert_ne!(broken, "panic", "as a bug would");
                return Err(broken.to_owned());
            }
            let image = image(configuration.key);
            let reference = configuration.reference().to_string();
            workshop.images.0.lock().unwrap().insert(reference, image);
            Ok(Built { image, provenance: BTreeMap::from([("by".into(), "workshop".into())]) })
        })
    }
}

impl Builder for Workshop {
    fn plan(&self, recipe: &Path, facts: &Facts) -> Result<Box<dyn Plan>, String> {
        let name = recipe.to_string_lossy().into_owned();
        let found = self.state.recipes.lock().unwrap().get(&name).cloned();
        let Some(Recipe { version, uses, broken, target }) = found else {
            return Err(format!("{name}:1:1: no such recipe"));
        };
        let configuration = |what: &str, uses: &[&str]| {
            let used = uses.iter().map(|path| ((*path).to_owned(), facts.get(*path).cloned()));
            let facts: BTreeMap<_, _> = used.collect();
            let mut hasher = std::hash::DefaultHasher::new();
            format!("{what}{name} {version} {facts:?}").hash(&mut hasher);
            let key = Digest(hasher.finish().to_le_bytes().repeat(4).try_into().unwrap());
            let recipe = name.trim_end_matches(".toml").to_owned();
            Configuration { key, recipe, facts }
        };
        let on_target = target.map(|more| Making {
            configuration: configuration("whole of ", &[&uses[..], &more[..]].concat()),
            script: format!("#!/bin/sh\necho {version}\n"),
            environment: BTreeMap::from([("INGOT_A".to_owned(), "b".to_owned())]),
            timeout_secs: 60,
        });
        let configuration = configuration("", &uses);
        Ok(Box::new(Job { configuration, on_target, broken, workshop: self.clone() }))
    }
}
