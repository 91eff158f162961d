//! One thing with its properties: `key  value` lines in sections.

use super::table::Cell;
use super::{Out, Tone};

/// Keys and values; sections without entries are left out.
#[derive(Debug, Default)]
pub struct Sheet {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Section(String),
    Entry(String, Cell),
}

impl Sheet {
    /// The entries that follow belong together.
    pub fn section(&mut self, title: &str) {
        self.parts.push(Part::Section(title.to_owned()));
    }

    /// One property.
    pub fn entry(&mut self, key: &str, value: impl Into<Cell>) {
        self.parts.push(Part::Entry(key.to_owned(), value.into()));
    }

    /// The lines; values of one section are aligned.
    pub fn lines(&self, out: &Out) -> Vec<String> {
        let mut lines = Vec::new();
        for part in self.parts.chunk_by(|_, next| matches!(next, Part::Entry(..))) {
            let (title, entries) = match part {
                [Part::Section(title), entries @ ..] => (Some(title), entries),
                entries => (None, entries),
            };
            if entries.is_empty() {
                continue;
            }
            if let Some(title) = title {
                lines.extend([String::new(), out.paint(Tone::Heading, title)]);
            }
            lines.extend(block(entries, if title.is_some() { "  " } else { "" }, out));
        }
        lines
    }
}

fn block(entries: &[Part], indent: &str, out: &Out) -> Vec<String> {
    let pairs = || {
        entries.iter().filter_map(|part| match part {
            Part::Entry(key, value) => Some((key, value)),
            Part::Section(_) => None,
        })
    };
    let width = pairs().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    pairs()
        .map(|(key, value)| {
            let pad = " ".repeat(width - key.chars().count());
            format!("{indent}{}{pad}  {}", out.paint(Tone::Dim, key), value.painted(out))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_align_their_own_values_and_empty_ones_vanish() {
        let mut sheet = Sheet::default();
        sheet.entry("id", "m-1");
        sheet.entry("state", "held");
        sheet.section("labels");
        sheet.section("facts");
        sheet.entry("cpu.count", "2");
        assert_eq!(
            sheet.lines(&Out::plain()),
            ["id     m-1", "state  held", "", "facts", "  cpu.count  2"]
        );
    }
}
