//! Rules that name a recipe: from the facts of a machine to an image, or to why
//! there is none.

use wire::admin::{BuildTrace, RuleTrace};
use wire::{Configuration, Facts, MachineId};

use super::{Controller, ControllerError, Decision};
use crate::build::{Built, Ending, OPEN_MAX, Record};
use crate::policy::{Missing, Outcome, Policy, RecipeOutcome, Rule};
use crate::state::{Target, Wanted};

/// How many of its last lines the reason of a hold shows of a failed build.
const REASON_LINES: usize = 3;

impl Controller {
    /// What a rule that names a recipe says of a machine.
    pub(super) async fn recipe<'a>(
        &self,
        policy: &'a Policy,
        rule: &Rule,
        outcome: &RecipeOutcome,
        facts: &Facts,
    ) -> Result<Decision<'a>, ControllerError> {
        let plan = match self.builds.plan(&self.policy.recipe(&outcome.recipe), facts) {
            Ok(plan) => plan,
            Err(mistake) => {
                let name = &rule.name;
                let reason = format!("rule {name:?} names a recipe that is wrong: {mistake}");
                return Ok(Wanted::Hold(reason).into());
            }
        };
        let used = plan.configuration().facts.keys().map(String::as_str);
        if let Some(question) = policy.unanswered_of(used, facts) {
            return Ok(Decision::Open(question));
        }
        let known = self.builds.known(plan.configuration()).await?;
        Ok(match (known, outcome.missing) {
            (Some(Record { ending: Ending::Built(built), configuration, began, ended }), _) => {
                let reference = configuration.reference();
                let secs = (ended - began) / 1000;
                let note = format!("{reference} was built for {configuration} in {secs} s");
                let wanted = deploy(rule, outcome, &configuration, &built);
                Decision::Settled { wanted, note: Some(note) }
            }
            (Some(record), Missing::Build) => Wanted::Hold(failed(rule, &record)).into(),
            (None, Missing::Build) => Decision::Unbuilt { rule: rule.name.clone(), plan },
            (_, Missing::Hold) => Wanted::Hold(missing(rule, plan.configuration())).into(),
            (_, Missing::Fail) => Wanted::Fail(missing(rule, plan.configuration())).into(),
        })
    }

    /// What a machine is told whose image was not made yet.
    pub(super) fn unbuilt(&self, rule: &str, configuration: &Configuration) -> Wanted {
        let standing = match self.builds.status(&configuration.key) {
            Some(status) => status.to_string(),
            None => format!(
                "its build is asked for when this machine checks in, while fewer than {OPEN_MAX} are"
            ),
        };
        let image = configuration.reference();
        Wanted::Hold(format!("rule {rule:?} wants {image} ({configuration}); {standing}"))
    }

    /// Adds what recipes make for a machine with these facts to the rules that
    /// match it.
    pub(super) async fn trace_builds(
        &self,
        policy: &Policy,
        facts: &Facts,
        traces: &mut [RuleTrace],
    ) -> Result<(), ControllerError> {
        for (rule, trace) in policy.rules().iter().zip(traces) {
            if let (Outcome::Recipe(outcome), true) = (&rule.outcome, trace.matched)
                && let Ok(plan) = self.builds.plan(&self.policy.recipe(&outcome.recipe), facts)
            {
                trace.build = Some(self.trace_build(plan.configuration()).await?);
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

    /// Lets the build of what a machine with these facts would get be tried
    /// again, if it failed.
    pub(super) async fn forgive_build(
        &self,
        machine: &MachineId,
        facts: &Facts,
    ) -> Result<(), ControllerError> {
        let policy = self.policy.current();
        let Some(Rule { outcome: Outcome::Recipe(outcome), .. }) = policy.decide(facts) else {
            return Ok(());
        };
        let Ok(plan) = self.builds.plan(&self.policy.recipe(&outcome.recipe), facts) else {
            return Ok(());
        };
        if self.builds.forgive(&plan.configuration().key).await? {
            let image = plan.configuration().reference();
            tracing::info!(%machine, %image, "a failed build is tried again");
        }
        Ok(())
    }
}

fn deploy(
    rule: &Rule,
    outcome: &RecipeOutcome,
    configuration: &Configuration,
    built: &Built,
) -> Wanted {
    Wanted::Deploy(Box::new(Target {
        rule: rule.name.clone(),
        reference: configuration.reference(),
        image: built.image,
        disk: outcome.disk.clone(),
        start: outcome.start,
    }))
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

fn missing(rule: &Rule, configuration: &Configuration) -> String {
    format!(
        "rule {:?} wants {} ({configuration}), which was not built yet, and says that it is not to \
         be built: `missing = \"build\"` in the rule lets this server build it",
        rule.name,
        configuration.reference()
    )
}
