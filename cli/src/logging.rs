//! Where log lines go and how they look: standard error, for people or for
//! machines.

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::config::{LogFormat, LogLevel};
use crate::render::Out;

/// Crates whose messages people asked for; all others speak up from `warn` on.
const OURS: [&str; 9] = [
    "ingot",
    "bootsvc_assets",
    "bootsvc_proto",
    "bootsvc_server",
    "builder",
    "controller",
    "store_registry",
    "store_remote",
    "store_repo",
];

/// Log lines of `ingot serve`, as its configuration says.
pub fn of_server(format: LogFormat, level: LogLevel, out: &Out) {
    let filter = filter(level_word(level), level == LogLevel::Trace);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_timer(Clock::new()).with_ansi(out.colour_err()).init(),
    }
}

/// Log lines of every other command: warnings, more with `-v` and `-vv`.
pub fn of_command(verbose: u8, out: &Out) {
    let filter = match verbose {
        0 => filter("warn", false),
        1 => filter("info", false),
        _ => filter("debug", true),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_timer(Clock::new())
        .with_target(verbose > 1)
        .with_ansi(out.colour_err())
        .init();
}

fn filter(level: &str, everyone: bool) -> EnvFilter {
    if everyone {
        return EnvFilter::new(level);
    }
    let ours = OURS.iter().map(|name| format!("{name}={level}"));
    let loudest_of_others = if level == "error" { "error" } else { "warn" };
    let all: Vec<_> = std::iter::once(loudest_of_others.to_owned()).chain(ours).collect();
    EnvFilter::new(all.join(","))
}

fn level_word(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

/// Times of log lines: the time of day for somebody who watches, all of it in
/// a file.
struct Clock {
    pattern: &'static str,
}

impl Clock {
    fn new() -> Clock {
        let watched = std::io::stderr().is_terminal();
        Clock { pattern: if watched { "%H:%M:%S.%3f" } else { "%Y-%m-%dT%H:%M:%S.%3fZ" } }
    }
}

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", jiff::Timestamp::now().strftime(self.pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_name_our_crates_and_keep_others_quiet() {
        let text = filter("info", false).to_string();
        assert!(text.contains("ingot=info") && text.contains("warn"), "{text}");
        assert_eq!(filter("debug", true).to_string(), "debug");
    }

    #[test]
    fn times_have_a_date_unless_somebody_watches() {
        let mut text = String::new();
        let clock = Clock { pattern: "%Y-%m-%dT%H:%M:%S.%3fZ" };
        clock.format_time(&mut Writer::new(&mut text)).unwrap();
        assert!(text.parse::<jiff::Timestamp>().is_ok(), "{text}");
    }
}
