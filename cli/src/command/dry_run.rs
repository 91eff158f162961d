//! `policy dry-run` and `policy diff`.

use std::path::Path;

use controller::policy::BYTES_MAX;
use serde::Serialize;
use wire::admin::{DRY_RUN, DryRun, DryRunMachine, DryRunRequest, POLICY, Ruling};

use crate::args::fleet::{PolicyDiff, PolicyDryRun};
use crate::client::Server;
use crate::config;
use crate::context::Context;
use crate::render::human::count;
use crate::render::table::{Cell, Table};

/// Machines that were looked at.
#[derive(Debug, Serialize)]
pub struct Report {
    /// On record.
    pub total: u64,
    /// Of these, machines of which the policies say something else.
    pub changed: u64,
    /// Those that changed, or all.
    machines: Vec<DryRunMachine>,
}

/// `ingot policy dry-run`.
pub fn dry_run(args: &PolicyDryRun, context: &Context) -> anyhow::Result<()> {
    let request = DryRunRequest { policy: read(&args.file)?, instead_of: None, after: None };
    let report = ask(request, args.all, context)?;
    show(&report, ["IN FORCE", "WITH THE FILE"], context)
}

/// `ingot policy diff`.
pub fn diff(args: &PolicyDiff, context: &Context) -> anyhow::Result<()> {
    let (instead_of, policy) = (Some(read(&args.old)?), read(&args.new)?);
    let report = ask(DryRunRequest { policy, instead_of, after: None }, args.all, context)?;
    show(&report, ["OLD", "NEW"], context)
}

fn read(file: &Path) -> anyhow::Result<String> {
    config::read(file, "policy", BYTES_MAX as u64)
}

/// Holds policies against all machines; lists those of which they say something
/// else, or all.
pub fn ask(mut request: DryRunRequest, all: bool, context: &Context) -> anyhow::Result<Report> {
    let server = Server::new(context.server_url());
    let mut report = Report { total: 0, changed: 0, machines: Vec::new() };
    loop {
        let page: DryRun =
            server.pose("what it would say", &format!("{POLICY}{DRY_RUN}"), &request)?;
        for machine in page.machines {
            let is_changed = machine.before != machine.after;
            report.total += 1;
            report.changed += u64::from(is_changed);
            if is_changed || all {
                report.machines.push(machine);
            }
        }
        match page.next {
            Some(next) => request.after = Some(next),
            None => return Ok(report),
        }
    }
}

/// Prints them, the columns with these names.
pub fn show(
    report: &Report,
    [before, after]: [&'static str; 2],
    context: &Context,
) -> anyhow::Result<()> {
    if context.out.json {
        return context.out.document(report);
    }
    if !report.machines.is_empty() {
        let mut table = Table::new(&["MACHINE", before, after]);
        report.machines.iter().for_each(|machine| table.row(row(machine)));
        context.out.lines(table.lines(&context.out))?;
    }
    let total = count(report.total, "machine");
    context.out.line(format!("{total} on record, for {} something changes", report.changed))
}

fn row(DryRunMachine { machine, before, after }: &DryRunMachine) -> [Cell; 3] {
    let same = before == after;
    let how = |ruling: &Option<Ruling>| ruling.as_ref().map(|r| r.how.clone()).unwrap_or_default();
    let is_in_how = how(before) != how(after);
    let words = |ruling: &Option<Ruling>| match ruling {
        Some(Ruling { rule, outcome, how }) if is_in_how && !how.is_empty() => {
            format!("{rule}: {outcome} ({how})")
        }
        Some(Ruling { rule, outcome, .. }) => format!("{rule}: {outcome}"),
        None => "no rule matches".to_owned(),
    };
    let after = if same { "the same".to_owned() } else { words(after) };
    [machine.to_string().into(), words(before).into(), after.into()]
}
