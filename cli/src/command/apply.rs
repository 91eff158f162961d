//! `policy show` and `policy apply`.

use controller::policy::BYTES_MAX;
use serde::Serialize;
use wire::Digest;
use wire::admin::{CHECK, DryRunRequest, POLICY, PolicyCheck, PolicyStatus};

use super::dry_run::{self, Report};
use super::policy::problem_lines;
use crate::args::fleet::{PolicyApply, PolicyShow};
use crate::client::Server;
use crate::config;
use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::render::human::count;

/// What putting a policy in force changes.
#[derive(Debug, Serialize)]
struct Change {
    /// As of `policy dry-run`.
    #[serde(flatten)]
    machines: Report,
    /// The digest of the policy before.
    before: Digest,
    /// The digest of the policy that is in force now.
    in_force: Digest,
}

/// `ingot policy show`.
pub fn show(_args: &PolicyShow, context: &Context) -> anyhow::Result<()> {
    let status = status(&Server::new(context.server_url()))?;
    if context.out.json {
        return context.out.document(&status);
    }
    if let Some(error) = &status.error {
        context.out.note(format!("the file as it is now is not in force: {error}"));
    }
    let (text, _) = in_force(status)?;
    context.out.line(text.strip_suffix('\n').unwrap_or(&text))
}

/// `ingot policy apply`. Problems are a result, as of `policy check`.
pub fn apply(args: &PolicyApply, context: &Context) -> anyhow::Result<Code> {
    let file = args.file.display().to_string();
    let text = config::read(&args.file, "policy", BYTES_MAX as u64)?;
    let server = Server::new(context.server_url());
    let check: PolicyCheck =
        server.pose_text("what is wrong with it", &format!("{POLICY}{CHECK}"), &text)?;
    if !check.problems.is_empty() {
        if context.out.json {
            context.out.document(&check)?;
        } else {
            context.out.lines(problem_lines(&file, &text, &check.problems, &context.out))?;
        }
        return Ok(Code::Mistake);
    }
    // What is shown is a change of this, and nothing else is replaced.
    let (old, before) = in_force(status(&server)?)?;
    let request = DryRunRequest { policy: text.clone(), instead_of: Some(old), after: None };
    let machines = dry_run::ask(request, false, context)?;
    if !args.plan && !args.yes {
        let total = count(machines.total, "machine");
        let what = format!(
            "{file} would be in force: of {total} something would change for {}",
            machines.changed
        );
        let next = "look at them with --plan; go ahead with --yes";
        return Err(Failure::new(Code::Refused, what).next(next).into());
    }
    let mut in_force = before;
    if args.yes {
        let status: PolicyStatus = server.replace("the policy", POLICY, &text, &before)?;
        in_force = status.digest.unwrap_or(before);
        context
            .out
            .note(format!("{file} is in force; it counts from each machine's next check-in"));
    }
    let change = Change { machines, before, in_force };
    match context.out.json {
        true => context.out.document(&change)?,
        false => dry_run::show(&change.machines, ["BEFORE", "AFTER"], context)?,
    }
    Ok(Code::Done)
}

fn status(server: &Server) -> anyhow::Result<PolicyStatus> {
    server.ask("the policy", POLICY)
}

/// The text in force, and its digest.
fn in_force(status: PolicyStatus) -> anyhow::Result<(String, Digest)> {
    status.text.zip(status.digest).ok_or_else(|| {
        Failure::new(Code::NotFound, "the server has no policy file: it holds every machine")
            .next("name one as `file` in [policy] of its configuration, and start it again")
            .into()
    })
}
