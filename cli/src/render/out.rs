//! Standard output and standard error: the only place that prints.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use serde::Serialize;

use super::error::as_json;
use crate::args::{ColorWhen, Global};
use crate::exit::OutputClosed;

/// What a piece of text means; colour follows from it, never the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// A heading.
    Heading,
    /// It went as it should.
    Good,
    /// It needs attention.
    Warn,
    /// It went wrong.
    Bad,
    /// Less important than its neighbours.
    Dim,
    /// What is happening now.
    Active,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Plain => Style::new(),
            Tone::Heading => Style::new().bold(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warn => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default(),
            Tone::Dim => Style::new().dimmed(),
            Tone::Active => AnsiColor::Cyan.on_default(),
        }
    }
}

/// How results are printed.
#[derive(Debug, Clone)]
pub struct Out {
    /// Results as JSON.
    pub json: bool,
    /// Nothing but results and errors.
    pub quiet: bool,
    colour_out: bool,
    colour_err: bool,
}

impl Out {
    /// From what was typed and what the process was started with.
    pub fn new(global: &Global) -> Out {
        let colour = |terminal: bool| match global.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => terminal && environment_allows_colour(),
        };
        Out {
            json: global.json,
            quiet: global.quiet,
            colour_out: colour(io::stdout().is_terminal()),
            colour_err: colour(io::stderr().is_terminal()),
        }
    }

    /// Whether log lines on standard error are coloured.
    pub fn colour_err(&self) -> bool {
        self.colour_err
    }

    /// Text for standard output in its tone.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.colour_out, tone, text)
    }

    /// One line of results.
    pub fn line(&self, line: impl AsRef<str>) -> anyhow::Result<()> {
        self.write(line.as_ref().as_bytes(), b"\n")
    }

    /// Several lines of results.
    pub fn lines<S: AsRef<str>>(&self, lines: impl IntoIterator<Item = S>) -> anyhow::Result<()> {
        lines.into_iter().try_for_each(|line| self.line(line))
    }

    /// One JSON document, for people who look at it too.
    pub fn document(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
        self.line(text)
    }

    /// One JSON document on one line, where several follow each other.
    pub fn json_line(&self, value: &impl Serialize) -> anyhow::Result<()> {
        self.line(serde_json::to_string(value).context("cannot write JSON")?)
    }

    /// A remark beside the results, on standard error; silent with `--quiet` and `--json`.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet && !self.json {
            self.complain(text.as_ref());
        }
    }

    /// An error with its chain of causes and what to do next.
    pub fn error(&self, error: &anyhow::Error) {
        if self.json {
            self.complain(&as_json(error));
            return;
        }
        let label = paint(self.colour_err, Tone::Bad, "error:");
        let dim = |text: &str| paint(self.colour_err, Tone::Dim, text);
        self.complain(&super::error::as_text(error, &label, &dim));
    }

    /// Standard error may be closed too; there is nobody left to tell.
    fn complain(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    fn write(&self, text: &[u8], end: &[u8]) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(text).and_then(|()| stdout.write_all(end));
        match written.and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(OutputClosed.into()),
            Err(error) => Err(error).context("cannot write to standard output"),
        }
    }
}

/// <https://no-color.org>: set and not empty means no colour; a dumb terminal has none.
fn environment_allows_colour() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

fn paint(colour: bool, tone: Tone, text: &str) -> String {
    if !colour || tone == Tone::Plain {
        return text.to_owned();
    }
    let style = tone.style();
    format!("{}{text}{}", style.render(), style.render_reset())
}

#[cfg(test)]
impl Out {
    /// Without colour.
    pub fn plain() -> Out {
        Out { json: false, quiet: false, colour_out: false, colour_err: false }
    }

    /// With colour.
    pub fn coloured() -> Out {
        Out { colour_out: true, ..Out::plain() }
    }
}
