//! `limit` of a rule.

use jiff::Timestamp;
use toml::de::{DeTable, DeValue};

use super::{Reader, Value};
use crate::policy::Limit;

const LIMIT_KEYS: [&str; 4] = ["machines", "at-once", "from", "until"];

/// Most machines that a limit can name.
const COUNT_MAX: u32 = 1_000_000;

impl Reader<'_> {
    /// `None` where it is wrong.
    pub(super) fn limit(&mut self, value: &Value<'_>) -> Option<Limit> {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("limit is a table of {}", LIMIT_KEYS.join(", "));
            self.problem(value.span(), message);
            return None;
        };
        self.unknown_keys(table, &LIMIT_KEYS, "a limit has");
        if !LIMIT_KEYS.iter().any(|key| table.contains_key(*key)) {
            let message = "the limit limits nothing: add machines, at-once, from or until";
            self.problem(value.span(), message);
            return None;
        }
        let limit = Limit {
            machines: self.count(table, "machines")?,
            at_once: self.count(table, "at-once")?,
            from: self.time(table, "from")?,
            until: self.time(table, "until")?,
        };
        if let (Some(from), Some(until)) = (limit.from, limit.until)
            && from >= until
        {
            self.problem(value.span(), "no time fits: until is not after from");
        }
        Some(limit)
    }

    fn count(&mut self, table: &DeTable<'_>, key: &str) -> Option<Option<u32>> {
        let Some(value) = table.get(key) else { return Some(None) };
        let count = match value.get_ref() {
            DeValue::Integer(count) => count.to_string().parse::<u32>().ok(),
            _ => None,
        };
        let count = count.filter(|count| (1..=COUNT_MAX).contains(count));
        if count.is_none() {
            let message = format!("{key} is a whole number from 1 to {COUNT_MAX}");
            self.problem(value.span(), message);
        }
        count.map(Some)
    }

    /// In quotes or as TOML writes it.
    fn time(&mut self, table: &DeTable<'_>, key: &str) -> Option<Option<Timestamp>> {
        let Some(value) = table.get(key) else { return Some(None) };
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            other => other.type_str().to_owned(),
        };
        let time = text.parse::<Timestamp>().ok();
        if time.is_none() {
            let message = format!(
                "{key} is a time with its zone, such as \"2026-12-01T08:00:00Z\" or \
                 \"2026-12-01T09:00:00+01:00\", not {text:.40?}"
            );
            self.problem(value.span(), message);
        }
        time.map(Some)
    }
}
