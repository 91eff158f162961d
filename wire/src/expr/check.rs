//! What an expression may ask about: every fact and what kind of value it has.

use super::{Comparison, Expr, ExprError, Test};
use crate::FactValue;

/// What kind of values a fact has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Yes or no.
    Bool,
    /// A count, or a size in bytes.
    Number,
    /// A text.
    Text,
}

/// Every fact that [`crate::Inventory::facts`] can report. Besides these there
/// are `label.*`, all texts.
pub const FACTS: [(&str, Kind); 28] = [
    ("cpu.arch", Kind::Text),
    ("cpu.count", Kind::Number),
    ("cpu.model", Kind::Text),
    ("cpu.vendor", Kind::Text),
    ("disk.bus", Kind::Text),
    ("disk.count", Kind::Number),
    ("disk.model", Kind::Text),
    ("disk.rotational", Kind::Bool),
    ("disk.sector", Kind::Number),
    ("disk.serial", Kind::Text),
    ("disk.size", Kind::Number),
    ("disk.wwid", Kind::Text),
    ("firmware.kind", Kind::Text),
    ("firmware.secure-boot", Kind::Bool),
    ("firmware.vendor", Kind::Text),
    ("firmware.version", Kind::Text),
    ("memory.usable", Kind::Number),
    ("nic.count", Kind::Number),
    ("nic.driver", Kind::Text),
    ("nic.mac", Kind::Text),
    ("nic.speed-mbit", Kind::Number),
    ("system.asset-tag", Kind::Text),
    ("system.board-serial", Kind::Text),
    ("system.chassis-serial", Kind::Text),
    ("system.manufacturer", Kind::Text),
    ("system.product", Kind::Text),
    ("system.serial", Kind::Text),
    ("system.uuid", Kind::Text),
];

impl Expr {
    /// What can never be true: comparisons with facts that do not exist, and
    /// with values of another kind than the fact has.
    pub fn check(&self) -> Vec<ExprError> {
        let problem = |comparison: &Comparison| {
            let message = match kind(&comparison.path) {
                None => unknown(&comparison.path),
                Some(kind) => mismatch(&comparison.path, kind, &comparison.test)?,
            };
            Some(ExprError::at(&self.text, comparison.span.start, message))
        };
        self.comparisons().into_iter().filter_map(problem).collect()
    }
}

/// The name that a mistyped one most likely stands for, if any is near.
pub fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 4).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// The kind of a fact, or why nothing has this path.
pub fn known(path: &str) -> Result<Kind, String> {
    kind(path).ok_or_else(|| unknown(path))
}

fn kind(path: &str) -> Option<Kind> {
    if path.starts_with("label.") {
        return Some(Kind::Text);
    }
    FACTS.iter().find(|(known, _)| *known == path).map(|(_, kind)| *kind)
}

fn unknown(path: &str) -> String {
    let hint = match nearest(path, FACTS.map(|(known, _)| known)) {
        Some(known) => format!("did you mean {known}?"),
        None => {
            let area = path.split('.').next().unwrap_or_default();
            let near: Vec<_> = FACTS
                .iter()
                .map(|f| f.0)
                .filter(|known| known.split('.').next() == Some(area))
                .collect();
            match near.is_empty() {
                true => "see docs/policy.md for the list".to_owned(),
                false => format!("known are {}", near.join(", ")),
            }
        }
    };
    format!("no machine reports {path:?}: {hint}")
}

/// Why a test on a fact of this kind can never be true.
fn mismatch(path: &str, kind: Kind, test: &Test) -> Option<String> {
    let fits = |value: &FactValue| {
        matches!(
            (kind, value),
            (Kind::Bool, FactValue::Bool(_))
                | (Kind::Number, FactValue::Number(_))
                | (Kind::Text, FactValue::Text(_))
        )
    };
    let right = match test {
        Test::Equal(value) | Test::NotEqual(value) => fits(value),
        Test::In(values) => values.iter().all(fits),
        Test::Like(_) => kind == Kind::Text,
        Test::Less(_) | Test::AtMost(_) | Test::Greater(_) | Test::AtLeast(_) => {
            kind == Kind::Number
        }
    };
    let is = match kind {
        Kind::Bool => "true or false",
        Kind::Number => "a number: compare it with one such as 4 or 8 GiB, without quotes",
        Kind::Text => "a text: compare it with one in quotes, by ==, !=, in or like",
    };
    (!right).then(|| format!("{path} is {is}"))
}
