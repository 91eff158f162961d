//! The machine's log on its way to the controller: ordered, without gaps, kept
//! until the controller has it.
//!
//! An event gets its number when it is first sent, not when it happens. What
//! was never sent may therefore be merged or left out when the controller is
//! away for so long that memory would run short, without leaving a gap.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use store_remote::{Backoff, Timing};
use wire::api::{EventBatch, EventsSeen};
use wire::{Event, EventKind, MachineId, Outcome, RunId};

/// Most events that wait; further log lines and progress are then left out.
const WAITING_MAX: usize = 10_000;
/// Longest log line that is kept, in bytes.
const LINE_BYTES_MAX: usize = 800;
/// Longest cause of a failure that is kept, in bytes.
const CAUSE_BYTES_MAX: usize = 8000;
/// Time for more events to come before a batch is sent.
const GATHER: Duration = Duration::from_millis(100);
/// Waits between tries; the tries never end.
const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(250), max: Duration::from_secs(15) };

/// Failures from one word about them to the next: every few minutes in the end.
const SAY_EVERY: u32 = 20;

/// Events that wait to be sent.
#[derive(Debug)]
pub struct EventLog {
    boot: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    machine: Option<MachineId>,
    run: Option<(RunId, u32)>,
    /// Never sent; their numbers are still 0.
    waiting: VecDeque<Event>,
    /// Sent at least once and not acknowledged.
    sent: Vec<Event>,
    last_seq: u64,
    left_out: u64,
}

impl EventLog {
    /// An empty log of one boot of the agent.
    pub fn new(boot: String) -> EventLog {
        EventLog { boot, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Notes who the machine is; nothing is sent before that is known.
    pub fn set_machine(&self, machine: MachineId) {
        self.state().machine = Some(machine);
        self.changed.notify_all();
    }

    /// Events from now on belong to this run and attempt.
    pub fn set_run(&self, run: Option<(RunId, u32)>) {
        self.state().run = run;
    }

    /// Adds an event that happened at `uptime`.
    pub fn push(&self, kind: EventKind, uptime: Duration) {
        let state = &mut *self.state();
        let (run, attempt) = match state.run.clone() {
            Some((run, attempt)) => (Some(run), attempt),
            None => (None, 0),
        };
        let uptime_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        let event = Event { seq: 0, uptime_ms, run, attempt, kind: shortened(kind) };
        let full = state.waiting.len() >= WAITING_MAX;
        match state.waiting.back_mut() {
            Some(last) if same_progress(last, &event) => *last = event,
            _ if full && is_minor(&event) => state.left_out += 1,
            _ => state.waiting.push_back(event),
        }
        self.changed.notify_all();
    }

    /// What to send now: what was sent before and not acknowledged, else the
    /// oldest that wait.
    pub fn batch(&self) -> Option<EventBatch> {
        let mut state = self.state();
        let machine = state.machine.clone()?;
        if state.sent.is_empty() {
            let count = state.waiting.len().min(EventBatch::EVENTS_MAX);
            let mut events: Vec<Event> = state.waiting.drain(..count).collect();
            if state.waiting.is_empty() && state.left_out > 0 && count < EventBatch::EVENTS_MAX {
                let mut note = events.last().cloned()?;
                let left_out = std::mem::take(&mut state.left_out);
                note.kind = EventKind::Log {
                    line: format!("{left_out} lines left out: the controller was away for long"),
                };
                events.push(note);
            }
            for event in &mut events {
                state.last_seq += 1;
                event.seq = state.last_seq;
            }
            state.sent = events;
        }
        let events = state.sent.clone();
        (!events.is_empty()).then(|| EventBatch { machine, boot: self.boot.clone(), events })
    }

    /// Forgets the events up to `seq`, which the controller has. False where it took nothing of what was sent.
    pub fn acknowledge(&self, seq: u64) -> bool {
        let mut state = self.state();
        let before = state.sent.len();
        state.sent.retain(|event| event.seq > seq);
        let progress = state.sent.len() < before || before == 0;
        self.changed.notify_all();
        progress
    }

    /// Waits until the controller has everything, at most `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let unsent = |state: &mut State| !(state.waiting.is_empty() && state.sent.is_empty());
        let waited = self.changed.wait_timeout_while(self.state(), patience, unsent);
        !waited.unwrap_or_else(|poisoned| poisoned.into_inner()).1.timed_out()
    }

    fn wait_for_events(&self) {
        let idle = |state: &mut State| {
            state.machine.is_none() || state.waiting.is_empty() && state.sent.is_empty()
        };
        drop(self.changed.wait_while(self.state(), idle));
    }

    /// Sends for ever; runs in a thread of its own.
    pub fn send_all<E: std::error::Error>(
        &self,
        timing: &dyn Timing,
        send: impl Fn(&EventBatch) -> Result<EventsSeen, E>,
        say: impl Fn(&str),
    ) -> ! {
        let mut failures = 0;
        loop {
            self.wait_for_events();
            timing.sleep(GATHER);
            let Some(batch) = self.batch() else { continue };
            let sent = send(&batch);
            let took = matches!(&sent, Ok(seen) if self.acknowledge(seen.seq));
            if took {
                failures = 0;
                continue;
            }
            failures += 1;
            if failures % SAY_EVERY == 1 {
                let why = match &sent {
                    Err(error) => wire::chain(error),
                    Ok(seen) => format!(
                        "it answers and takes none of them (it is at {}, the next is {}); \
                         is its disk full?",
                        seen.seq,
                        batch.events.first().map_or(0, |event| event.seq),
                    ),
                };
                say(&format!("events wait for the controller: {why}"));
            }
            timing.sleep(BACKOFF.delay(failures, timing.random()));
        }
    }
}

fn is_minor(event: &Event) -> bool {
    matches!(event.kind, EventKind::StepProgress { .. } | EventKind::Log { .. })
}

fn same_progress(last: &Event, event: &Event) -> bool {
    match (&last.kind, &event.kind) {
        (EventKind::StepProgress { step: a, .. }, EventKind::StepProgress { step: b, .. }) => {
            a == b && last.run == event.run && last.attempt == event.attempt
        }
        _ => false,
    }
}

fn shortened(mut kind: EventKind) -> EventKind {
    match &mut kind {
        EventKind::Log { line } => cut(line, LINE_BYTES_MAX),
        EventKind::StepEnded { outcome: Outcome::Failed { cause }, .. } => {
            cut(cause, CAUSE_BYTES_MAX);
        }
        _ => {}
    }
    kind
}

fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        let end = (0..=bytes).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use wire::Step;

