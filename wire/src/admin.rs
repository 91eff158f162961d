//! The operators' conversation with the controller: what `ingot machine`,
//! `ingot run` and `ingot policy` ask and are told.
//!
//! All bodies are JSON unless said otherwise; an error is a status of 4xx or
//! 5xx with [`crate::api::ErrorBody`]. Times are milliseconds since 1970, by
//! the controller's clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::expr::Trace;
use crate::{
    Configuration, Digest, DiskChoice, EventKind, Facts, ImageOrder, Inventory, MachineId, Outcome,
    Reference, RunId, Start, Step,
};

/// `GET`: [`MachineList`], by `?after=ID&limit=N` in the order of ids; with
/// `&on=EXPRESSION` those that it is true of, out of each page of all.
/// `GET` + `/{id}`: [`MachineDetail`].
pub const MACHINES: &str = "/v1/machines";

/// `POST` to [`MACHINES`]`/{id}` + this, [`LabelChange`]: [`MachineDetail`].
pub const LABELS: &str = "/labels";

/// `POST` to [`MACHINES`]`/{id}` + this, [`HoldRequest`]: [`MachineDetail`].
/// The machine waits until it is released, whatever the policy says.
pub const HOLD: &str = "/hold";

/// `POST` to [`MACHINES`]`/{id}` + this, no body: [`MachineDetail`]. Ends a
/// hold, forgets the failed attempts of the machine's last run and what was
/// answered at its console, and lets an image for it whose build failed be
/// built again.
pub const RELEASE: &str = "/release";

/// `POST` to [`MACHINES`]`/{id}` + this, [`DeployRequest`]: [`MachineDetail`].
/// What the machine runs from its next check-in on, whatever the policy says.
pub const DEPLOY: &str = "/deploy";

/// `POST` to [`MACHINES`]`/{id}` + this, no body: [`MachineDetail`]. Takes the
/// machine out of service: its record stays, and nothing is recognised as it.
pub const RETIRE: &str = "/retire";

/// `GET` [`MACHINES`]`/{id}` or [`RUNS`]`/{id}` + this: [`LogPage`], by
/// `?since=N&limit=N&wait=SECONDS`; waits at most [`LOG_WAIT_SECS_MAX`] for a
/// first entry, so that a caller can follow.
pub const LOG: &str = "/log";

/// `GET`: [`RunList`], newest first, by `?machine=ID&limit=N`.
/// `GET` + `/{id}`: [`RunDetail`].
pub const RUNS: &str = "/v1/runs";

/// `GET`: [`PolicyStatus`], whose digest is the `ETag`. `PUT`, a policy file as
/// text, with `If-Match: "DIGEST"` of the text that it replaces: [`PolicyStatus`].
/// `POST` + [`CHECK`], [`WHY`] + `/{machine id}`.
pub const POLICY: &str = "/v1/policy";

/// `POST` to [`POLICY`] + this, a policy file as text: [`PolicyCheck`].
pub const CHECK: &str = "/check";

/// `GET` [`POLICY`] + this + `/{machine id}`: [`Why`].
pub const WHY: &str = "/why";

/// `POST` to [`POLICY`] + this, [`DryRunRequest`]: [`DryRun`]. Nothing changes.
pub const DRY_RUN: &str = "/dry-run";

/// Longest wait for a log entry, in seconds: below what proxies cut off.
pub const LOG_WAIT_SECS_MAX: u32 = 25;

/// The boot that lines of the server itself belong to, such as those of a
/// build that a machine waits for.
pub const SERVER_BOOT: &str = "server";

/// Most entries of one answer that lists something; asking for more gives this many.
pub const LIST_MAX: u32 = 1000;

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMs = u64;

/// How a machine stands. Follows from its hold, the policy and its current run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineState {
    /// It waits; the reason says for what.
    Held,
    /// A run is under way.
    Deploying,
    /// It has the image that the policy gives it.
    Installed,
    /// The policy refuses it; the reason says why.
    Failed,
    /// It was taken out of service: the record of what it was.
    Retired,
    /// From a newer controller.
    #[serde(other)]
    Unknown,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// The order was given; the agent has not begun.
    Ordered,
    /// The agent chooses the disk and plans.
    Planning,
    /// It fetches and writes.
    Transferring,
    /// It reads back and compares.
    Verifying,
    /// It writes what makes the disk bootable, and the receipt.
    Sealing,
    /// It runs a recipe's script on what was installed.
    Scripting,
    /// It reads what came of that, and sends it to the store.
    Capturing,
    /// It starts the installed OS.
    Starting,
    /// An attempt failed, the next one follows.
    Retrying,
    /// Over: the image was installed and started, or made and stored.
    Succeeded,
    /// Over: the image was there already, and was started.
    AlreadyInstalled,
    /// Over: the last attempt failed. The machine is held.
    Failed,
    /// Over: the policy or an operator wants something else now.
    Superseded,
    /// From a newer controller.
    #[serde(other)]
    Unknown,
}

