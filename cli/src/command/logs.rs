//! `run logs`: what a run reported, once or as it happens.

use std::thread;
use std::time::Duration;

use wire::RunId;
use wire::admin::{LOG, LOG_WAIT_SECS_MAX, LogEntry, LogPage, RUNS, RunList, RunState};

use super::run::{detail, wanted};
use crate::args::fleet::RunLogs;
use crate::client::{PAGE, Server};
use crate::context::Context;
use crate::exit::{Code, Failure, code_of};
use crate::render::event::Narrator;

/// How long to wait before a server that does not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// `ingot run logs`.
pub fn logs(args: &RunLogs, context: &Context) -> anyhow::Result<()> {
    let reader = Reader { server: Server::new(context.server_url()), follow: args.follow, context };
    let run = match &args.run {
        Some(run) => run.clone(),
        None => reader.newest()?,
    };
    let mut narrator = Narrator::new(args.follow);
    reader.each_entry(&run, &mut |entry| {
        if context.out.json {
            return context.out.json_line(entry);
        }
        context.out.lines(narrator.tell(entry, &context.out))
    })?;
    if args.follow { reader.ending(&run) } else { Ok(()) }
}

struct Reader<'a> {
    server: Server,
    follow: bool,
    context: &'a Context,
}

impl Reader<'_> {
    /// The run that began last; with `--follow` the first one is waited for.
    fn newest(&self) -> anyhow::Result<RunId> {
        let mut told = false;
        loop {
            let path = format!("{RUNS}?limit=1");
            let RunList { runs } = self.patiently(|| self.server.ask("the newest run", &path))?;
            if let Some(run) = runs.into_iter().next() {
                return Ok(run.id);
            }
            if !self.follow {
                return Err(Failure::new(Code::NotFound, "no machine was given an image yet")
                    .next("with --follow the first run is waited for")
                    .into());
            }
            if !std::mem::replace(&mut told, true) {
                self.context.out.note("waiting for the first run");
            }
            thread::sleep(RETRY);
        }
    }

    fn each_entry(
        &self,
        run: &RunId,
        tell: &mut dyn FnMut(&LogEntry) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let wait = if self.follow { LOG_WAIT_SECS_MAX } else { 0 };
        let mut since = 0;
        loop {
            let path = format!("{RUNS}/{run}{LOG}?since={since}&limit={PAGE}&wait={wait}");
            let what = format!("the log of run {run}");
            let page: LogPage = self.patiently(|| self.server.ask(&what, &path))?;
            page.entries.iter().try_for_each(&mut *tell)?;
            let nothing_more = page.entries.is_empty() && !self.follow;
            if page.over || nothing_more {
                return Ok(());
            }
            since = page.next;
        }
    }

    /// Asks again while the server is away, where somebody follows.
    fn patiently<T>(&self, ask: impl Fn() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut told = false;
        loop {
            match ask() {
                Err(error) if self.follow && code_of(&error) == Code::Unreachable => {
                    if !std::mem::replace(&mut told, true) {
                        let base = self.server.base();
                        self.context.out.note(format!("{base} does not answer, waiting for it"));
                    }
                    thread::sleep(RETRY);
                }
                result => return result,
            }
        }
    }

    /// Says how the run ended; a failed run is a failure.
    fn ending(&self, run: &RunId) -> anyhow::Result<()> {
        let summary = self.patiently(|| detail(&self.server, run))?.summary;
        let image = wanted(&summary);
        let text = match summary.state {
            RunState::Succeeded if summary.makes.is_some() => {
                format!("{image} was made and is in the store")
            }
            RunState::Succeeded => format!("{image} was installed and started"),
            RunState::AlreadyInstalled => format!("{image} was installed already and was started"),
            RunState::Superseded => "something else is wanted of the machine now".to_owned(),
            RunState::Failed => {
                let cause = summary.cause.unwrap_or_else(|| "it gave no cause".to_owned());
                return Err(anyhow::anyhow!(cause).context(
                    Failure::new(Code::Failed, format!("run {run} failed"))
                        .next(format!("`ingot run show {run}` lists its steps")),
                ));
            }
            _ => return Ok(()),
        };
        self.context.out.note(format!("run {run}: {text}"));
        Ok(())
    }
}
