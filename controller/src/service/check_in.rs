//! An agent asks what to do.

use std::collections::BTreeMap;

use wire::admin::{Deployment, MachineState, UnixMs};
use wire::api::{CheckIn, CheckedIn};
use wire::{AskOrder, Configuration, HoldOrder, Inventory, MachineId, Order};

use super::admin::current;
use super::decide::Decision;
use super::turn::{self, Beginner, Turn};
use super::{Controller, ControllerError, apply};
use crate::build::Record;
use crate::db::machine::{Machine, facts};
use crate::db::{Connection, DbError, event, machine, parsed};
use crate::identity::{Fingerprint, Recognised, fingerprint, recognise};
use crate::limits;
use crate::policy::{Answers, Limit, Question};
use crate::state::{HOLD_RETRY_SECS, Recorded, Report, Wanted, reconcile};

/// How often an operator may change a machine's labels while it checks in.
const TRIES: usize = 5;

/// What was recorded of whoever checks in.
struct Sighting {
    recognised: Recognised,
    machine: Option<Machine>,
    /// What the machine was recognised by.
    fingerprint: Fingerprint,
}

impl Sighting {
    fn labels(&self) -> BTreeMap<String, String> {
        self.machine.as_ref().map(|machine| machine.labels.clone()).unwrap_or_default()
    }

    fn answers(&self) -> Answers {
        self.machine.as_ref().map(|machine| machine.answers.clone()).unwrap_or_default()
    }

    /// What an operator gave it.
    fn deploy(&self) -> Option<&Deployment> {
        self.machine.as_ref()?.deploy.as_ref()
    }

    /// Whether it waits whatever the policy says, so that nothing is made for it.
    fn is_held(&self) -> bool {
        match &self.machine {
            Some(machine) => machine.held.is_some(),
            None => matches!(self.recognised, Recognised::Doubtful(_)),
        }
    }

    /// Whether the policy would see the same.
    fn is_as(&self, other: &Sighting) -> bool {
        self.recognised == other.recognised
            && self.labels() == other.labels()
            && self.answers() == other.answers()
            && self.deploy() == other.deploy()
    }
}

/// What a machine that checks in is told, and what the policy was told before.
struct Verdict<'a> {
    answers: Answers,
    /// What the policy has to be told first.
    question: Option<&'a Question>,
    wanted: Wanted,
    /// What the log of a run that begins with it says first.
    notes: Vec<String>,
    /// The builds that it waits for.
    waits_for: Vec<Configuration>,
    /// What is on record of an image that it would make.
    seen: Option<Box<Record>>,
    /// The limit of the rule that says so.
    limit: Option<&'a Limit>,
}

impl Verdict<'_> {
    fn new(answers: Answers, wanted: Wanted) -> Self {
        let (notes, waits_for) = (Vec::new(), Vec::new());
        Verdict { answers, question: None, wanted, notes, waits_for, seen: None, limit: None }
    }
}

impl Controller {
    /// Records a machine and answers what it shall do. The answer is durable
    /// before it is given, and given again if it is asked for again.
    pub async fn check_in(
        &self,
        asked: &CheckIn,
        now: UnixMs,
    ) -> Result<CheckedIn, ControllerError> {
        limits::check_in(asked).map_err(ControllerError::Refused)?;
        let fingerprint = fingerprint(&asked.inventory);
        if fingerprint.is_empty() {
            let text = "this machine reports nothing to recognise it by, neither UUID nor serial \
                        number nor hardware address: check the agent's drivers for its network card";
            return Err(ControllerError::Refused(text.to_owned()));
        }
        let policy = self.policy.current();
        let attachment = self.attachment(&asked.inventory).await?;
        for _ in 0..TRIES {
            // The store is asked without holding the right to write.
            let before = sighting(&mut *self.db.read().await?, &fingerprint).await?;
            let answers = policy.answered(before.answers(), &asked.answers, now);
            let facts = facts(&asked.inventory, &before.labels(), &answers, attachment.as_ref());
            let decision = self.decide_for(&policy, &facts, before.deploy()).await?;
            // What an operator gave a machine is no rule's, and limited by none.
            let rule = policy.decide(&facts).filter(|_| before.deploy().is_none());
            let limit = rule.and_then(|rule| rule.limit.as_ref());
            let verdict = Verdict { limit, ..self.verdict(decision, answers, &before, now) };
            let answer = self.answer(asked, &fingerprint, &before, &verdict, now).await?;
            let Some(answer) = answer else { continue };
            self.builds.watch(&verdict.waits_for, &answer.machine, now).await?;
            return Ok(answer);
        }
        Err(ControllerError::Busy)
    }

