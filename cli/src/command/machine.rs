//! `machine`: see and steer.

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use wire::admin::{
    HOLD, HoldRequest, LABELS, LabelChange, MACHINES, MachineDetail, MachineList, MachineState,
    MachineSummary, RELEASE, RETIRE,
};
use wire::{Disk, MachineId, Nic};

use crate::args::fleet::{
    MachineHold, MachineLabel, MachineLs, MachineRelease, MachineRetire, MachineShow,
};
use crate::client::{PAGE, Server};
use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::render::human::{ago_ms, size};
use crate::render::sheet::Sheet;
use crate::render::table::{Cell, Table};
use crate::render::words::{answer, fact, machine_state, run_state};

/// What a table of machines shows.
pub const COLUMNS: [&str; 7] = ["MACHINE", "STATE", "MODEL", "ADDRESS", "IMAGE", "RUN", "SEEN"];

/// `ingot machine ls`.
pub fn ls(args: &MachineLs, context: &Context) -> anyhow::Result<()> {
    let mut machines = chosen(&Server::new(context.server_url()), args.on.as_deref())?;
    machines.retain(|machine| args.all || machine.state != MachineState::Retired);
    if context.out.json {
        return context.out.document(&machines);
    }
    if machines.is_empty() {
        context.out.note(match &args.on {
            Some(_) => "no machine is like that",
            None => "no machine has checked in yet",
        });
        return Ok(());
    }
    let now = Timestamp::now();
    let mut table = Table::new(&COLUMNS);
    for machine in &machines {
        table.row(row(machine, now));
    }
    context.out.lines(table.lines(&context.out))
}

/// `ingot machine show`.
pub fn show(args: &MachineShow, context: &Context) -> anyhow::Result<()> {
    let server = Server::new(context.server_url());
    let path = format!("{MACHINES}/{}", args.machine);
    let machine: MachineDetail = server.ask(&format!("machine {}", args.machine), &path)?;
    if context.out.json {
        return context.out.document(&machine);
    }
    context.out.lines(sheet(&machine, Timestamp::now()).lines(&context.out))
}

/// `ingot machine label`.
pub fn label(args: &MachineLabel, context: &Context) -> anyhow::Result<()> {
    let set = args.set.iter().cloned().collect();
    let change = LabelChange { set, remove: args.remove.clone() };
    steer(&args.machine, LABELS, &change, context)
}

/// `ingot machine hold`.
pub fn hold(args: &MachineHold, context: &Context) -> anyhow::Result<()> {
    steer(&args.machine, HOLD, &HoldRequest { reason: args.reason.clone() }, context)
}

/// `ingot machine release`.
pub fn release(args: &MachineRelease, context: &Context) -> anyhow::Result<()> {
    steer(&args.machine, RELEASE, &(), context)
}

/// `ingot machine retire`.
pub fn retire(args: &MachineRetire, context: &Context) -> anyhow::Result<()> {
    if !args.yes {
        let what = format!("machine {} would be taken out of service for good", args.machine);
        let next =
            format!("look at it with `ingot machine show {}`; go ahead with --yes", args.machine);
        return Err(Failure::new(Code::Refused, what).next(next).into());
    }
    steer(&args.machine, RETIRE, &(), context)
}

/// Tells the server, and shows how the machine stands then.
fn steer(
    machine: &MachineId,
    route: &str,
    body: &impl Serialize,
    context: &Context,
) -> anyhow::Result<()> {
    let server = Server::new(context.server_url());
    let path = format!("{MACHINES}/{machine}{route}");
    let machine: MachineDetail = server.tell(&format!("machine {machine}"), &path, body)?;
    if context.out.json {
        return context.out.document(&machine);
    }
    context.out.lines(sheet(&machine, Timestamp::now()).lines(&context.out))
}

/// The machines that an expression is true of, or all.
pub fn chosen(server: &Server, on: Option<&str>) -> anyhow::Result<Vec<MachineSummary>> {
    let on = on.map(|on| format!("&on={}", utf8_percent_encode(on, NON_ALPHANUMERIC)));
    let on = on.unwrap_or_default();
    let mut machines = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("{MACHINES}?limit={PAGE}{on}{after}");
        let page: MachineList = server.ask("the machines", &path)?;
        machines.extend(page.machines);
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(machines),
        }
    }
}