    use super::*;

    fn line(log: &EventLog, text: &str) {
        log.push(EventKind::Log { line: text.into() }, Duration::from_millis(5));
    }

    fn numbers(batch: &EventBatch) -> Vec<u64> {
        batch.events.iter().map(|event| event.seq).collect()
    }

    fn ready() -> EventLog {
        let log = EventLog::new("b".into());
        log.set_machine("m".parse().unwrap());
        log
    }

    #[test]
    fn nothing_is_lost_or_renumbered_until_it_is_acknowledged() {
        let log = EventLog::new("b".into());
        line(&log, "before the machine is known");
        assert_eq!(log.batch(), None);
        log.set_machine("m".parse().unwrap());
        let first = log.batch().unwrap();
        assert_eq!(numbers(&first), [1]);
        line(&log, "two");
        assert_eq!(log.batch().as_ref(), Some(&first), "the same again while not acknowledged");
        assert!(!log.acknowledge(0), "the controller took nothing");
        assert!(log.acknowledge(1));
        assert_eq!(numbers(&log.batch().unwrap()), [2]);
        assert!(!log.flush(Duration::ZERO));
        assert!(log.acknowledge(99));
        assert!(log.flush(Duration::ZERO));
        assert_eq!(log.batch(), None);
    }

    #[test]
    fn a_part_of_a_batch_may_be_acknowledged() {
        let log = ready();
        (0..3).for_each(|_| line(&log, "x"));
        log.batch();
        log.acknowledge(2);
        assert_eq!(numbers(&log.batch().unwrap()), [3]);
    }

    #[test]
    fn progress_is_merged_and_too_much_is_left_out_without_a_gap() {
        let log = ready();
        let progress = |done_bytes| EventKind::StepProgress {
            step: Step::Transfer,
            done_bytes,
            total_bytes: 9,
        };
        (0..9).for_each(|done| log.push(progress(done), Duration::ZERO));
        assert_eq!(log.batch().unwrap().events.len(), 1);
        log.acknowledge(1);
        (0..WAITING_MAX + 7).for_each(|_| line(&log, "x"));
        log.push(EventKind::StepStarted { step: Step::Seal }, Duration::ZERO);
        let mut seen = 1;
        let mut last = None;
        while let Some(batch) = log.batch() {
            assert_eq!(
                numbers(&batch),
                (seen + 1..=seen + batch.events.len() as u64).collect::<Vec<_>>()
            );
            seen += batch.events.len() as u64;
            log.acknowledge(seen);
            last = batch.events.last().cloned();
        }
        assert_eq!(seen, 1 + WAITING_MAX as u64 + 2);
        assert!(
            matches!(last.unwrap().kind, EventKind::Log { line } if line.starts_with("7 lines left out"))
        );
    }

    #[test]
    fn events_carry_their_run_and_are_bounded() {
        let log = ready();
        log.set_run(Some(("r-1".parse().unwrap(), 2)));
        line(&log, &"ä".repeat(10_000));
        let event = log.batch().unwrap().events.remove(0);
        assert_eq!((event.run, event.attempt), (Some("r-1".parse().unwrap()), 2));
        assert!(
            matches!(event.kind, EventKind::Log { line } if line.len() < 900 && line.ends_with('…'))
        );
    }

    #[test]
    fn a_controller_that_answers_and_takes_nothing_is_told_of() {
        let log = std::sync::Arc::new(ready());
        line(&log, "x");
        let (said, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            log.send_all(
                &crate::testing::FastTiming::default(),
                |_| Ok::<_, std::io::Error>(EventsSeen { seq: 0 }),
                |line| drop(said.send(line.to_owned())),
            )
        });
        // Again and again.
        for line in lines.iter().take(2) {
            assert!(line.contains("takes none of them (it is at 0, the next is 1)"), "{line}");
        }
    }

    #[test]
    fn the_sender_outlasts_a_controller_that_comes_and_goes() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::sync::{Arc, mpsc};
        let log = Arc::new(ready());
        let (got, batches) = mpsc::channel();
        let tries = AtomicUsize::new(0);
        let sender = Arc::clone(&log);
        std::thread::spawn(move || {
            let timing = crate::testing::FastTiming::default();
            sender.send_all(
                &timing,
                |batch| {
                    if !tries.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
                        return Err(std::io::Error::other("away"));
                    }
                    let seq = batch.events.last().unwrap().seq;
                    got.send(numbers(batch)).unwrap();
                    Ok(EventsSeen { seq })
                },
                |_| {},
            )
        });
        let mut seen = Vec::new();
        for round in 0..20 {
            line(&log, &round.to_string());
            seen.extend(batches.try_iter().flatten());
        }
        while seen.len() < 20 {
            seen.extend(batches.recv().unwrap());
        }
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }
}
