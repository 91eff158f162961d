//! `ingot`: arguments as typed, resolved, passed to library calls, and their
//! results as text or JSON.
//!
//! [`args`] is what was typed, [`context`] what it means, [`command`] one
//! function per command, [`render`] everything that people and scripts read,
//! [`exit`] how the process ends, [`serve`] the composition of all servers.

mod args;
mod client;
mod command;
mod config;
mod context;
mod disk;
mod exit;
mod fault;
mod heap;
mod logging;
mod render;
mod runtime;
mod serve;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, fleet, server};
use context::Context;
use exit::{Code, OutputClosed};

fn main() -> ExitCode {
    heap::limit();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let context = Context::new(&cli.global);
    // The server's configuration says how its log looks.
    if !matches!(cli.command, Command::Serve(_)) {
        logging::of_command(context.verbose, &context.out);
    }
    let code = match run(&cli.command, &context) {
        Ok(code) => code,
        Err(error) => {
            if error.downcast_ref::<OutputClosed>().is_none() {
                context.out.error(&error);
            }
            exit::code_of(&error)
        }
    };
    ExitCode::from(code.number())
}

fn run(command: &Command, context: &Context) -> anyhow::Result<Code> {
    match command {
        Command::Build(args) => runtime::run(command::build::build(args, context))?,
        Command::Import(args) => runtime::run(command::image::import(args, context))?,
        Command::Export(args) => runtime::run(command::export::export(args, context))?,
        Command::Write(args) => runtime::run(command::write::write(args, context))?,
        Command::Push(args) => runtime::run(command::push::push(args, context))?,
        Command::Ls(args) => runtime::run(command::store::ls(args, context))?,
        Command::Show(args) => runtime::run(command::store::show(args, context))?,
        Command::Diff(args) => runtime::run(command::diff::diff(args, context))?,
        Command::Du(args) => runtime::run(command::du::du(args, context))?,
        Command::Tag(args) => runtime::run(command::store::tag(args, context))?,
        Command::Rm(args) => runtime::run(command::store::rm(args, context))?,
        Command::Gc(args) => runtime::run(command::garbage::gc(args, context))?,
        Command::Check(args) => return runtime::run(command::check::check(args, context)),
        Command::Serve(args) => serve::serve(args, context)?,
        Command::Boot(server::Boot::Assets(args)) => command::boot::assets(args, context)?,
        Command::Machine(fleet::Machine::Ls(args)) => command::machine::ls(args, context)?,
        Command::Machine(fleet::Machine::Show(args)) => command::machine::show(args, context)?,
        Command::Machine(fleet::Machine::Label(args)) => command::machine::label(args, context)?,
        Command::Machine(fleet::Machine::Hold(args)) => command::machine::hold(args, context)?,
        Command::Machine(fleet::Machine::Release(args)) => {
            command::machine::release(args, context)?;
        }
        Command::Machine(fleet::Machine::Retire(args)) => command::machine::retire(args, context)?,
        Command::Deploy(args) => command::deploy::deploy(args, context)?,
        Command::Run(fleet::Run::Ls(args)) => command::run::ls(args, context)?,
        Command::Run(fleet::Run::Show(args)) => command::run::show(args, context)?,
        Command::Run(fleet::Run::Logs(args)) => command::logs::logs(args, context)?,
        Command::Policy(fleet::Policy::Check(args)) => {
            return command::policy::check(args, context);
        }
        Command::Policy(fleet::Policy::Show(args)) => command::apply::show(args, context)?,
        Command::Policy(fleet::Policy::Apply(args)) => return command::apply::apply(args, context),
        Command::Policy(fleet::Policy::Why(args)) => command::policy::why(args, context)?,
        Command::Policy(fleet::Policy::DryRun(args)) => command::dry_run::dry_run(args, context)?,
        Command::Policy(fleet::Policy::Diff(args)) => command::dry_run::diff(args, context)?,
        Command::Completions(args) => command::meta::completions(args, context)?,
        Command::Man(args) => command::meta::man(args, context)?,
    }
    Ok(Code::Done)
}

/// Help and version are no errors: clap prints those on standard output.
fn not_understood(error: &clap::Error) -> ExitCode {
    let code = if error.use_stderr() { Code::Usage } else { Code::Done };
    // Nobody left to tell where this fails.
    let _ = error.print();
    ExitCode::from(code.number())
}
