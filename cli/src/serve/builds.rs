//! The builder makes what the controller finds missing, and the store keeps it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use builder::{BuiltImage, Event, Options, Recipe};
use controller::{Builder, Building, Built, Plan, Progress, Tell};
use store_repo::{ImportProgress, Repo, Source};
use wire::{Configuration, FactValue, Facts, Making};

use super::recipes::Recipes;
use crate::command::build::import_options;

/// Makes images and stores them.
pub struct RecipeBuilder {
    recipes: Recipes,
    repo: Arc<Repo>,
    cache: PathBuf,
}

impl RecipeBuilder {
    /// Into this store, with this folder for what builds use again.
    pub fn new(repo: Arc<Repo>, cache: PathBuf) -> RecipeBuilder {
        RecipeBuilder { recipes: Recipes::default(), repo, cache }
    }
}

impl Builder for RecipeBuilder {
    fn plan(&self, recipe: &Path, facts: &Facts) -> Result<Box<dyn Plan>, String> {
        let recipe = self.recipes.get(recipe)?;
        let configuration = recipe.configuration(facts);
        let on_target = recipe.on_target(facts);
        let (repo, cache) = (self.repo.clone(), self.cache.clone());
        Ok(Box::new(Job { recipe, configuration, on_target, repo, cache }))
    }
}

/// One image to make. The recipe is complete: what happens to its files
/// meanwhile does not matter.
struct Job {
    recipe: Arc<Recipe>,
    configuration: Configuration,
    on_target: Option<Making>,
    repo: Arc<Repo>,
    cache: PathBuf,
}

impl Plan for Job {
    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn on_target(&self) -> Option<&Making> {
        self.on_target.as_ref()
    }

    fn build(self: Box<Self>, tell: Tell) -> Building {
        Box::pin(async move { self.make(&tell).await.map_err(|error| cause(&error)) })
    }
}

impl Job {
    async fn make(&self, tell: &Tell) -> anyhow::Result<Built> {
        let built = self.disk(tell).await?;
        tell(Progress::Stage("storing the image".to_owned()));
        let share = {
            let tell = tell.clone();
            move |p: ImportProgress| {
                let ImportProgress { done_bytes, disk_bytes: total_bytes, .. } = p;
                tell(Progress::Share { done_bytes, total_bytes });
            }
        };
        let options = import_options(&built, &self.configuration.reference());
        let source = Source::Path(built.path.clone());
        let stored = self.repo.import(source, options, share).await.context("cannot store it")?;
        Ok(Built { image: stored.digest, provenance: built.provenance.clone() })
    }

    /// Builds on a thread of its own: nothing in a build is async.
    async fn disk(&self, tell: &Tell) -> anyhow::Result<BuiltImage> {
        let facts = self.configuration.facts.iter();
        let reported = |(path, value): (&String, &Option<FactValue>)| {
            value.clone().map(|value| (path.clone(), value))
        };
        let facts = facts.filter_map(reported).collect();
        let options = Options { facts, ..Options::new(self.cache.clone()) };
        let (recipe, tell) = (self.recipe.clone(), tell.clone());
        let build = move || builder::build(&recipe, &options, &|event| report(&tell, event));
        let ended = tokio::task::spawn_blocking(build).await;
        Ok(ended.context("the build ended in the middle; please report this")??)
    }
}

fn report(tell: &Tell, event: Event) {
    match event {
        Event::Started { stage } => tell(Progress::Stage(stage.to_string())),
        Event::Log { line, .. } => tell(Progress::Line(line)),
        Event::Ended { .. } => {}
    }
}

/// The causes in one line, for a console. What a tool printed last is left out:
/// it was told line by line.
fn cause(error: &anyhow::Error) -> String {
    let text = wire::chain(error.as_ref());
    let line = text.lines().next().unwrap_or_default();
    line.strip_suffix("; its last lines:").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_failed_build_is_one_line() {
        let tool = "sh ended with exit status: 1; its last lines:\n    a\n    b";
        let error = anyhow::anyhow!(tool).context("step \"web\" failed");
        assert_eq!(cause(&error), "step \"web\" failed: sh ended with exit status: 1");
        assert_eq!(cause(&anyhow::anyhow!("this host lacks mmd")), "this host lacks mmd");
    }
}
