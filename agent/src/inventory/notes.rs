//! Why a machine does not report what it does not report.

use std::collections::BTreeMap;

use super::short;

/// How many of those that do not tell a fact are named.
pub(super) const NAMED: usize = 8;

/// Why facts are not reported, by their paths.
#[derive(Debug, Default)]
pub(super) struct Notes(pub BTreeMap<String, String>);

impl Notes {
    /// Cut short, as a longer reason than the controller takes would keep the machine out.
    pub fn add(&mut self, fact: &str, why: String) {
        self.0.insert(fact.to_owned(), short(&why));
    }

    /// What was told; else notes why not.
    pub fn take<T>(&mut self, fact: &str, told: Result<T, String>) -> Option<T> {
        told.map_err(|why| self.add(fact, why)).ok()
    }

    /// Notes which of several things do not tell a fact.
    pub fn silent<'a>(&mut self, fact: &str, things: impl Iterator<Item = (&'a str, bool)>) {
        let silent: Vec<&str> = things.filter(|(_, told)| !told).map(|(name, _)| name).collect();
        if let [first @ .., last] = &silent[..] {
            let more = first.len().saturating_sub(NAMED);
            let named = first.iter().take(NAMED).map(|name| format!("{name}, "));
            let named: String = named.collect();
            let last = if more > 0 { format!("and {} more", more + 1) } else { (*last).to_owned() };
            self.add(fact, format!("not told by {named}{last}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_do_not_tell_are_named_or_counted() {
        let silent = |count: usize| {
            let names: Vec<String> = (0..count).map(|n| format!("d{n}")).collect();
            let mut notes = Notes::default();
            notes.silent("x", names.iter().map(|name| (name.as_str(), false)));
            notes.silent("y", names.iter().map(|name| (name.as_str(), true)));
            assert!(!notes.0.contains_key("y"));
            notes.0.remove("x").unwrap_or_default()
        };
        assert_eq!(silent(0), "");
        assert_eq!(silent(1), "not told by d0");
        assert_eq!(silent(2), "not told by d0, d1");
        assert_eq!(silent(9), "not told by d0, d1, d2, d3, d4, d5, d6, d7, d8");
        let mut notes = Notes::default();
        notes.add("x", "ö".repeat(9000));
        assert!(notes.0["x"].len() < 1024);
        assert_eq!(silent(99), "not told by d0, d1, d2, d3, d4, d5, d6, d7, and 91 more");
    }
}
