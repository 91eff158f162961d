//! The match language over facts and labels; its grammar is in `docs/policy.md`.
//!
//! Pure: a text becomes an [`Expr`] once, which is then held against the facts
//! of any number of machines. Holding it against facts cannot fail: what a
//! machine did not report makes a comparison false.

mod check;
mod lex;
mod parse;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{FactValue, Facts};

pub use check::{FACTS, Kind, SERVER_FACTS, known, nearest};
pub use lex::size;

/// Longest text of an expression, in bytes.
pub const BYTES_MAX: usize = 4096;
/// Deepest nesting of parentheses and `not`; bounds the stack.
pub const NESTING_MAX: usize = 32;
/// Most values in the brackets after `in`.
pub const VALUES_MAX: usize = 256;

/// A parsed expression; its text form is the text it was parsed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Expr {
    text: String,
    root: Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Compare(Comparison),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    path: String,
    test: Test,
    /// Where in the expression's text it stands, in bytes.
    span: std::ops::Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Equal(FactValue),
    NotEqual(FactValue),
    Less(u64),
    AtMost(u64),
    Greater(u64),
    AtLeast(u64),
    In(Vec<FactValue>),
    /// Both ends within.
    Within(u64, u64),
    Like(String),
}

/// Where an expression is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ExprError {
    /// What is wrong and what is allowed there.
    pub message: String,
    /// Byte offset in the expression's text.
    pub offset: usize,
    /// Line in the expression's text, from 1.
    pub line: usize,
    /// Column in that line in characters, from 1.
    pub column: usize,
}

/// How an expression came out for one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Whether the machine matches.
    pub matched: bool,
    /// Every comparison, in the order of the text.
    pub comparisons: Vec<Compared>,
}

/// How one comparison came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// The comparison as it was written: `memory.usable >= 8 GiB`.
    pub comparison: String,
    /// The path of its fact.
    pub path: String,
    /// What the machine reported.
    pub reported: Option<FactValue>,
    /// How it came out.
    pub verdict: Verdict,
}

/// How one comparison came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not hold.
    Fail,
    /// The machine did not report the fact, so it does not hold.
    NotReported,
    /// From a newer controller.
    #[serde(other)]
    Unknown,
}

impl Expr {
    /// Holds the expression against facts. Every comparison is made, also
    /// where the outcome is known before, so that the trace is whole.
    pub fn trace(&self, facts: &Facts) -> Trace {
        let mut comparisons = Vec::new();
        let matched = self.root.holds(facts, &mut |comparison, verdict| {
            comparisons.push(Compared {
                comparison: self.text[comparison.span.clone()].to_owned(),
                path: comparison.path.clone(),
                reported: facts.get(&comparison.path).cloned(),
                verdict,
            });
        });
        Trace { matched, comparisons }
    }

    /// Whether the facts match.
    pub fn matches(&self, facts: &Facts) -> bool {
        self.root.holds(facts, &mut |_, _| {})
    }

    /// Whether the facts match while some are open, known only later; none where that
    /// depends on them.
    pub fn matches_without(&self, facts: &Facts, open: &dyn Fn(&str) -> bool) -> Option<bool> {
        self.root.holds_without(facts, open)
    }

    /// The paths of the facts that it depends on, in the order of the text.
    pub fn paths(&self) -> Vec<&str> {
        self.comparisons().into_iter().map(|comparison| comparison.path.as_str()).collect()
    }

    fn comparisons(&self) -> Vec<&Comparison> {
        let mut found = Vec::new();
        self.root.collect(&mut found);
        found
    }
}

impl Node {
    fn holds(&self, facts: &Facts, seen: &mut impl FnMut(&Comparison, Verdict)) -> bool {
        match self {
            // `&=` and `|=` do not stop early, as the trace is to be whole.
            Node::All(nodes) => {
                let mut all = true;
                nodes.iter().for_each(|node| all &= node.holds(facts, seen));
                all
            }
            Node::Any(nodes) => {
                let mut any = false;
                nodes.iter().for_each(|node| any |= node.holds(facts, seen));
                any
            }
            Node::Not(node) => !node.holds(facts, seen),
            Node::Compare(comparison) => {
                let verdict = match facts.get(&comparison.path) {
                    None => Verdict::NotReported,
                    Some(value) if comparison.test.holds(value) => Verdict::Pass,
                    Some(_) => Verdict::Fail,
                };
                seen(comparison, verdict);
                verdict == Verdict::Pass
            }
        }
    }