impl RunState {
    /// Whether the run has ended.
    pub fn is_over(self) -> bool {
        use RunState::{AlreadyInstalled, Failed, Succeeded, Superseded};
        matches!(self, Succeeded | AlreadyInstalled | Failed | Superseded)
    }
}

/// One machine in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSummary {
    /// Its id.
    pub id: MachineId,
    /// How it stands.
    pub state: MachineState,
    /// Why it is held or failed, for people.
    pub reason: Option<String>,
    /// What operators call it.
    pub labels: BTreeMap<String, String>,
    /// Who made it.
    pub manufacturer: Option<String>,
    /// What they call it.
    pub product: Option<String>,
    /// Hardware addresses.
    pub macs: Vec<String>,
    /// Its current run.
    pub run: Option<RunId>,
    /// What that run deploys.
    pub reference: Option<Reference>,
    /// When it first checked in.
    pub first_seen: UnixMs,
    /// When it last checked in or reported.
    pub last_seen: UnixMs,
}

/// A page of machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineList {
    /// In the order of their ids.
    pub machines: Vec<MachineSummary>,
    /// Where the next page begins (`?after=`), unless this is the last.
    pub next: Option<MachineId>,
}

/// Everything about one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDetail {
    /// As in the list.
    #[serde(flatten)]
    pub summary: MachineSummary,
    /// Why an operator, or doubt about what machine this is, holds it.
    pub held: Option<String>,
    /// What an operator gave it, whatever the policy says.
    #[serde(default)]
    pub deploy: Option<Deployment>,
    /// Its last inventory.
    pub inventory: Inventory,
    /// What the policy is held against: the facts of that inventory, the labels and the answers.
    pub facts: Facts,
    /// What was answered at its console, by the names of the questions.
    #[serde(default)]
    pub answers: BTreeMap<String, Answer>,
    /// What it is recognised by, as `kind:value`.
    pub identifiers: Vec<String>,
    /// Version of the agent that checked in last.
    pub agent: String,
    /// Its latest runs, newest first.
    pub runs: Vec<RunSummary>,
}

/// The answer to a question of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What was answered.
    pub value: String,
    /// By whom.
    pub source: AnswerSource,
    /// When.
    pub at: UnixMs,
}

/// Who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerSource {
    /// The person at the machine's console.
    Console,
    /// Nobody did in time: the question's default.
    Default,
    /// From a newer controller.
    #[serde(other)]
    Unknown,
}

/// How a question of the policy stands for one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionTrace {
    /// Its name.
    pub name: String,
    /// The question in words.
    pub text: String,
    /// Whether the machine is one of those that it is for.
    pub asked: bool,
    /// The answer, once there is one.
    pub answer: Option<Answer>,
}

/// Labels to set and to take away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelChange {
    /// Set these.
    pub set: BTreeMap<String, String>,
    /// Take these away.
    pub remove: Vec<String>,
}

/// Why a machine shall wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    /// Shown on the machine's console.
    pub reason: String,
}

/// What a machine shall run, whatever the policy says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeployRequest {
    /// This; what the policy says where absent.
    pub image: Option<Deployment>,
}

/// An image that an operator gave a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// The image.
    pub reference: Reference,
    /// Which disk it goes to.
    #[serde(default)]
    pub disk: DiskChoice,
    /// How it is started.
    #[serde(default)]
    pub start: Start,
}

/// One run in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Its id.
    pub id: RunId,
    /// The machine.
    pub machine: MachineId,
    /// The image that is started.
    pub image: Digest,
    /// What the policy called it.
    pub reference: Reference,
    /// What else it puts on the machine, each image on a disk of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<ImageOrder>,
    /// What the machine makes of the image on its own hardware, where it does not
    /// run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub makes: Option<Configuration>,
    /// The rule that asked for it.
    pub rule: String,
    /// How it stands.
    pub state: RunState,
    /// The current attempt, from 1.
    pub attempt: u32,
    /// What went wrong last.
    pub cause: Option<String>,
    /// When it began.
    pub created: UnixMs,
    /// When it last changed.
    pub changed: UnixMs,
}

/// Runs, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunList {
    /// Newest first.
    pub runs: Vec<RunSummary>,
}

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunDetail {
    /// As in the list.
    #[serde(flatten)]
    pub summary: RunSummary,
    /// Which disk was asked for.
    pub disk: DiskChoice,
    /// How the OS is started.
    pub start: Start,
    /// What the agent planned last.
    pub plan: Option<EventKind>,
    /// Steps in the order of their beginning, all attempts.
    pub steps: Vec<StepRecord>,
}

