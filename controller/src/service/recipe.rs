//! Images that a recipe makes: from the facts of a machine to one of them, or to
//! why there is none.

use std::path::Path;

use wire::admin::{BuildTrace, RuleTrace};
use wire::{Configuration, Facts, ImageOrder, MachineId};

use super::decide::Found;
use super::{Controller, ControllerError};
use crate::build::{Ending, OPEN_MAX, Plan, Record};
use crate::policy::{Member, Missing, Policy, Rule, Source};
use crate::state::Wanted;

/// How many of its last lines the reason of a hold shows of a failed build.
const REASON_LINES: usize = 3;

impl Controller {
    /// Looks for the image that a recipe makes for a machine.
    pub(super) async fn recipe<'a>(
        &self,
        policy: &'a Policy,
        rule: &Rule,
        member: &Member,
        (file, missing): (&Path, Missing),
        facts: &Facts,
    ) -> Result<Found<'a>, ControllerError> {
        let plan = match self.builds.plan(&self.policy.recipe(file), facts) {
            Ok(plan) => plan,
            Err(mistake) => {
                let name = &rule.name;
                let reason = format!("rule {name:?} names a recipe that is wrong: {mistake}");
                return Ok(Found::None(Wanted::Hold(reason)));
            }
        };
        let used = plan.configuration().facts.keys().map(String::as_str);
        if let Some(question) = policy.unanswered_of(used, facts) {
            return Ok(Found::Open(question));
        }
        let known = self.builds.known(plan.configuration()).await?;
        Ok(match (known, missing) {
            (Some(Record { ending: Ending::Built(built), configuration, began, ended }), _) => {
                let reference = configuration.reference();
                let secs = (ended - began) / 1000;
                let note = format!("{reference} was built for {configuration} in {secs} s");
                let image = ImageOrder { image: built.image, reference, disk: member.disk.clone() };
                Found::There { image, note: Some(note) }
            }
            (Some(record), Missing::Build) => Found::None(Wanted::Hold(failed(rule, &record))),
            (None, Missing::Build) => Found::Unbuilt(plan),
            (_, Missing::Hold) => Found::None(Wanted::Hold(not_built(rule, plan.configuration()))),
            (_, Missing::Fail) => Found::None(Wanted::Fail(not_built(rule, plan.configuration()))),
        })
    }

    /// What a machine is told whose images were not made yet.
    pub(super) fn unbuilt<'c>(
        &self,
        rule: &str,
        configurations: impl Iterator<Item = &'c Configuration>,
    ) -> Wanted {
        let standing = |configuration: &Configuration| {
            let standing = match self.builds.status(&configuration.key) {
                Some(status) => status.to_string(),
                None => format!(
                    "its build is asked for when this machine checks in, while fewer than \
                     {OPEN_MAX} are"
                ),
            };
            format!("{} ({configuration}); {standing}", configuration.reference())
        };
        let all: Vec<_> = configurations.map(standing).collect();
        Wanted::Hold(format!("rule {rule:?} wants {}", all.join("; and ")))
    }

    /// How the images that recipes of this rule make for a machine are made.
    fn plans(&self, rule: &Rule, facts: &Facts) -> Vec<Box<dyn Plan>> {
        let plan = |member: &Member| match &member.source {
            Source::Image(_) => None,
            Source::Recipe { file, .. } => self.builds.plan(&self.policy.recipe(file), facts).ok(),
        };
        rule.outcome.members().filter_map(plan).collect()
    }

    /// Adds what recipes make for a machine with these facts to the rules that
    /// match it.
    pub(super) async fn trace_builds(
        &self,
        policy: &Policy,
        facts: &Facts,
        traces: &mut [RuleTrace],
    ) -> Result<(), ControllerError> {
        for (rule, trace) in policy.rules().iter().zip(traces).filter(|(_, trace)| trace.matched) {
            for plan in self.plans(rule, facts) {
                trace.builds.push(self.trace_build(plan.configuration()).await?);
            }
        }
        Ok(())
    }

    async fn trace_build(
        &self,
        configuration: &Configuration,
    ) -> Result<BuildTrace, ControllerError> {
        let (image, standing) = match self.builds.known(configuration).await?.map(|r| r.ending) {
            Some(Ending::Built(built)) => (Some(built.image), "it is in the store".to_owned()),
            Some(Ending::Failed { cause, .. }) => (None, format!("its build failed: {cause}")),
            None => (
                None,
                match self.builds.status(&configuration.key) {
                    Some(status) => status.to_string(),
                    None => "it was not built yet".to_owned(),
                },
            ),
        };
        let reference = configuration.reference();
        Ok(BuildTrace { configuration: configuration.clone(), reference, image, standing })
    }

    /// Lets the builds of what a machine with these facts would get be tried
    /// again, where they failed.
    pub(super) async fn forgive_build(
        &self,
        machine: &MachineId,
        facts: &Facts,
    ) -> Result<(), ControllerError> {
        let policy = self.policy.current();
        let Some(rule) = policy.decide(facts) else { return Ok(()) };
        for plan in self.plans(rule, facts) {
            if self.builds.forgive(&plan.configuration().key).await? {
                let image = plan.configuration().reference();
                tracing::info!(%machine, %image, "a failed build is tried again");
            }
        }
        Ok(())
    }
}

fn failed(rule: &Rule, record: &Record) -> String {
    let Record { configuration, ending, .. } = record;
    let (cause, log) = match ending {
        Ending::Failed { cause, log } => (cause.as_str(), log.as_slice()),
        Ending::Built(_) => ("", [].as_slice()),
    };
    let last = &log[log.len().saturating_sub(REASON_LINES)..];
    let said = match last.is_empty() {
        true => String::new(),
        false => format!(" It said last: {}.", last.join(" / ")),
    };
    format!(
        "rule {:?} wants {} ({configuration}), which could not be built: {cause}.{said} Mend the \
         recipe, or remove the cause and `ingot machine release` one of the machines that wait",
        rule.name,
        configuration.reference()
    )
}

fn not_built(rule: &Rule, configuration: &Configuration) -> String {
    format!(
        "rule {:?} wants {} ({configuration}), which was not built yet, and says that it is not to \
         be built: `missing = \"build\"` in the rule lets this server build it",
        rule.name,
        configuration.reference()
    )
}
