//! Images that a recipe makes: from the facts of a machine to one of them, or to
//! why there is none.

use std::path::Path;

use wire::admin::{BuildTrace, RuleTrace};
use wire::{Configuration, Facts, ImageOrder, MachineId};

use super::decide::Found;
use super::{Controller, ControllerError, made};
use crate::build::{Built, Ending, OPEN_MAX, Plan, Record};
use crate::db::run;
use crate::policy::{Member, Missing, Policy, Rule, Source};
use crate::state::{Make, Target, Wanted};

/// How many of its last lines the reason of a hold shows of a failed build.
const REASON_LINES: usize = 3;

impl Controller {
    /// Looks for the image that a recipe makes for a machine.
    pub(super) async fn recipe<'a>(
        &self,
        policy: &'a Policy,
        rule: &str,
        member: &Member,
        (file, missing): (&Path, Missing),
        facts: &Facts,
    ) -> Result<Found<'a>, ControllerError> {
        let plan = match self.builds.plan(&self.policy.recipe(file), facts) {
            Ok(plan) => plan,
            Err(mistake) => {
                let reason = format!("rule {rule:?} names a recipe that is wrong: {mistake}");
                return Ok(Found::None(Wanted::Hold(reason)));
            }
        };
        if let Some(reason) = mismatch(rule, plan.as_ref(), missing) {
            return Ok(Found::None(Wanted::Hold(reason)));
        }
        let configuration = whole(plan.as_ref()).clone();
        let used = configuration.facts.keys().map(String::as_str);
        if let Some(question) = policy.unanswered_of(used, facts) {
            return Ok(Found::Open(question));
        }
        let seen = self.builds.recorded(&configuration.key).await?;
        Ok(match (self.builds.there(seen.as_ref()).await?, &seen, missing) {
            (Some(built), Some(record), _) => there(record, built, member),
            (None, Some(record), Missing::Build | Missing::OnTarget) if record.failed() => {
                Found::None(Wanted::Hold(failed(rule, record)))
            }
            (_, _, Missing::Build) => Found::Unbuilt(plan),
            (_, _, Missing::OnTarget) => {
                self.on_target(rule, member, plan, seen.map(Box::new)).await?
            }
            (_, _, Missing::Hold) => Found::None(Wanted::Hold(not_made(rule, plan.as_ref()))),
            (_, _, Missing::Fail) => Found::None(Wanted::Fail(not_made(rule, plan.as_ref()))),
        })
    }

    /// How an image is made on a machine, once its base is there.
    async fn on_target<'a>(
        &self,
        rule: &str,
        member: &Member,
        plan: Box<dyn Plan>,
        seen: Option<Box<Record>>,
    ) -> Result<Found<'a>, ControllerError> {
        let record = self.builds.recorded(&plan.configuration().key).await?;
        let base = self.builds.there(record.as_ref()).await?;
        let (base, making) = match (base, record, plan.on_target()) {
            (Some(base), _, Some(making)) => (base, making.clone()),
            (_, Some(record), _) if record.failed() => {
                return Ok(Found::None(Wanted::Hold(failed(rule, &record))));
            }
            _ => return Ok(Found::Unbuilt(plan)),
        };
        let configuration = &making.configuration;
        let reference = plan.configuration().reference();
        let system = ImageOrder { image: base.image, reference, disk: member.disk.clone() };
        let reason = format!(
            "rule {rule:?} wants {} ({configuration}), which was not made yet: this machine makes it, \
             out of {} and on the disk that it is for",
            configuration.reference(),
            system.reference
        );
        let (rule, makes) = (rule.to_owned(), Some(configuration.clone()));
        let (others, start) = (Vec::new(), wire::Start::default());
        let target = Target { rule, system, others, start, makes };
        Ok(Found::Make { make: Box::new(Make { target, reason, making }), seen })
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
                trace.builds.push(self.trace_build(plan.as_ref()).await?);
            }
        }
        Ok(())
    }

    async fn trace_build(&self, plan: &dyn Plan) -> Result<BuildTrace, ControllerError> {
        let configuration = whole(plan).clone();
        let record = self.builds.recorded(&configuration.key).await?;
        let built = self.builds.there(record.as_ref()).await?;
        let standing = match (&built, record.map(|record| record.ending)) {
            (Some(_), _) => "it is in the store".to_owned(),
            (None, Some(Ending::Failed { cause, .. })) => format!("its build failed: {cause}"),
            (None, _) => match self.builds.status(&configuration.key) {
                Some(status) => status.to_string(),
                None if plan.on_target().is_some() => self.unmade(plan, &configuration).await?,
                None => "it was not built yet".to_owned(),
            },
        };
        let (reference, image) = (configuration.reference(), built.map(|built| built.image));
        Ok(BuildTrace { configuration, reference, image, standing })
    }

    /// How an image stands that machines make.
    async fn unmade(
        &self,
        plan: &dyn Plan,
        configuration: &Configuration,
    ) -> Result<String, ControllerError> {
        let makers = run::makers(&mut *self.db.read().await?, &configuration.key).await?;
        if let Some(run) = makers.first() {
            return Ok(format!("machine {} makes it (run {})", run.machine, run.id));
        }
        let base = plan.configuration();
        let record = self.builds.recorded(&base.key).await?;
        let standing = match self.builds.there(record.as_ref()).await? {
            Some(_) => "is in the store".to_owned(),
            None => match self.builds.status(&base.key) {
                Some(status) => format!("is not there: {status}"),
                None => "was not built yet".to_owned(),
            },
        };
        Ok(format!("no machine made it yet; its base {} {standing}", base.reference()))
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
            let whole = plan.on_target().map(|on_target| &on_target.configuration);
            for configuration in whole.into_iter().chain([plan.configuration()]) {
                if self.builds.forgive(&configuration.key).await? {
                    let image = configuration.reference();
                    tracing::info!(%machine, %image, "a failed build is tried again");
                }
            }
        }
        Ok(())
    }
}

