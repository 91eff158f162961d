//! Aligned tables for terminals; nothing is ever cut off.

use super::out::{Out, Tone};

/// Rows under a heading, each column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Column {
    title: &'static str,
    right: bool,
}

/// One cell: its text and how it is meant.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell in a tone of its own.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Cell {
        Cell { text: text.into(), tone }
    }

    /// The text in its tone's colour.
    pub fn painted(&self, out: &Out) -> String {
        out.paint(self.tone, &self.text)
    }

    /// The same cell with more text.
    pub fn followed_by(mut self, text: &str) -> Cell {
        self.text.push_str(text);
        self
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell { text: text.into(), tone: Tone::Plain }
    }
}

impl Table {
    /// A table without rows. A title that starts with `>` makes its column
    /// flush right, for numbers.
    pub fn new(titles: &[&'static str]) -> Table {
        let column = |title: &&'static str| match title.strip_prefix('>') {
            Some(title) => Column { title, right: true },
            None => Column { title, right: false },
        };
        Table { columns: titles.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().take(self.columns.len()).collect());
    }

    /// The lines, the heading first.
    pub fn lines(&self, out: &Out) -> Vec<String> {
        let width = |index: usize, column: &Column| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            let widest = cells.map(|cell| cell.text.chars().count()).max().unwrap_or(0);
            widest.max(column.title.chars().count())
        };
        let widths: Vec<_> = self.columns.iter().enumerate().map(|(i, c)| width(i, c)).collect();
        let heading: Vec<_> =
            self.columns.iter().map(|c| Cell::toned(c.title, Tone::Heading)).collect();
        std::iter::once(&heading)
            .chain(&self.rows)
            .map(|row| self.line(row, &widths, out))
            .collect()
    }

    fn line(&self, row: &[Cell], widths: &[usize], out: &Out) -> String {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[index].saturating_sub(cell.text.chars().count()));
            let text = cell.painted(out);
            let last = index + 1 == row.len();
            match (self.columns[index].right, last) {
                (true, _) => line.extend([pad.as_str(), &text]),
                (false, true) => line.push_str(&text),
                (false, false) => line.extend([text.as_str(), &pad]),
            }
            if !last {
                line.push_str("  ");
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_characters_and_numbers_flush_right() {
        let mut table = Table::new(&["NAME", ">SIZE", "STATE"]);
        table.row(["müller".into(), "1 B".into(), "ok".into()]);
        table.row(["x".into(), "10.0 MiB".into(), "failed".into()]);
        let lines = table.lines(&Out::plain());
        assert_eq!(
            lines,
            ["NAME        SIZE  STATE", "müller       1 B  ok", "x       10.0 MiB  failed"]
        );
    }

    #[test]
    fn colour_does_not_disturb_alignment() {
        let mut table = Table::new(&["A", "B"]);
        table.row([Cell::toned("red", Tone::Bad), "x".into()]);
        let lines = table.lines(&Out::coloured());
        assert!(lines[1].contains("\u{1b}[31mred\u{1b}[0m  x"), "{:?}", lines[1]);
    }
}
