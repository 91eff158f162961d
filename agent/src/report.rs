//! Telling people and the controller the same thing at the same time.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store_remote::Timing;
use wire::{EventKind, Outcome, Step, chain};

use crate::console::Console;
use crate::events::EventLog;
use crate::progress::{Meter, size};

/// Where everything that happens is said.
#[derive(Clone)]
pub struct Report {
    /// For the people in front of the machine.
    pub console: Arc<Console>,
    /// For the controller.
    pub log: Arc<EventLog>,
    /// When it happened.
    pub timing: Arc<dyn Timing>,
}

/// Bytes that a step moved; counted while it runs, so that they are known
/// even when it fails.
#[derive(Debug, Default)]
pub struct Tally {
    /// Received over the network.
    pub received: AtomicU64,
    /// Written to the disk.
    pub written: AtomicU64,
}

impl Tally {
    /// Notes bytes written to the disk.
    pub fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Report {
    /// A line on every console and in the log.
    pub fn say(&self, line: &str) {
        self.console.say(line);
        for line in line.lines() {
            self.event(EventKind::Log { line: line.to_owned() });
        }
    }

    /// An event in the log.
    pub fn event(&self, kind: EventKind) {
        self.log.push(kind, self.timing.now());
    }

    /// Runs a step between its two events.
    pub fn step<T, E: Error + 'static>(
        &self,
        step: Step,
        work: impl FnOnce(&Tally) -> Result<T, E>,
    ) -> Result<T, E> {
        let started = self.timing.now();
        self.event(EventKind::StepStarted { step });
        let tally = Tally::default();
        let result = work(&tally);
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed { cause: chain(error) },
        };
        let elapsed = self.timing.now().saturating_sub(started);
        let received_bytes = tally.received.load(Ordering::Relaxed);
        let written_bytes = tally.written.load(Ordering::Relaxed);
        let seconds = elapsed.as_millis();
        let moved = match (received_bytes, written_bytes) {
            (0, 0) => String::new(),
            (received, written) => {
                format!(", {} received, {} written", size(received), size(written))
            }
        };
        let how = match &outcome {
            Outcome::Failed { cause } => format!("FAILED: {cause}"),
            _ => format!("done in {}.{} s{moved}", seconds / 1000, seconds % 1000 / 100),
        };
        self.say(&format!("{}: {how}", name(step)));
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.event(EventKind::StepEnded {
            step,
            outcome,
            elapsed_ms,
            received_bytes,
            written_bytes,
        });
        result
    }

    /// Notes that a step has nothing to do, and why. It never began: the
    /// controller hears of its end only.
    pub fn skip(&self, step: Step, reason: &str) {
        self.say(&format!("{}: nothing to do: {reason}", name(step)));
        self.event(EventKind::StepEnded {
            step,
            outcome: Outcome::Skipped { reason: reason.to_owned() },
            elapsed_ms: 0,
            received_bytes: 0,
            written_bytes: 0,
        });
    }

    /// Says how far a step is, when it is time to.
    pub fn progress(&self, step: Step, meter: &mut Meter, done_bytes: u64, total_bytes: u64) {
        let now = self.timing.now();
        if meter.due(now) {
            self.console.say(&format!("{}: {}", name(step), meter.line(done_bytes, now)));
            self.event(EventKind::StepProgress { step, done_bytes, total_bytes });
        }
    }
}

/// What people read for a step.
fn name(step: Step) -> &'static str {
    match step {
        Step::Inventory => "inventory",
        Step::Network => "network",
        Step::CheckIn => "check-in",
        Step::Plan => "plan",
        Step::Transfer => "transfer",
        Step::Verify => "verify",
        Step::Seal => "seal",
        Step::Start => "start",
        Step::Script => "script",
        Step::Capture => "capture",
        Step::Unknown => "step",
    }
}
