//! `deploy`: machines get an image, whatever the policy says.

use jiff::Timestamp;
use wire::admin::{DEPLOY, DeployRequest, Deployment, MACHINES, MachineDetail, MachineSummary};
use wire::{DiskChoice, Start};

use super::machine::{COLUMNS, chosen, row};
use crate::args::fleet::{Deploy, DeployStart};
use crate::client::Server;
use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::render::table::Table;

/// `ingot deploy`.
pub fn deploy(args: &Deploy, context: &Context) -> anyhow::Result<()> {
    let server = Server::new(context.server_url());
    let machines = chosen(&server, Some(&args.on))?;
    if machines.is_empty() {
        return Err(Failure::new(Code::NotFound, format!("no machine is like {:?}", args.on))
            .next("`ingot machine show` lists the facts of a machine")
            .into());
    }
    if args.plan {
        return show(&machines, context);
    }
    let count = machines.len();
    if !args.yes {
        return Err(Failure::new(
            Code::Refused,
            format!("{count} machines would get {}", wish(args)),
        )
        .next("look at them with --plan; go ahead with --yes")
        .into());
    }
    let image = args.reference.clone().map(|reference| {
        let disk = DiskChoice { serial: args.disk.clone(), ..DiskChoice::default() };
        Deployment { reference, disk, start: args.start.into() }
    });
    let request = DeployRequest { image };
    let mut changed = Vec::new();
    for machine in machines {
        let path = format!("{MACHINES}/{}{DEPLOY}", machine.id);
        // What went before stands: each machine is changed for itself.
        let detail: MachineDetail =
            server.tell(&format!("machine {}", machine.id), &path, &request)?;
        changed.push(detail.summary);
    }
    context.out.note(format!("{count} machines get {} at their next check-in", wish(args)));
    show(&changed, context)
}

fn show(machines: &[MachineSummary], context: &Context) -> anyhow::Result<()> {
    if context.out.json {
        return context.out.document(&machines);
    }
    let now = Timestamp::now();
    let mut table = Table::new(&COLUMNS);
    machines.iter().for_each(|machine| table.row(row(machine, now)));
    context.out.lines(table.lines(&context.out))
}

fn wish(args: &Deploy) -> String {
    match &args.reference {
        Some(reference) => reference.to_string(),
        None => "what the policy says".to_owned(),
    }
}

impl From<DeployStart> for Start {
    fn from(how: DeployStart) -> Start {
        match how {
            DeployStart::Kexec => Start::Kexec,
            DeployStart::Reboot => Start::Reboot,
            DeployStart::PowerOff => Start::PowerOff,
        }
    }
}
