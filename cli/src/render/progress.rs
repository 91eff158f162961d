//! One stream of typed progress, rendered as a bar on terminals, as plain step
//! lines elsewhere, and as JSON lines for scripts. Always on standard error.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Out;
use super::human::{duration, percent};

/// What a long operation tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Progress<'a> {
    /// Something new begins.
    Step {
        /// What, as a phrase.
        text: Cow<'a, str>,
    },
    /// It goes on.
    Bytes {
        /// Dealt with so far.
        done_bytes: u64,
        /// In all; absent where nobody knows.
        total_bytes: Option<u64>,
    },
    /// One line that a tool printed.
    Log {
        /// Without the line end.
        text: Cow<'a, str>,
    },
    /// What began has ended.
    Ended {
        /// What, as a phrase.
        text: Cow<'a, str>,
        /// How: `done`, `cached` or `failed`.
        outcome: &'static str,
        /// How long it took.
        elapsed_ms: u64,
    },
}

/// Shows [`Progress`]. Shared by reference with whatever reports it.
#[derive(Debug)]
pub struct Reporter {
    mode: Mode,
    logs: bool,
}

#[derive(Debug)]
enum Mode {
    Quiet,
    Lines,
    /// The last percentage that was printed.
    Json(Mutex<Option<u64>>),
    Bar(ProgressBar),
}

const BAR: &str = "  {bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  \
                   {binary_bytes_per_sec}  {eta} left  {msg}";
const SPINNER: &str = "  {spinner} {elapsed}  {msg}";
const COUNTER: &str = "  {spinner} {binary_bytes}  {binary_bytes_per_sec}  {msg}";

impl Reporter {
    /// The rendering that fits the output.
    pub fn new(out: &Out) -> Reporter {
        let mode = if out.json {
            Mode::Json(Mutex::new(None))
        } else if out.quiet {
            Mode::Quiet
        } else if io::stderr().is_terminal() {
            Mode::Bar(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8)))
        } else {
            Mode::Lines
        };
        Reporter { mode, logs: false }
    }

    /// Shows what tools print too, where `logs` is set; else only as a sign of life.
    pub fn with_logs(mut self, logs: bool) -> Reporter {
        self.logs = logs;
        self
    }

    /// Something new begins.
    pub fn step(&self, text: &str) {
        self.report(&Progress::Step { text: text.into() });
    }

    /// It goes on.
    pub fn bytes(&self, done_bytes: u64, total_bytes: Option<u64>) {
        self.report(&Progress::Bytes { done_bytes, total_bytes });
    }

    /// Shows one piece of progress.
    pub fn report(&self, progress: &Progress<'_>) {
        match (&self.mode, progress) {
            (Mode::Quiet, _) => {}
            (Mode::Json(last), progress) => report_json(last, progress),
            (Mode::Lines, Progress::Step { text }) => say(text),
            (Mode::Lines, Progress::Log { text }) if self.logs => say(&format!("  {text}")),
            (Mode::Lines, Progress::Bytes { .. } | Progress::Log { .. }) => {}
            (Mode::Lines, Progress::Ended { text, outcome, elapsed_ms }) => {
                say(&ended(text, outcome, *elapsed_ms));
            }
            (Mode::Bar(bar), Progress::Step { text }) => bar_step(bar, text),
            (Mode::Bar(bar), Progress::Bytes { done_bytes, total_bytes }) => {
                bar_bytes(bar, *done_bytes, *total_bytes);
            }
            (Mode::Bar(bar), Progress::Log { text }) if self.logs => {
                bar.println(format!("  {text}"))
            }
            (Mode::Bar(bar), Progress::Log { text }) => bar.set_message(shortened(text)),
            (Mode::Bar(bar), Progress::Ended { text, outcome, elapsed_ms }) => {
                bar.println(ended(text, outcome, *elapsed_ms));
            }
        }
    }

    /// Takes the bar away, before results are printed.
    pub fn finish(&self) {
        if let Mode::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.finish();
    }
}

fn ended(text: &str, outcome: &str, elapsed_ms: u64) -> String {
    format!("{text}: {outcome} in {}", duration(Duration::from_millis(elapsed_ms)))
}

/// Fits beside a spinner on any terminal.
fn shortened(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

/// A step stays on the screen as a line; the bar below it starts anew.
fn bar_step(bar: &ProgressBar, text: &str) {
    bar.println(text);
    bar.reset();
    bar.set_message("");
    bar.unset_length();
    set_style(bar, SPINNER);
    bar.enable_steady_tick(Duration::from_millis(125));
}

fn bar_bytes(bar: &ProgressBar, done: u64, total: Option<u64>) {
    if bar.length() != total || bar.position() == 0 {
        match total {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        set_style(bar, if total.is_some() { BAR } else { COUNTER });
        bar.disable_steady_tick();
    }
    bar.set_position(done);
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━━╌"));
    }
}

/// At most one line per percent, so that a log of a large image stays readable.
fn report_json(last: &Mutex<Option<u64>>, progress: &Progress<'_>) {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let now = match progress {
        Progress::Step { .. } | Progress::Log { .. } | Progress::Ended { .. } => None,
        Progress::Bytes { done_bytes, total_bytes: Some(total) } => {
            Some(percent(*done_bytes, *total))
        }
        Progress::Bytes { done_bytes, total_bytes: None } => Some(done_bytes >> 26),
    };
    if now.is_some() && now == *last {
        return;
    }
    *last = now;
    if let Ok(line) = serde_json::to_string(progress) {
        say(&line);
    }
}

/// Standard error may be closed; progress is no reason to fail.
fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for template in [BAR, SPINNER, COUNTER] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[test]
    fn progress_has_a_stable_json_form() {
        let step = Progress::Step { text: "reading".into() };
        let bytes = Progress::Bytes { done_bytes: 5, total_bytes: None };
        let line = |p| serde_json::to_string(p).unwrap();
        assert_eq!(line(&step), r#"{"event":"step","text":"reading"}"#);
        assert_eq!(line(&bytes), r#"{"event":"bytes","done_bytes":5,"total_bytes":null}"#);
    }
}
