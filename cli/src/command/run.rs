//! `run ls` and `run show`; `run logs` has its own file.

use std::time::Duration;

use jiff::Timestamp;
use wire::admin::{RUNS, RunDetail, RunList, RunSummary, StepRecord};
use wire::{Configuration, EventKind, Outcome, Reference, RunId};

use crate::args::fleet::{RunLs, RunShow};
use crate::client::{PAGE, Server};
use crate::context::Context;
use crate::render::Tone;
use crate::render::event::{outcome_text, plan_text};
use crate::render::human::{ago_ms, duration, size};
use crate::render::sheet::Sheet;
use crate::render::table::{Cell, Table};
use crate::render::words::{run_state, step_word};

/// `ingot run ls`.
pub fn ls(_: &RunLs, context: &Context) -> anyhow::Result<()> {
    let server = Server::new(context.server_url());
    let RunList { runs } = server.ask("the runs", &format!("{RUNS}?limit={PAGE}"))?;
    if context.out.json {
        return context.out.document(&runs);
    }
    if runs.is_empty() {
        context.out.note("no machine was given an image yet");
        return Ok(());
    }
    let now = Timestamp::now();
    let mut table =
        Table::new(&["RUN", "STATE", "MACHINE", "IMAGE", "RULE", ">TRY", "BEGAN", "TOOK"]);
    runs.iter().for_each(|run| table.row(row(run, now)));
    context.out.lines(table.lines(&context.out))
}

/// `ingot run show`.
pub fn show(args: &RunShow, context: &Context) -> anyhow::Result<()> {
    let run = detail(&Server::new(context.server_url()), &args.run)?;
    if context.out.json {
        return context.out.document(&run);
    }
    let mut lines = sheet(&run, Timestamp::now()).lines(&context.out);
    if !run.steps.is_empty() {
        lines.push(String::new());
        lines.extend(steps(&run.steps).lines(&context.out));
    }
    context.out.lines(lines)
}

/// Everything that the server knows about one run.
pub fn detail(server: &Server, run: &RunId) -> anyhow::Result<RunDetail> {
    server.ask(&format!("run {run}"), &format!("{RUNS}/{run}"))
}

fn row(run: &RunSummary, now: Timestamp) -> [Cell; 8] {
    [
        run.id.to_string().into(),
        run_state(run.state),
        run.machine.to_string().into(),
        wanted(run).to_string().into(),
        run.rule.clone().into(),
        run.attempt.to_string().into(),
        ago_ms(run.created, now).into(),
        took(run).into(),
    ]
}

/// What a run installs or makes.
pub fn wanted(run: &RunSummary) -> Reference {
    run.makes.as_ref().map_or_else(|| run.reference.clone(), Configuration::reference)
}

fn took(run: &RunSummary) -> String {
    duration(Duration::from_millis(run.changed.saturating_sub(run.created)))
}

fn sheet(run: &RunDetail, now: Timestamp) -> Sheet {
    let summary = &run.summary;
    let mut sheet = Sheet::default();
    sheet.entry("run", summary.id.to_string());
    sheet.entry("state", run_state(summary.state));
    if let Some(cause) = &summary.cause {
        sheet.entry("because", Cell::toned(cause.clone(), Tone::Bad));
    }
    sheet.entry("machine", summary.machine.to_string());
    if let Some(made) = &summary.makes {
        sheet.entry("makes", made.reference().to_string());
        sheet.entry("for", made.to_string());
    }
    let image = if summary.makes.is_some() { "base" } else { "image" };
    sheet.entry(image, format!("{} ({})", summary.reference, summary.image.short()));
    for other in &summary.others {
        sheet.entry("with", other.to_string());
    }
    sheet.entry("rule", summary.rule.clone());
    sheet.entry("attempt", summary.attempt.to_string());
    sheet.entry("began", ago_ms(summary.created, now));
    sheet.entry("took", took(summary));
    if let Some(plan @ EventKind::Planned { .. }) = &run.plan {
        sheet.entry("plan", plan_text(plan));
    }
    sheet
}

fn steps(steps: &[StepRecord]) -> Table {
    let mut table = Table::new(&[">TRY", "STEP", ">TOOK", ">RECEIVED", ">WRITTEN", "OUTCOME"]);
    for step in steps {
        let bytes = |count: u64| if count == 0 { String::new() } else { size(count) };
        let took = step.elapsed_ms.map(|ms| duration(Duration::from_millis(ms)));
        table.row([
            step.attempt.to_string().into(),
            step_word(step.step).into(),
            took.unwrap_or_default().into(),
            bytes(step.received_bytes).into(),
            bytes(step.written_bytes).into(),
            outcome(step.outcome.as_ref()),
        ]);
    }
    table
}

fn outcome(outcome: Option<&Outcome>) -> Cell {
    match outcome {
        None => Cell::toned("under way", Tone::Active),
        Some(outcome) => {
            let (text, tone) = outcome_text(outcome);
            Cell::toned(text, tone)
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wire::admin::RunState;
    use wire::{Digest, DiskChoice, ImageOrder, Start};

    use super::*;
    use crate::render::Out;

    #[test]
    fn a_run_is_shown_with_all_its_images() {
        let image = |reference: &str, number: u8| ImageOrder {
            image: Digest([number; 32]),
            reference: reference.parse().unwrap(),
            disk: DiskChoice::default(),
        };
        let now = Timestamp::from_second(1000).unwrap();
        let mut run = RunDetail {
            summary: RunSummary {
                id: "r-1".parse().unwrap(),
                machine: "m-1".parse().unwrap(),
                image: Digest([1; 32]),
                reference: "lab/db:1".parse().unwrap(),
                others: vec![image("lab/data:1", 2), image("lab/log:1", 3)],
                makes: None,
                rule: "databases".to_owned(),
                state: RunState::Succeeded,
                attempt: 1,
                cause: None,
                created: 940_000,
                changed: 970_000,
            },
            disk: DiskChoice::default(),
            start: Start::Kexec,
            plan: None,
            steps: vec![],
        };
        expect![[r#"
            run      r-1
            state    succeeded
            machine  m-1
            image    lab/db:1 (010101010101)
            with     lab/data:1 (020202020202)
            with     lab/log:1 (030303030303)
            rule     databases
            attempt  1
            began    1 min ago
            took     30.0 s"#]]
        .assert_eq(&sheet(&run, now).lines(&Out::plain()).join("\n"));

        // What is made on the machine, and out of what.
        run.summary.others.clear();
        run.summary.makes = Some(Configuration {
            key: Digest([0xab; 32]),
            recipe: "gpu".to_owned(),
            facts: [("cpu.count".to_owned(), None)].into(),
        });
        run.summary.state = RunState::Scripting;
        expect![[r#"
            run      r-1
            state    scripting
            machine  m-1
            makes    built/gpu:abababababab
            for      recipe gpu for cpu.count not reported
            base     lab/db:1 (010101010101)
            rule     databases
            attempt  1
            began    1 min ago
            took     30.0 s"#]]
        .assert_eq(&sheet(&run, now).lines(&Out::plain()).join("\n"));
    }
}
