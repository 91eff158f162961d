//! How `ingot` ends: documented codes, and errors that know theirs.
//!
//! The table for people is `docs/exit-codes.md`.

use std::fmt;

use serde::Serialize;

/// Exit code of the process. Numbers are a promise: never reuse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "u8")]
pub enum Code {
    /// Done.
    Done,
    /// The operation failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// A reference, machine, run or file that was named does not exist.
    NotFound,
    /// The store is damaged, or a check found problems.
    Damaged,
    /// A configuration, policy or recipe has a mistake.
    Mistake,
    /// Refused, because something would be lost.
    Refused,
    /// The server cannot be reached.
    Unreachable,
    /// Ended by Ctrl-C or SIGTERM before it was done.
    Interrupted,
}

impl Code {
    /// Every code, for tables and tests.
    #[cfg(test)]
    pub const ALL: [Code; 9] = [
        Code::Done,
        Code::Failed,
        Code::Usage,
        Code::NotFound,
        Code::Damaged,
        Code::Mistake,
        Code::Refused,
        Code::Unreachable,
        Code::Interrupted,
    ];

    /// The number that the process ends with.
    pub fn number(self) -> u8 {
        match self {
            Code::Done => 0,
            Code::Failed => 1,
            Code::Usage => 2,
            Code::NotFound => 3,
            Code::Damaged => 4,
            Code::Mistake => 5,
            Code::Refused => 6,
            Code::Unreachable => 7,
            Code::Interrupted => 130,
        }
    }
}

impl From<Code> for u8 {
    fn from(code: Code) -> u8 {
        code.number()
    }
}

/// A failure that was foreseen: it has a code and knows what to do next.
///
/// Used as the context of an [`anyhow::Error`] or as its root; [`code_of`] and
/// [`next_of`] find it again anywhere in the chain.
#[derive(Debug, Clone)]
pub struct Failure {
    code: Code,
    what: String,
    next: Option<String>,
}

impl Failure {
    /// What happened, to what: a lower-case fragment.
    pub fn new(code: Code, what: impl Into<String>) -> Failure {
        Failure { code, what: what.into(), next: None }
    }

    /// What to do about it.
    pub fn next(mut self, next: impl Into<String>) -> Failure {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// The pipe on standard output was closed by its reader: nothing to say, and no failure.
#[derive(Debug)]
pub struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed by its reader")
    }
}

impl std::error::Error for OutputClosed {}

/// The exit code that an error asks for.
pub fn code_of(error: &anyhow::Error) -> Code {
    if error.downcast_ref::<OutputClosed>().is_some() {
        return Code::Done;
    }
    error.downcast_ref::<Failure>().map_or(Code::Failed, |failure| failure.code)
}

/// The next step that an error suggests.
pub fn next_of(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<Failure>()?.next.as_deref()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_are_distinct_and_documented() {
        let page = include_str!("../../docs/exit-codes.md");
        let mut numbers: Vec<_> = Code::ALL.iter().map(|code| code.number()).collect();
        for number in &numbers {
            assert!(page.contains(&format!("| {number} |")), "{number} is not in the page");
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), Code::ALL.len());
    }

    #[test]
    fn a_failure_is_found_below_and_above_other_causes() {
        let failure = || Failure::new(Code::NotFound, "no image \"x\"").next("list them");
        let below = Err::<(), _>(failure()).context("show x").unwrap_err();
        let above = Err::<(), _>(std::io::Error::other("disk")).context(failure()).unwrap_err();
        for error in [below, above] {
            assert_eq!(code_of(&error), Code::NotFound);
            assert_eq!(next_of(&error), Some("list them"));
        }
        assert_eq!(code_of(&anyhow::anyhow!("else")), Code::Failed);
    }
}
