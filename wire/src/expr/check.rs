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
/// are [`SERVER_FACTS`], and `label.*` and `answer.*`, all texts.
pub const FACTS: [(&str, Kind); 59] = [
    ("cpu.arch", Kind::Text),
    ("cpu.count", Kind::Number),
    ("cpu.family", Kind::Number),
    ("cpu.flags", Kind::Text),
    ("cpu.model", Kind::Text),
    ("cpu.model-number", Kind::Number),
    ("cpu.stepping", Kind::Number),
    ("cpu.vendor", Kind::Text),
    ("disk.bus", Kind::Text),
    ("disk.count", Kind::Number),
    ("disk.image", Kind::Text),
    ("disk.model", Kind::Text),
    ("disk.os", Kind::Text),
    ("disk.os-version", Kind::Text),
    ("disk.partition-type", Kind::Text),
    ("disk.physical-sector", Kind::Number),
    ("disk.removable", Kind::Bool),
    ("disk.rotational", Kind::Bool),
    ("disk.sector", Kind::Number),
    ("disk.serial", Kind::Text),
    ("disk.size", Kind::Number),
    ("disk.table", Kind::Text),
    ("disk.wwid", Kind::Text),
    ("firmware.kind", Kind::Text),
    ("firmware.secure-boot", Kind::Bool),
    ("firmware.vendor", Kind::Text),
    ("firmware.version", Kind::Text),
    ("lldp.chassis", Kind::Text),
    ("lldp.port", Kind::Text),
    ("lldp.system", Kind::Text),
    ("memory.fitted", Kind::Number),
    ("memory.usable", Kind::Number),
    ("network.dhcp-server", Kind::Text),
    ("network.relay", Kind::Text),
    ("network.subnet", Kind::Text),
    ("nic.bus-id", Kind::Text),
    ("nic.count", Kind::Number),
    ("nic.driver", Kind::Text),
    ("nic.link", Kind::Bool),
    ("nic.mac", Kind::Text),
    ("nic.speed-mbit", Kind::Number),
    ("pci.modalias", Kind::Text),
    ("system.asset-tag", Kind::Text),
    ("system.board-product", Kind::Text),
    ("system.board-serial", Kind::Text),
    ("system.chassis-kind", Kind::Text),
    ("system.chassis-serial", Kind::Text),
    ("system.enclosure-serial", Kind::Text),
    ("system.family", Kind::Text),
    ("system.manufacturer", Kind::Text),
    ("system.product", Kind::Text),
    ("system.serial", Kind::Text),
    ("system.sku", Kind::Text),
    ("system.slot", Kind::Text),
    ("system.uuid", Kind::Text),
    ("system.virtual", Kind::Bool),
    ("tpm.present", Kind::Bool),
    ("tpm.version", Kind::Text),
    ("usb.modalias", Kind::Text),
];

/// Every fact that the server adds, which saw how the machine got its address.
pub const SERVER_FACTS: [(&str, Kind); 3] = [
    ("network.circuit-id", Kind::Text),
    ("network.remote-id", Kind::Text),
    ("network.subscriber-id", Kind::Text),
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
    if path.starts_with("label.") || path.starts_with("answer.") {
        return Some(Kind::Text);
    }
    facts().find(|(known, _)| *known == path).map(|(_, kind)| kind)
}

fn facts() -> impl Iterator<Item = (&'static str, Kind)> {
    FACTS.into_iter().chain(SERVER_FACTS)
}

fn unknown(path: &str) -> String {
    let hint = match nearest(path, facts().map(|(known, _)| known)) {
        Some(known) => format!("did you mean {known}?"),
        None => {
            let area = path.split('.').next().unwrap_or_default();
            let near: Vec<_> = facts()
                .map(|(known, _)| known)
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
        Test::Within(_, _)
        | Test::Less(_)
        | Test::AtMost(_)
        | Test::Greater(_)
        | Test::AtLeast(_) => kind == Kind::Number,
    };
    let is = match kind {
        Kind::Bool => "true or false",
        Kind::Number => "a number: compare it with one such as 4 or 8 GiB, without quotes",
        Kind::Text => "a text: compare it with one in quotes, by ==, !=, in or like",
    };
    (!right).then(|| format!("{path} is {is}"))
}
