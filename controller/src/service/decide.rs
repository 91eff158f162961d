//! From the policy and the facts of a machine to what is wanted of it: each
//! image that its rule names is looked for by itself, and what is missing comes first.

use wire::{Facts, ImageOrder, Reference};

use super::{Controller, ControllerError, check_in};
use crate::build::{Plan, Record};
use crate::db::machine::Machine;
use crate::policy::{ImageSet, Member, Outcome, Policy, Question, Source};
use crate::state::{HOLD_RETRY_SECS, Make, Target, Wanted};

/// What the policy says of a machine.
pub(super) enum Decision<'a> {
    /// This.
    Settled {
        /// What it wants.
        wanted: Wanted,
        /// What the log of a run that begins with it says first.
        notes: Vec<String>,
    },
    /// That one of its images is to be made on it, or on another machine that
    /// needs the same.
    Make {
        /// How.
        make: Box<Make>,
        /// What was on record of that image: it is asked for by nobody else while
        /// this is so.
        seen: Option<Box<Record>>,
    },
    /// That this has to be answered first.
    Open(&'a Question),
    /// That it gets images which were not made yet.
    Unbuilt {
        /// The rule that says so.
        rule: String,
        /// How they are made.
        plans: Vec<Box<dyn Plan>>,
    },
}

impl From<Wanted> for Decision<'_> {
    fn from(wanted: Wanted) -> Self {
        Decision::Settled { wanted, notes: Vec::new() }
    }
}

/// What became of looking for one image.
pub(super) enum Found<'a> {
    /// It is there.
    There {
        /// The image.
        image: Box<ImageOrder>,
        /// What it was made for, where it was made for machines like this.
        note: Option<String>,
    },
    /// Which image depends on this answer.
    Open(&'a Question),
    /// It was not made yet, and is to be.
    Unbuilt(Box<dyn Plan>),
    /// It was not made yet, and machines make it.
    Make {
        /// How.
        make: Box<Make>,
        /// What is on record of it.
        seen: Option<Box<Record>>,
    },
    /// There is none, and the machine waits or is refused.
    None(Wanted),
}

impl Controller {
    /// What is wanted of a machine, as it stands.
    pub(super) async fn wanted(
        &self,
        policy: &Policy,
        record: &Machine,
        facts: &Facts,
    ) -> Result<Wanted, ControllerError> {
        let decision = self.decide_for(policy, facts, record.deploy.as_ref()).await?;
        Ok(match decision {
            Decision::Settled { wanted, .. } => wanted,
            Decision::Make { make, .. } => Wanted::Make(make),
            Decision::Open(question) => Wanted::Hold(check_in::waits_for_answer(question)),
            Decision::Unbuilt { rule, plans } => {
                self.unbuilt(&rule, plans.iter().map(|plan| plan.configuration()))
            }
        })
    }

    /// What the policy says of a machine with these facts.
    pub(super) async fn decide<'a>(
        &self,
        policy: &'a Policy,
        facts: &Facts,
    ) -> Result<Decision<'a>, ControllerError> {
        if let Some(question) = policy.unanswered(facts) {
            return Ok(Decision::Open(question));
        }
        let Some(rule) = policy.decide(facts) else {
            let reason = "no rule of the policy matches this machine: `ingot policy why` tells \
                          which facts it was held against";
            return Ok(Wanted::Hold(reason.to_owned()).into());
        };
        match &rule.outcome {
            Outcome::Hold(reason) => Ok(Wanted::Hold(reason.clone()).into()),
            Outcome::Fail(reason) => Ok(Wanted::Fail(reason.clone()).into()),
            Outcome::Images(set) => self.set(policy, &rule.name, set, facts).await,
        }
    }

    /// What a rule that names images says: an answer that is needed comes before
    /// all else, then whatever no waiting helps against, then what is to be built,
    /// then what machines make, one after the other.
    pub(super) async fn set<'a>(
        &self,
        policy: &'a Policy,
        rule: &str,
        set: &ImageSet,
        facts: &Facts,
    ) -> Result<Decision<'a>, ControllerError> {
        let (mut images, mut notes, mut plans) = (vec![], vec![], vec![]);
        let (mut none, mut to_make) = (None, None);
        for member in set.members() {
            match self.member(policy, rule, member, facts).await? {
                Found::Open(question) => return Ok(Decision::Open(question)),
                Found::None(wanted) => none = none.or(Some(wanted)),
                Found::Unbuilt(plan) => plans.push(plan),
                Found::Make { make, seen } => to_make = to_make.or(Some((make, seen))),
                Found::There { image, note } => {
                    images.push(*image);
                    notes.extend(note);
                }
            }
        }
        if let Some(wanted) = none {
            return Ok(wanted.into());
        }
        let rule = rule.to_owned();
        if plans.is_empty()
            && let Some((make, seen)) = to_make
        {
            return Ok(Decision::Make { make, seen });
        }
        if !plans.is_empty() {
            return Ok(Decision::Unbuilt { rule, plans });
        }
        let system = images.remove(0);
        let target = Target { rule, system, others: images, start: set.start, makes: None };
        Ok(Decision::Settled { wanted: Wanted::Deploy(Box::new(target)), notes })
    }

    /// Looks for one image.
    async fn member<'a>(
        &self,
        policy: &'a Policy,
        rule: &str,
        member: &Member,
        facts: &Facts,
    ) -> Result<Found<'a>, ControllerError> {
        match &member.source {
            Source::Image(reference) => self.image(rule, member, reference).await,
            Source::Recipe { file, missing } => {
                self.recipe(policy, rule, member, (file, *missing), facts).await
            }
        }
    }

    async fn image<'a>(
        &self,
        rule: &str,
        member: &Member,
        reference: &Reference,
    ) -> Result<Found<'a>, ControllerError> {
        let (reference, disk) = (reference.clone(), member.disk.clone());
        match self.images.resolve(&reference).await {
            Ok(Some(image)) => {
                let image = Box::new(ImageOrder { image, reference, disk });
                Ok(Found::There { image, note: None })
            }
            Ok(None) => Ok(Found::None(Wanted::Hold(format!(
                "rule {rule:?} wants the image {reference}, which the store does not have: \
                 `ingot build RECIPE -t {reference}` or `ingot import FILE -t {reference}`; this \
                 machine looks again every {HOLD_RETRY_SECS} s"
            )))),
            Err(source) => Err(ControllerError::Images { reference, source }),
        }
    }
}
