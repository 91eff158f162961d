//! The figures, each against the one that it is measured by.

use serde_json::{Value, json};

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes, shown in MiB, or KiB where there are few.
    Bytes,
    /// Milliseconds, shown in seconds.
    Milliseconds,
    /// Things.
    Count,
}

/// What the ratio of ingot's figure to the other may be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Limit {
    /// This, or less.
    AtMost(f64),
    /// Less than one.
    Less,
    /// Anything: shown for comparison.
    None,
}

struct Row {
    figure: String,
    unit: Unit,
    ours: Option<u64>,
    against: String,
    theirs: Option<u64>,
    limit: Limit,
}

/// Rows of figures.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a figure of ingot beside what it is measured by. `None` is what could
    /// not be measured.
    pub fn row(
        &mut self,
        figure: &str,
        unit: Unit,
        ours: Option<u64>,
        against: &str,
        theirs: Option<u64>,
        limit: Limit,
    ) {
        let (figure, against) = (figure.to_owned(), against.to_owned());
        self.rows.push(Row { figure, unit, ours, against, theirs, limit });
    }

    /// Prints it for people.
    pub fn print(&self) {
        print!("{}", self.text());
    }

    /// As JSON: bytes, milliseconds or counts, and null for what was not measured.
    pub fn json(&self) -> String {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        format!("{:#}\n", Value::from(rows))
    }

    fn text(&self) -> String {
        let head = ["figure", "ingot", "against", "", "ratio", "target", ""].map(str::to_owned);
        let lines: Vec<[String; 7]> =
            std::iter::once(head).chain(self.rows.iter().map(Row::cells)).collect();
        let width = |column: usize| {
            lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0)
        };
        let widths: [usize; 7] = std::array::from_fn(width);
        let mut text = String::new();
        for [figure, ours, against, theirs, ratio, target, verdict] in &lines {
            let [w0, w1, w2, w3, w4, w5, _] = widths;
            let line = format!(
                "{figure:w0$}  {ours:>w1$}  {against:w2$}  {theirs:>w3$}  {ratio:>w4$}  \
                 {target:w5$}  {verdict}"
            );
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        let (ours, theirs) = (self.ours?, self.theirs?);
        #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
        (theirs != 0).then(|| ours as f64 / theirs as f64)
    }

    /// Whether the target is reached, where there is one and both were measured.
    /// Where nothing is allowed, nothing is what reaches it.
    fn met(&self) -> Option<bool> {
        let (ours, theirs) = (self.ours?, self.theirs?);
        match (self.limit, self.ratio()) {
            (Limit::None, _) => None,
            (Limit::AtMost(most), Some(ratio)) => Some(ratio <= most),
            (Limit::AtMost(_), None) => Some(ours == 0),
            (Limit::Less, _) => Some(ours < theirs),
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.limit, self.met()) {
            (Limit::None, _) => "",
            (_, Some(true)) => "met",
            (_, Some(false)) => "NOT MET",
            (_, None) => "not measured",
        }
    }

    fn cells(&self) -> [String; 7] {
        let shown = |value: Option<u64>| value.map_or("-".to_owned(), |n| self.unit.show(n));
        [
            self.figure.clone(),
            shown(self.ours),
            self.against.clone(),
            shown(self.theirs),
            self.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.3}")),
            match self.limit {
                Limit::AtMost(most) => format!("<= {most}"),
                Limit::Less => "< 1".to_owned(),
                Limit::None => String::new(),
            },
            self.verdict().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let unit = match self.unit {
            Unit::Bytes => "bytes",
            Unit::Milliseconds => "ms",
            Unit::Count => "count",
        };
        let target = match self.limit {
            Limit::AtMost(most) => json!({ "at_most": most }),
            Limit::Less => json!({ "less_than": 1 }),
            Limit::None => Value::Null,
        };
        json!({
            "figure": self.figure, "unit": unit, "ingot": self.ours, "against": self.against,
            "other": self.theirs, "ratio": self.ratio(), "target": target, "met": self.met(),
        })
    }
}

impl Unit {
    fn show(self, value: u64) -> String {
        let tenths = |unit: u64| {
            let tenths = value.saturating_mul(10) / unit;
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        match self {
            Unit::Bytes if value < 1 << 20 => format!("{} KiB", tenths(1 << 10)),
            Unit::Bytes => format!("{} MiB", tenths(1 << 20)),
            Unit::Milliseconds => format!("{} s", tenths(1000)),
            Unit::Count => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: Option<u64>, theirs: Option<u64>, limit: Limit) -> Row {
        let (figure, against) = ("size".to_owned(), "peer".to_owned());
        Row { figure, unit: Unit::Bytes, ours, against, theirs, limit }
    }

    #[test]
    fn a_target_is_met_up_to_its_ratio() {
        for (ours, theirs, limit, met) in [
            (75, 100, Limit::AtMost(0.75), true),
            (76, 100, Limit::AtMost(0.75), false),
            (99, 100, Limit::Less, true),
            (100, 100, Limit::Less, false),
            (0, 0, Limit::AtMost(1.05), true),
            (1, 0, Limit::AtMost(1.05), false),
        ] {
            let row = row(Some(ours), Some(theirs), limit);
            assert_eq!(row.met(), Some(met), "{ours} against {theirs}, {limit:?}");
        }
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        for (ours, theirs) in [(None, Some(1)), (Some(1), None), (None, None)] {
            let row = row(ours, theirs, Limit::AtMost(1.0));
            assert_eq!((row.met(), row.verdict()), (None, "not measured"));
            assert_eq!(row.json()["ratio"], Value::Null);
        }
        let shown_only = row(Some(1), Some(2), Limit::None);
        assert_eq!((shown_only.met(), shown_only.verdict()), (None, ""));
    }

    #[test]
    fn the_table_says_what_is_not_reached() {
        let mut table = Table::default();
        let limit = Limit::AtMost(0.75);
        table.row("stored", Unit::Bytes, Some(3 << 20), "casync", Some(2 << 20), limit);
        table.row("new", Unit::Bytes, Some(512), "changed", Some(1 << 10), Limit::Less);
        table.row("time", Unit::Milliseconds, Some(1250), "zstd", Some(2500), Limit::Less);
        table.row("requests", Unit::Count, None, "1 per 8 MiB", Some(9), Limit::AtMost(1.0));
        let expected = [
            "figure      ingot  against               ratio  target",
            "stored    3.0 MiB  casync       2.0 MiB  1.500  <= 0.75  NOT MET",
            "new       0.5 KiB  changed      1.0 KiB  0.500  < 1      met",
            "time        1.2 s  zstd           2.5 s  0.500  < 1      met",
            "requests        -  1 per 8 MiB        9      -  <= 1     not measured",
        ];
        assert_eq!(table.text().lines().collect::<Vec<_>>(), expected);
        let json: Value = serde_json::from_str(&table.json()).unwrap();
        assert_eq!(json[0]["met"], false);
        assert_eq!(json[2]["ratio"], 0.5);
        assert_eq!(json[3]["ingot"], Value::Null);
    }
}