/// One step of one attempt, as its events told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The attempt.
    pub attempt: u32,
    /// The step.
    pub step: Step,
    /// When its beginning was recorded; absent where the agent told only its end.
    pub started: Option<UnixMs>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// How long it took in milliseconds, by the agent's clock.
    pub elapsed_ms: Option<u64>,
    /// Bytes of the image dealt with so far.
    pub done_bytes: u64,
    /// Bytes of the image in all.
    pub total_bytes: u64,
    /// Bytes received over the network.
    pub received_bytes: u64,
    /// Bytes written to the disk.
    pub written_bytes: u64,
}

/// A part of a log, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPage {
    /// In the order of their record numbers.
    pub entries: Vec<LogEntry>,
    /// Where to go on (`?since=`).
    pub next: u64,
    /// Whether nothing more will come: the run is over, and this is the end of
    /// its log. Never so for the log of a machine.
    pub over: bool,
}

/// One recorded event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Counts the events of this machine, from 1, without gaps.
    pub record: u64,
    /// When the controller recorded it.
    pub received: UnixMs,
    /// The boot of the agent that told it, or [`SERVER_BOOT`].
    pub boot: String,
    /// Its number in that boot.
    pub seq: u64,
    /// Milliseconds since that boot.
    pub uptime_ms: u64,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// The attempt of that run.
    pub attempt: u32,
    /// What happened.
    pub kind: EventKind,
}

/// The policy that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its file.
    pub file: String,
    /// The rules, in order.
    pub rules: Vec<String>,
    /// Why the file as it is now is not in force: an older one still is.
    pub error: Option<String>,
    /// What is in force, as it stands in the file; absent where there is none.
    #[serde(default)]
    pub text: Option<String>,
    /// Digest of that.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// What is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCheck {
    /// The rules, in order, as far as they could be read.
    pub rules: Vec<String>,
    /// Empty where the policy is right.
    pub problems: Vec<PolicyProblem>,
}

/// One thing that is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyProblem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is allowed there.
    pub message: String,
}

/// What the policy says of one machine, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The machine.
    pub machine: MachineId,
    /// Every rule, in order.
    pub rules: Vec<RuleTrace>,
    /// Every question, in order.
    #[serde(default)]
    pub questions: Vec<QuestionTrace>,
    /// The rule that decides: the first that matches.
    pub winner: Option<String>,
    /// What an operator gave the machine: then no rule decides.
    #[serde(default)]
    pub deploy: Option<Deployment>,
    /// What the machine is told, in words, with all that the policy does not
    /// know: holds, failed attempts, images that the store lacks.
    pub order: String,
}

/// What would policies say of the machines on record?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DryRunRequest {
    /// Text of a policy file.
    pub policy: String,
    /// Text of the policy file to compare it with; where absent, the policy that
    /// is in force.
    #[serde(default)]
    pub instead_of: Option<String>,
    /// Machines behind this one: [`DryRun::next`] of the answer before.
    #[serde(default)]
    pub after: Option<MachineId>,
}

/// A page of machines with what two policies say of them, in the order of their
/// ids: by their facts as last reported, their labels and their answers. Holds,
/// and what a recipe would have to build first, are not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRun {
    /// The machines.
    pub machines: Vec<DryRunMachine>,
    /// Where there are more: the last one of these.
    pub next: Option<MachineId>,
}

/// A machine, and what two policies say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRunMachine {
    /// The machine.
    pub machine: MachineId,
    /// What the other policy says; nothing where no rule matches.
    pub before: Option<Ruling>,
    /// What the policy says that was given.
    pub after: Option<Ruling>,
}

/// The rule that decides about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// Its name.
    pub rule: String,
    /// What it says, in words.
    pub outcome: String,
    /// What else decides how an image is put on the machine: its disk, how it is
    /// started, what to do where it is not built yet; and the rule's limit, which is
    /// not counted here. Empty where nothing does.
    pub how: String,
}

/// How one rule came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleTrace {
    /// Its name.
    pub name: String,
    /// What it says of a machine that it matches, in words.
    pub outcome: String,
    /// Whether the machine matches.
    pub matched: bool,
    /// Its expression held against the facts; absent where it always matches.
    pub when: Option<Trace>,
    /// What its recipes make for the machine, where it names some and matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds: Vec<BuildTrace>,
    /// How many machines get what it says, and when, in words; of a rule that
    /// matches with how many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

/// What a recipe makes for one machine, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildTrace {
    /// The recipe, the facts that it uses, and the key that follows from both.
    #[serde(flatten)]
    pub configuration: Configuration,
    /// What the image is called in the store.
    pub reference: Reference,
    /// The image, where the store has it.
    pub image: Option<Digest>,
    /// How its build stands, in words.
    pub standing: String,
}