/// What the recipe makes in the end.
fn whole(plan: &dyn Plan) -> &Configuration {
    plan.on_target().map_or(plan.configuration(), |on_target| &on_target.configuration)
}

fn there<'a>(record: &Record, built: Built, member: &Member) -> Found<'a> {
    let Record { configuration, began, ended, .. } = record;
    let (reference, secs) = (configuration.reference(), (ended - began) / 1000);
    let by = match built.provenance.get(made::MACHINE) {
        Some(machine) => format!("made by machine {machine}"),
        None => "built".to_owned(),
    };
    let note = format!("{reference} was {by} for {configuration} in {secs} s");
    let image = ImageOrder { image: built.image, reference, disk: member.disk.clone() };
    Found::There { image: Box::new(image), note: Some(note) }
}

/// What is wrong where policy and recipe changed one after the other.
fn mismatch(rule: &str, plan: &dyn Plan, missing: Missing) -> Option<String> {
    let (has, remedy) = match (plan.on_target(), missing) {
        (None, Missing::OnTarget) => ("no [target]", "missing = \"build\""),
        (Some(_), Missing::Build) => ("a [target]", "missing = \"on-target\""),
        _ => return None,
    };
    let recipe = &plan.configuration().recipe;
    Some(format!("rule {rule:?} names the recipe {recipe}, which has {has}: say {remedy}"))
}

fn failed(rule: &str, record: &Record) -> String {
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
        "rule {rule:?} wants {} ({configuration}), which could not be built: {cause}.{said} Mend \
         the recipe, or remove the cause and `ingot machine release` one of the machines that wait",
        configuration.reference()
    )
}

fn not_made(rule: &str, plan: &dyn Plan) -> String {
    let configuration = whole(plan);
    let (built, remedy) = match plan.on_target() {
        None => ("built", "`missing = \"build\"` in the rule lets this server build it"),
        Some(_) => ("made", "`missing = \"on-target\"` in the rule lets a machine make it"),
    };
    format!(
        "rule {rule:?} wants {} ({configuration}), which was not {built} yet, and says that it is \
         not to be {built}: {remedy}",
        configuration.reference()
    )
}