    /// The logic of three values: none is "not known yet".
    fn holds_without(&self, facts: &Facts, open: &dyn Fn(&str) -> bool) -> Option<bool> {
        let held = |nodes: &[Node]| -> Vec<_> {
            nodes.iter().map(|node| node.holds_without(facts, open)).collect()
        };
        match self {
            Node::All(nodes) => {
                let held = held(nodes);
                if held.contains(&Some(false)) {
                    Some(false)
                } else {
                    held.into_iter().collect::<Option<Vec<_>>>().map(|_| true)
                }
            }
            Node::Any(nodes) => {
                let held = held(nodes);
                if held.contains(&Some(true)) {
                    Some(true)
                } else {
                    held.into_iter().collect::<Option<Vec<_>>>().map(|_| false)
                }
            }
            Node::Not(node) => node.holds_without(facts, open).map(|held| !held),
            Node::Compare(comparison) if open(&comparison.path) => None,
            Node::Compare(_) => Some(self.holds(facts, &mut |_, _| {})),
        }
    }

    fn collect<'a>(&'a self, found: &mut Vec<&'a Comparison>) {
        match self {
            Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|n| n.collect(found)),
            Node::Not(node) => node.collect(found),
            Node::Compare(comparison) => found.push(comparison),
        }
    }
}

impl Test {
    /// Of several values one is enough, for every test.
    fn holds(&self, value: &FactValue) -> bool {
        if let FactValue::List(values) = value {
            return values.iter().any(|value| self.holds(value));
        }
        let number = |test: fn(&u64, &u64) -> bool, limit: &u64| match value {
            FactValue::Number(n) => test(n, limit),
            _ => false,
        };
        match self {
            Test::Equal(wanted) => value == wanted,
            Test::NotEqual(unwanted) => value != unwanted,
            Test::Less(limit) => number(u64::lt, limit),
            Test::AtMost(limit) => number(u64::le, limit),
            Test::Greater(limit) => number(u64::gt, limit),
            Test::AtLeast(limit) => number(u64::ge, limit),
            Test::In(wanted) => wanted.contains(value),
            Test::Within(least, most) => number(u64::ge, least) && number(u64::le, most),
            Test::Like(glob) => matches!(value, FactValue::Text(text) if like(glob, text)),
        }
    }
}

/// Whether a text matches a pattern in which `*` stands for any characters,
/// also none, and `?` for exactly one. Time is at most the product of lengths.
fn like(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut g, mut t) = (0, 0);
    // Where to go on when the last `*` has to take one character more.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                retry = Some((g + 1, t));
                g += 1;
            }
            Some(&c) if c == '?' || c == text[t] => (g, t) = (g + 1, t + 1),
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    (g, t) = (star, taken + 1);
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == '*')
}

impl ExprError {
    fn at(text: &str, offset: usize, message: impl Into<String>) -> ExprError {
        let (line, column) = position(text, offset);
        ExprError { message: message.into(), offset, line, column }
    }
}

/// Line and column, both from 1, of a byte offset in a text.
pub fn position(text: &str, offset: usize) -> (usize, usize) {
    let before: String =
        text.char_indices().take_while(|(i, _)| *i < offset).map(|c| c.1).collect();
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

impl FromStr for Expr {
    type Err = ExprError;

    fn from_str(text: &str) -> Result<Expr, ExprError> {
        Ok(Expr { text: text.to_owned(), root: parse::parse(text)? })
    }
}

impl TryFrom<String> for Expr {
    type Error = ExprError;

    fn try_from(text: String) -> Result<Expr, ExprError> {
        text.parse()
    }
}

impl From<Expr> for String {
    fn from(expr: Expr) -> String {
        expr.text
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
