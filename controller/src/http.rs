//! The controller's HTTP face: the agents' routes of [`wire::api`] and the
//! operators' of [`wire::admin`].

mod body;
mod policy;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Deserialize;
use wire::admin::{
    CHECK, DEPLOY, DRY_RUN, DeployRequest, DryRun, DryRunRequest, HOLD, HoldRequest, LABELS,
    LIST_MAX, LOG, LOG_WAIT_SECS_MAX, LabelChange, LogPage, MACHINES, MachineDetail, MachineList,
    POLICY, PolicyCheck, RELEASE, RETIRE, RUNS, RunDetail, RunList, UnixMs, WHY, Why,
};
use wire::api::{CHECK_IN, CheckIn, CheckedIn, EVENTS, EventBatch, EventsSeen, MADE, Made};
use wire::{MachineId, RunId};

use crate::limits::{CHECK_IN_BYTES_MAX, EVENTS_BYTES_MAX};
use crate::policy::BYTES_MAX;
use crate::service::Controller;
use body::{Failure, Id, Json, Query, Text};

#[derive(Clone)]
struct App {
    controller: Arc<Controller>,
    clock: fn() -> UnixMs,
}

type Answer<T> = Result<Json<T>, Failure>;

/// The routes, on this clock.
pub fn router(controller: Arc<Controller>, clock: fn() -> UnixMs) -> Router {
    let machine = format!("{MACHINES}/{{id}}");
    let run = format!("{RUNS}/{{id}}");
    Router::new()
        .route(CHECK_IN, post(check_in))
        .route(EVENTS, post(events))
        .route(MADE, post(made))
        .route(MACHINES, get(machines))
        .route(&machine, get(show_machine))
        .route(&format!("{machine}{LABELS}"), post(label))
        .route(&format!("{machine}{HOLD}"), post(hold))
        .route(&format!("{machine}{RELEASE}"), post(release))
        .route(&format!("{machine}{DEPLOY}"), post(deploy))
        .route(&format!("{machine}{RETIRE}"), post(retire))
        .route(&format!("{machine}{LOG}"), get(machine_log))
        .route(RUNS, get(runs))
        .route(&run, get(show_run))
        .route(&format!("{run}{LOG}"), get(run_log))
        .route(POLICY, get(policy::show).put(policy::replace))
        .route(&format!("{POLICY}{CHECK}"), post(policy_check))
        .route(&format!("{POLICY}{DRY_RUN}"), post(dry_run))
        .route(&format!("{POLICY}{WHY}/{{id}}"), get(why))
        .with_state(App { controller, clock })
}

/// The system's clock.
pub fn system_clock() -> UnixMs {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    UnixMs::try_from(since.as_millis()).unwrap_or(UnixMs::MAX)
}

async fn check_in(
    State(app): State<App>,
    Json(asked): Json<CheckIn, CHECK_IN_BYTES_MAX>,
) -> Answer<CheckedIn> {
    let result = app.controller.check_in(&asked, (app.clock)()).await;
    app.answer(result)
}

async fn events(
    State(app): State<App>,
    Json(batch): Json<EventBatch, EVENTS_BYTES_MAX>,
) -> Answer<EventsSeen> {
    let result = app.controller.events(&batch, (app.clock)()).await;
    app.answer(result)
}

async fn made(State(app): State<App>, Json(made): Json<Made>) -> Result<StatusCode, Failure> {
    let result = app.controller.made(&made, (app.clock)()).await;
    app.answer(result).map(|_| StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<MachineId>,
    limit: Option<u32>,
    on: Option<String>,
}

async fn machines(State(app): State<App>, Query(page): Query<Page>) -> Answer<MachineList> {
    let limit = page.limit.unwrap_or(LIST_MAX);
    app.answer(app.controller.machines(page.after.as_ref(), limit, page.on.as_deref()).await)
}

async fn show_machine(State(app): State<App>, Id(id): Id<MachineId>) -> Answer<MachineDetail> {
    app.answer(app.controller.machine(&id).await)
}

async fn label(
    State(app): State<App>,
    Id(id): Id<MachineId>,
    Json(change): Json<LabelChange>,
) -> Answer<MachineDetail> {
    app.answer(app.controller.label(&id, &change).await)
}

async fn hold(
    State(app): State<App>,
    Id(id): Id<MachineId>,
    Json(request): Json<HoldRequest>,
) -> Answer<MachineDetail> {
    app.answer(app.controller.hold(&id, &request).await)
}

async fn release(State(app): State<App>, Id(id): Id<MachineId>) -> Answer<MachineDetail> {
    app.answer(app.controller.release(&id, (app.clock)()).await)
}

async fn deploy(
    State(app): State<App>,
    Id(id): Id<MachineId>,
    Json(request): Json<DeployRequest>,
) -> Answer<MachineDetail> {
    app.answer(app.controller.deploy(&id, &request).await)
}

async fn retire(State(app): State<App>, Id(id): Id<MachineId>) -> Answer<MachineDetail> {
    app.answer(app.controller.retire(&id, (app.clock)()).await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    since: u64,
    limit: Option<u32>,
    /// Seconds.
    #[serde(default)]
    wait: u32,
}

impl LogQuery {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(LIST_MAX)
    }

    fn wait(&self) -> Duration {
        Duration::from_secs(self.wait.min(LOG_WAIT_SECS_MAX).into())
    }
}

async fn machine_log(
    State(app): State<App>,
    Id(id): Id<MachineId>,
    Query(query): Query<LogQuery>,
) -> Answer<LogPage> {
    let page = app.controller.machine_log(&id, query.since, query.limit(), query.wait()).await;
    app.answer(page)
}

async fn run_log(
    State(app): State<App>,
    Id(id): Id<RunId>,
    Query(query): Query<LogQuery>,
) -> Answer<LogPage> {
    let page = app.controller.run_log(&id, query.since, query.limit(), query.wait()).await;
    app.answer(page)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    machine: Option<MachineId>,
    limit: Option<u32>,
}

async fn runs(State(app): State<App>, Query(query): Query<RunsQuery>) -> Answer<RunList> {
    let limit = query.limit.unwrap_or(LIST_MAX);
    app.answer(app.controller.runs(query.machine.as_ref(), limit).await)
}

async fn show_run(State(app): State<App>, Id(id): Id<RunId>) -> Answer<RunDetail> {
    app.answer(app.controller.run(&id).await)
}

async fn policy_check(State(app): State<App>, Text(text): Text) -> Json<PolicyCheck> {
    Json(app.controller.policy().check(&text))
}

/// Two policies, as JSON writes them.
const DRY_RUN_BYTES_MAX: usize = 4 * BYTES_MAX;

async fn dry_run(
    State(app): State<App>,
    Json(request): Json<DryRunRequest, DRY_RUN_BYTES_MAX>,
) -> Answer<DryRun> {
    app.answer(app.controller.dry_run(&request).await)
}

async fn why(State(app): State<App>, Id(id): Id<MachineId>) -> Answer<Why> {
    app.answer(app.controller.why(&id, (app.clock)()).await)
}

impl App {
    fn answer<T>(&self, result: Result<T, crate::service::ControllerError>) -> Answer<T> {
        result.map(Json).map_err(|error| {
            self.controller.metrics().errors.inc();
            Failure::from(error)
        })
    }
}
