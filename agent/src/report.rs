//! Telling people and the controller the same thing at the same time.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

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

    /// Begins to say how far a step is, of which `done` bytes of `total` were done before.
    pub fn gauge(&self, step: Step, done: u64, total: u64) -> Gauge<'_> {
        let meter = Mutex::new(Meter::new(done, total, self.timing.now()));
        Gauge { report: self, step, total, done: AtomicU64::new(done), meter }
    }
}

/// How far a step is that any number of threads work on.
pub struct Gauge<'a> {
    report: &'a Report,
    step: Step,
    total: u64,
    done: AtomicU64,
    meter: Mutex<Meter>,
}

impl Gauge<'_> {
    /// So many bytes more are dealt with; says so when it is time to.
    pub fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.show(done);
    }

    /// So many bytes are dealt with in all; says so when it is time to.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.show(done);
    }

    fn show(&self, done_bytes: u64) {
        // Whoever finds the meter busy leaves it to the other.
        let Ok(mut meter) = self.meter.try_lock() else { return };
        let (report, step, total_bytes) = (self.report, self.step, self.total);
        let now = report.timing.now();
        if meter.due(now) {
            report.console.say(&format!("{}: {}", name(step), meter.line(done_bytes, now)));
            report.event(EventKind::StepProgress { step, done_bytes, total_bytes });
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