/// A line of a table of machines.
pub fn row(machine: &MachineSummary, now: Timestamp) -> [Cell; 7] {
    let dash = || "-".to_owned();
    [
        machine.id.to_string().into(),
        machine_state(machine.state),
        model(machine).into(),
        machine.macs.first().cloned().unwrap_or_else(dash).into(),
        machine.reference.as_ref().map_or_else(dash, ToString::to_string).into(),
        machine.run.as_ref().map_or_else(dash, ToString::to_string).into(),
        ago_ms(machine.last_seen, now).into(),
    ]
}

fn model(machine: &MachineSummary) -> String {
    let parts = [machine.manufacturer.as_deref(), machine.product.as_deref()];
    let known: Vec<_> = parts.into_iter().flatten().collect();
    if known.is_empty() { "-".to_owned() } else { known.join(" ") }
}

fn sheet(machine: &MachineDetail, now: Timestamp) -> Sheet {
    let summary = &machine.summary;
    let mut sheet = Sheet::default();
    sheet.entry("machine", summary.id.to_string());
    sheet.entry("state", machine_state(summary.state));
    if let Some(reason) = machine.held.as_ref().or(summary.reason.as_ref()) {
        let key = if summary.state == MachineState::Failed { "refused" } else { "waits for" };
        sheet.entry(key, reason.clone());
    }
    if let Some(deploy) = &machine.deploy {
        sheet.entry("to run", format!("{}, by `ingot deploy`", deploy.reference));
    }
    sheet.entry("model", model(summary));
    sheet.entry("recognised by", machine.identifiers.join(", "));
    sheet.entry("first seen", ago_ms(summary.first_seen, now));
    sheet.entry("last seen", ago_ms(summary.last_seen, now));
    sheet.entry("agent", machine.agent.clone());
    sheet.section("disks");
    machine.inventory.disks.iter().for_each(|disk| sheet.entry(&disk.name, disk_line(disk)));
    sheet.section("network cards");
    machine.inventory.nics.iter().for_each(|nic| sheet.entry(&nic.name, nic_line(nic)));
    sheet.section("labels");
    summary.labels.iter().for_each(|(key, value)| sheet.entry(key, value.clone()));
    sheet.section("answers");
    machine.answers.iter().for_each(|(question, given)| sheet.entry(question, answer(given)));
    sheet.section("facts");
    machine.facts.iter().for_each(|(path, value)| sheet.entry(path, fact(value)));
    sheet.section("not reported");
    // Of its lease the server may know what the machine does not.
    let missing = machine.inventory.missing.iter();
    let missing = missing.filter(|(path, _)| !machine.facts.contains_key(*path));
    missing.for_each(|(path, why)| sheet.entry(path, why.clone()));
    sheet.section("runs");
    for run in &machine.runs {
        let state = run_state(run.state);
        let tail = format!("  {}  {}", run.reference, ago_ms(run.created, now));
        sheet.entry(run.id.as_str(), state.followed_by(&tail));
    }
    sheet
}

fn disk_line(disk: &Disk) -> String {
    let mut line = size(disk.size_bytes);
    for part in [&disk.model, &disk.serial].into_iter().flatten() {
        line.extend(["  ", part]);
    }
    if let Some(os) = &disk.os {
        line.extend(["  ", os.name.as_ref().unwrap_or(&os.id)]);
    }
    if let Some(receipt) = &disk.receipt {
        line.push_str(&format!("  holds {} ({})", receipt.reference, receipt.image.short()));
    }
    line
}

fn nic_line(nic: &Nic) -> String {
    let mut line = nic.mac.clone();
    if let Some(driver) = &nic.driver {
        line.push_str(&format!("  {driver}"));
    }
    if let Some(speed) = nic.speed_mbit {
        line.push_str(&format!("  {speed} Mbit/s"));
    }
    if let Some(neighbour) = &nic.neighbour {
        let system = neighbour.system.as_ref().unwrap_or(&neighbour.chassis);
        line.push_str(&format!("  at {} of {system}", neighbour.port));
    }
    match nic.link {
        Some(false) => line.push_str("  no link"),
        _ if nic.booted => line.push_str("  booted from"),
        _ => {}
    }
    line
}
