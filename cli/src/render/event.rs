//! Events of an agent as lines that people watch.

use std::time::Duration;

use wire::admin::{LogEntry, SERVER_BOOT};
use wire::{EventKind, Outcome, Step};

use super::human::{count, duration, percent, rate, size};
use super::words::step_word;
use super::{Out, Tone};

/// Progress is told once in so many percent.
const PROGRESS_PERCENT: u64 = 10;

/// Tells a log entry by entry; remembers what it said to leave out repetitions.
#[derive(Debug)]
pub struct Narrator {
    follow: bool,
    boot: Option<(String, u32)>,
    progress: Option<(Step, u64)>,
}

impl Narrator {
    /// `follow` also tells that steps begin, which the log of a finished run
    /// shows by their ends.
    pub fn new(follow: bool) -> Narrator {
        Narrator { follow, boot: None, progress: None }
    }

    /// The lines for one entry.
    pub fn tell(&mut self, entry: &LogEntry, out: &Out) -> Vec<String> {
        let mut lines = Vec::new();
        let server = entry.boot == SERVER_BOOT;
        let boot = (entry.boot.clone(), entry.attempt);
        if !server && self.boot.as_ref() != Some(&boot) && entry.attempt > 0 {
            if self.boot.is_some() {
                lines.push(out.paint(Tone::Warn, &format!("attempt {}", entry.attempt)));
            }
            self.boot = Some(boot);
        }
        if let Some((word, text, tone)) = self.words(&entry.kind) {
            // The server's own lines have no time since a boot.
            let (time, word) = match server {
                true => (String::new(), "server".to_owned()),
                false => (since_boot(entry.uptime_ms), word),
            };
            let time = out.paint(Tone::Dim, &format!("{time:>9}"));
            lines.push(format!("{time}  {word:<9}  {}", out.paint(tone, &text)));
        }
        lines
    }

    fn words(&mut self, kind: &EventKind) -> Option<(String, String, Tone)> {
        match kind {
            EventKind::StepStarted { step } if self.follow => {
                Some((step_word(*step), "begins".to_owned(), Tone::Active))
            }
            EventKind::StepStarted { .. } | EventKind::Unknown => None,
            EventKind::StepProgress { step, done_bytes, total_bytes } => {
                let share = percent(*done_bytes, *total_bytes);
                let tenth = (*step, share / PROGRESS_PERCENT);
                if self.progress.replace(tenth) == Some(tenth) {
                    return None;
                }
                let text = format!("{share:>3} %  {} of {}", size(*done_bytes), size(*total_bytes));
                Some((step_word(*step), text, Tone::Plain))
            }
            EventKind::StepEnded { step, outcome, elapsed_ms, received_bytes, written_bytes } => {
                let (text, tone) = outcome_text(outcome);
                let moved = moved(*received_bytes, *written_bytes, *elapsed_ms);
                let took = duration(Duration::from_millis(*elapsed_ms));
                Some((step_word(*step), format!("{text} in {took}{moved}"), tone))
            }
            EventKind::Planned { .. } => Some(("plan".to_owned(), plan_text(kind), Tone::Plain)),
            EventKind::Log { line } => Some(("agent".to_owned(), line.clone(), Tone::Dim)),
        }
    }
}

fn since_boot(uptime_ms: u64) -> String {
    format!("{}.{} s", uptime_ms / 1000, uptime_ms % 1000 / 100)
}

/// How a step ended, in words.
pub fn outcome_text(outcome: &Outcome) -> (String, Tone) {
    match outcome {
        Outcome::Done => ("done".to_owned(), Tone::Good),
        Outcome::Skipped { reason } => (format!("skipped, {reason},"), Tone::Good),
        Outcome::Failed { cause } => (format!("failed: {cause};"), Tone::Bad),
        Outcome::Unknown => ("ended".to_owned(), Tone::Warn),
    }
}

/// A plan in words; nothing for any other event.
pub fn plan_text(kind: &EventKind) -> String {
    let EventKind::Planned { image, disk, image_bytes, present_bytes, fetch_bytes, requests } =
        kind
    else {
        return String::new();
    };
    format!(
        "image {} to {disk}: {} of content, {} there already, {} to fetch in {}",
        image.short(),
        size(*image_bytes),
        size(*present_bytes),
        size(*fetch_bytes),
        count(*requests, "request")
    )
}

fn moved(received: u64, written: u64, elapsed_ms: u64) -> String {
    let elapsed = Duration::from_millis(elapsed_ms);
    let mut text = String::new();
    for (verb, bytes) in [("received", received), ("wrote", written)] {
        if bytes > 0 {
            text.push_str(&format!(", {verb} {} ({})", size(bytes), rate(bytes, elapsed)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use wire::Digest;

    use super::*;

    fn entry(uptime_ms: u64, attempt: u32, kind: EventKind) -> LogEntry {
        let run = Some("r-1".parse().unwrap());
        let boot = "b".repeat(32);
        LogEntry { record: 1, received: 0, boot, seq: 1, uptime_ms, run, attempt, kind }
    }

    fn story() -> Vec<LogEntry> {
        let progress = |done_bytes| EventKind::StepProgress {
            step: Step::Transfer,
            done_bytes,
            total_bytes: 100 << 20,
        };
        let ended = |step, outcome, received_bytes| EventKind::StepEnded {
            step,
            outcome,
            elapsed_ms: 2000,
            received_bytes,
            written_bytes: 0,
        };
        let planned = EventKind::Planned {
            image: Digest([0x7f; 32]),
            disk: "/dev/vda (QEMU 2.0 GiB)".to_owned(),
            image_bytes: 100 << 20,
            present_bytes: 0,
            fetch_bytes: 30 << 20,
            requests: 1,
        };
        let built = EventKind::Log { line: "built for it".to_owned() };
        vec![
            LogEntry { boot: SERVER_BOOT.to_owned(), ..entry(0, 1, built) },
            entry(150, 1, EventKind::StepStarted { step: Step::Plan }),
            entry(180, 1, planned),
            entry(1000, 1, progress(1 << 20)),
            entry(1010, 1, progress(2 << 20)),
            entry(1900, 1, progress(55 << 20)),
            entry(2000, 1, ended(Step::Transfer, Outcome::Done, 30 << 20)),
            entry(2100, 1, ended(Step::Verify, Outcome::Failed { cause: "lost".to_owned() }, 0)),
            entry(90, 2, EventKind::Log { line: "again".to_owned() }),
            entry(90, 2, EventKind::Unknown),
        ]
    }

    #[test]
    fn a_run_reads_as_a_story() {
        let mut narrator = Narrator::new(true);
        let lines: Vec<_> =
            story().iter().flat_map(|entry| narrator.tell(entry, &Out::plain())).collect();
        expect![[r#"
                       server     built for it
                0.1 s  plan       begins
                0.1 s  plan       image 7f7f7f7f7f7f to /dev/vda (QEMU 2.0 GiB): 100.0 MiB of content, 0 B there already, 30.0 MiB to fetch in 1 request
                1.0 s  transfer     1 %  1.0 MiB of 100.0 MiB
                1.9 s  transfer    55 %  55.0 MiB of 100.0 MiB
                2.0 s  transfer   done in 2.0 s, received 30.0 MiB (15.0 MiB/s)
                2.1 s  verify     failed: lost; in 2.0 s
            attempt 2
                0.0 s  agent      again"#]]
        .assert_eq(&lines.join("\n"));
    }
}
