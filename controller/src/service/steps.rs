//! From a run's events to its steps, for people.

use wire::EventKind;
use wire::admin::{LogEntry, StepRecord};

/// The steps that these events tell of, in the order of their beginning.
pub(super) fn steps(events: &[LogEntry]) -> Vec<StepRecord> {
    let mut steps: Vec<StepRecord> = Vec::new();
    for entry in events {
        let step = match &entry.kind {
            EventKind::StepStarted { step }
            | EventKind::StepProgress { step, .. }
            | EventKind::StepEnded { step, .. } => *step,
            _ => continue,
        };
        let open = |record: &&mut StepRecord| {
            (record.attempt, record.step) == (entry.attempt, step) && record.outcome.is_none()
        };
        let begins = matches!(entry.kind, EventKind::StepStarted { .. });
        let record = match steps.iter_mut().rev().find(open).filter(|_| !begins) {
            Some(record) => record,
            None => {
                steps.push(begun(entry, step, begins));
                let Some(record) = steps.last_mut() else { continue };
                record
            }
        };
        tell(record, &entry.kind);
    }
    steps
}

fn begun(entry: &LogEntry, step: wire::Step, begins: bool) -> StepRecord {
    StepRecord {
        attempt: entry.attempt,
        step,
        started: begins.then_some(entry.received),
        outcome: None,
        elapsed_ms: None,
        done_bytes: 0,
        total_bytes: 0,
        received_bytes: 0,
        written_bytes: 0,
    }
}

fn tell(record: &mut StepRecord, kind: &EventKind) {
    match kind {
        EventKind::StepProgress { done_bytes, total_bytes, .. } => {
            (record.done_bytes, record.total_bytes) = (*done_bytes, *total_bytes);
        }
        EventKind::StepEnded { outcome, elapsed_ms, received_bytes, written_bytes, .. } => {
            record.outcome = Some(outcome.clone());
            record.elapsed_ms = Some(*elapsed_ms);
            (record.received_bytes, record.written_bytes) = (*received_bytes, *written_bytes);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::{Outcome, Step};

    fn entry(record: u64, attempt: u32, kind: EventKind) -> LogEntry {
        let received = 1000 + record;
        let boot = "b".to_owned();
        LogEntry { record, received, boot, seq: record, uptime_ms: 0, run: None, attempt, kind }
    }

    fn ended(step: Step, outcome: Outcome) -> EventKind {
        EventKind::StepEnded { step, outcome, elapsed_ms: 7, received_bytes: 8, written_bytes: 9 }
    }

    #[test]
    fn events_become_steps() {
        let step = Step::Transfer;
        let failed = Outcome::Failed { cause: "x".into() };
        let events = [
            entry(1, 1, EventKind::StepStarted { step }),
            entry(2, 1, EventKind::StepProgress { step, done_bytes: 5, total_bytes: 10 }),
            entry(3, 1, EventKind::Log { line: "x".into() }),
            entry(4, 1, ended(step, failed.clone())),
            entry(5, 2, EventKind::StepStarted { step }),
            entry(6, 2, ended(step, Outcome::Done)),
            entry(7, 2, ended(Step::Seal, Outcome::Done)),
        ];
        let steps = steps(&events);
        let seen: Vec<_> =
            steps.iter().map(|s| (s.attempt, s.step, s.started, s.outcome.clone())).collect();
        assert_eq!(
            seen,
            [
                (1, Step::Transfer, Some(1001), Some(failed)),
                (2, Step::Transfer, Some(1005), Some(Outcome::Done)),
                (2, Step::Seal, None, Some(Outcome::Done)),
            ]
        );
        assert_eq!(
            (steps[0].done_bytes, steps[0].total_bytes, steps[0].received_bytes),
            (5, 10, 8)
        );
    }
}