    /// From what the policy says to what a machine is told. An image that was
    /// not made yet is asked for, unless the machine is held.
    fn verdict<'a>(
        &self,
        decision: Decision<'a>,
        answers: Answers,
        before: &Sighting,
        now: UnixMs,
    ) -> Verdict<'a> {
        match decision {
            Decision::Settled { wanted, notes } => {
                Verdict { notes, ..Verdict::new(answers, wanted) }
            }
            Decision::Make { make, seen } => {
                Verdict { seen, ..Verdict::new(answers, Wanted::Make(make)) }
            }
            Decision::Open(question) => {
                let wanted = Wanted::Hold(waits_for_answer(question));
                Verdict { question: Some(question), ..Verdict::new(answers, wanted) }
            }
            Decision::Unbuilt { rule, plans } => {
                let mut waits_for: Vec<_> =
                    plans.iter().map(|plan| plan.configuration().clone()).collect();
                if !before.is_held() {
                    plans.into_iter().for_each(|plan| self.builds.ask(plan, now));
                }
                let wanted = self.unbuilt(&rule, waits_for.iter());
                waits_for.retain(|_| !before.is_held());
                Verdict { waits_for, ..Verdict::new(answers, wanted) }
            }
        }
    }

    /// Records and answers, unless the record has changed since it was looked at.
    async fn answer(
        &self,
        asked: &CheckIn,
        fingerprint: &Fingerprint,
        before: &Sighting,
        verdict: &Verdict<'_>,
        now: UnixMs,
    ) -> Result<Option<CheckedIn>, ControllerError> {
        let mut transaction = self.db.write().await?;
        let c = &mut *transaction;
        let sighting = sighting(c, fingerprint).await?;
        if !sighting.is_as(before) {
            return Ok(None);
        }
        let new = sighting.machine.is_none();
        let mut record = match sighting.machine {
            Some(machine) => machine,
            None => self.enrol(&sighting.recognised, now)?,
        };
        record.answers = verdict.answers.clone();
        record.inventory = asked.inventory.clone();
        record.agent = asked.agent.clone();
        record.last_seen = now;
        let current = current(c, &record).await?;
        let fresh = parsed(&format!("r-{}", self.random.name()), "a new id")?;
        let reconciled = |wanted: &Wanted| {
            let (boot, disks) = (&asked.boot, &asked.inventory.disks);
            let report = Report::CheckIn { boot, disks, wanted, fresh: &fresh };
            let (machine, held) = (&record.id, record.held.as_deref());
            reconcile(Recorded { machine, held, run: current.as_ref() }, report, now)
        };
        let mut changes = reconciled(&verdict.wanted);
        if changes.as_ref().is_some_and(|changes| changes.begin(&fresh)) {
            let (id, run, wanted) = (&record.id, current.as_ref(), &verdict.wanted);
            let asking = Beginner { id, run, wanted, limit: verdict.limit };
            match turn::take(c, asking, verdict.seen.as_deref(), now).await? {
                Turn::Free => {}
                Turn::Waits(reason) => changes = reconciled(&Wanted::Hold(reason)),
                Turn::Stale => return Ok(None),
            }
        }
        if new {
            // Before its runs, which refer to it.
            machine::add(c, &record).await?;
        }
        let mut order = None;
        if let Some(changes) = &changes {
            apply(c, &mut record, current.as_ref(), changes, now).await?;
            order = changes.order.clone();
        }
        // A machine that waits for something else need not ask anybody.
        let question = verdict.question.filter(|_| record.held.is_none());
        if let Some(ask) = question.and_then(|question| to_ask(question, asked)) {
            order = Some(Order::Ask(ask));
        }
        machine::put(c, &record).await?;
        if sighting.fingerprint != *fingerprint {
            machine::put_identifiers(c, &record.id, fingerprint).await?;
        }
        event::begin(c, &record.id, &asked.boot, now).await?;
        if let Some(id) = record.run.as_ref().filter(|id| **id == fresh)
            && !verdict.notes.is_empty()
        {
            event::note(c, &record.id, Some(id), &verdict.notes, now).await?;
        }
        transaction.commit().await?;

        if let Some(changes) = &changes {
            self.note(current.as_ref(), changes);
        }
        self.announce();
        let answer = CheckedIn { machine: record.id, order: order.unwrap_or_else(wait) };
        self.metrics.checked_in(&answer, new);
        let told = told(&answer.order);
        tracing::info!(machine = %answer.machine, boot = asked.boot, new, told, "check-in");
        Ok(Some(answer))
    }

    /// The record of a machine that has none. Where it may be one that is
    /// known it is held, until a person says that it is one of its own.
    fn enrol(&self, recognised: &Recognised, now: UnixMs) -> Result<Machine, DbError> {
        let id = parsed(&format!("m-{}", self.random.name()), "a new id")?;
        let held = match recognised {
            Recognised::Doubtful(candidates) => Some(doubt(&id, candidates)),
            Recognised::New | Recognised::Known(_) => None,
        };
        Ok(Machine {
            id,
            state: MachineState::Held,
            reason: None,
            held,
            deploy: None,
            labels: BTreeMap::new(),
            answers: Answers::new(),
            inventory: Inventory::default(),
            agent: String::new(),
            run: None,
            first_seen: now,
            last_seen: now,
            records: 0,
        })
    }
}

async fn sighting(c: &mut Connection, fingerprint: &Fingerprint) -> Result<Sighting, DbError> {
    let mut sharing = machine::sharing(c, fingerprint).await?;
    let recognised = recognise(fingerprint, &sharing);
    Ok(match &recognised {
        Recognised::Known(id) => Sighting {
            machine: machine::get(c, id).await?,
            fingerprint: sharing.remove(id).unwrap_or_default(),
            recognised,
        },
        Recognised::New | Recognised::Doubtful(_) => {
            Sighting { recognised, machine: None, fingerprint: Fingerprint::new() }
        }
    })
}

fn doubt(id: &MachineId, candidates: &[MachineId]) -> String {
    let names: Vec<_> = candidates.iter().map(MachineId::as_str).collect();
    format!(
        "this may be {} with changed hardware, or a machine of its own that shares an identifier \
         with it: compare them with `ingot machine show`; if it is one of its own, \
         `ingot machine release {id}`",
        names.join(" or ")
    )
}

/// The question for the agent, unless it has just asked, and nobody was there.
fn to_ask(question: &Question, asked: &CheckIn) -> Option<AskOrder> {
    let nobody = asked.answers.get(&question.ask.name) == Some(&None);
    (!nobody).then(|| question.ask.clone())
}

/// Why a machine waits that the policy asks something.
pub(super) fn waits_for_answer(question: &Question) -> String {
    let AskOrder { name, text, .. } = &question.ask;
    format!(
        "the policy asks {text:?} at this machine's console (question {name:?}), and nobody has \
         answered yet: it asks again every {HOLD_RETRY_SECS} s"
    )
}

fn wait() -> Order {
    let reason = "the controller has no order yet".to_owned();
    Order::Hold(HoldOrder { reason, retry_secs: HOLD_RETRY_SECS })
}

/// An order in words for the log.
fn told(order: &Order) -> String {
    match order {
        Order::Deploy(order) => format!("run {order}, attempt {}", order.attempt),
        Order::Make(order) => {
            format!("make {}, attempt {}", order.making.configuration, order.attempt)
        }
        Order::Hold(hold) => format!("hold: {}", hold.reason),
        Order::Ask(ask) => format!("ask {:?}", ask.name),
        Order::Unknown => "hold".to_owned(),
    }
}
