//! The policy file's TOML, read by hand so that every problem is told at once,
//! each with its place and what is allowed there.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};
use wire::admin::PolicyProblem;
use wire::expr::{Expr, nearest, position};

use super::{BYTES_MAX, CheckRecipe, Policy, Question, RULES_MAX, Rule};

mod limit;
mod outcome;
mod question;

const RULE_KEYS: [&str; 11] =
    ["name", "when", "image", "recipe", "set", "missing", "disk", "start", "limit", "hold", "fail"];

/// Longest name of a rule, and longest reason of a hold, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

type Value<'a> = Spanned<DeValue<'a>>;

/// What could be read, and what is wrong, in the order of the text.
pub(super) fn read(text: &str, recipes: CheckRecipe<'_>) -> (Policy, Vec<PolicyProblem>) {
    let mut reader = Reader { text, recipes, problems: Vec::new(), used: Vec::new() };
    let policy = reader.document();
    let mut problems = reader.problems;
    problems.sort_by_key(|problem| (problem.line, problem.column));
    (policy, problems)
}

struct Reader<'a> {
    text: &'a str,
    recipes: CheckRecipe<'a>,
    problems: Vec<PolicyProblem>,
    /// The facts that recipes use, and where rules name these.
    used: Vec<(Range<usize>, Vec<String>)>,
}

impl Reader<'_> {
    fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        let (line, column) = position(self.text, span.start);
        self.problems.push(PolicyProblem { line, column, message: message.into() });
    }

    fn document(&mut self) -> Policy {
        if self.text.len() > BYTES_MAX {
            let message = format!("a policy of {} bytes: {BYTES_MAX} are most", self.text.len());
            self.problem(0..0, message);
            return Policy::default();
        }
        let (document, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.problem(error.span().unwrap_or(0..0), format!("not TOML: {}", error.message()));
        }
        if !errors.is_empty() {
            return Policy::default();
        }
        let document = document.into_inner();
        self.unknown_keys(&document, &["rule", "question"], "a policy has");
        let questions = self.questions(&document);
        let rules = match document.get("rule") {
            None => Vec::new(),
            Some(value) => match value.get_ref() {
                DeValue::Array(rules) => self.rules(rules, &questions),
                _ => {
                    self.problem(value.span(), "rules are written as [[rule]], with two brackets");
                    Vec::new()
                }
            },
        };
        self.recipes_asked(&questions);
        self.all_used(&document, &questions, &rules);
        Policy { rules, questions }
    }

    fn rules(&mut self, values: &DeArray<'_>, questions: &[Question]) -> Vec<Rule> {
        let mut rules = Vec::new();
        // Lines of the names seen, and the rule that leaves nothing to later ones.
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut last: Option<(String, usize)> = None;
        for value in values.iter() {
            if rules.len() == RULES_MAX {
                self.problem(value.span(), format!("too many rules: {RULES_MAX} are most"));
                break;
            }
            let DeValue::Table(table) = value.get_ref() else {
                self.problem(value.span(), "rules are written as [[rule]], with two brackets");
                continue;
            };
            let line = position(self.text, value.span().start).0;
            if let Some((name, line)) = &last {
                let message = format!(
                    "this rule is never reached: rule {name:?} in line {line} has no \"when\", \
                     so it always matches; move that one to the end"
                );
                self.problem(value.span(), message);
            }
            let Some(rule) = self.rule(value.span(), table) else { continue };
            if let (Some(when), Some(value)) = (&rule.when, table.get("when")) {
                self.only_asked(value.span(), when.paths(), questions, "a question");
            }
            if let Some(line) = seen.insert(rule.name.clone(), line) {
                let message = format!("a rule named {:?} stands in line {line} already", rule.name);
                self.problem(table.get("name").map_or(value.span(), Spanned::span), message);
            }
            if rule.when.is_none() && !table.contains_key("when") && last.is_none() {
                last = Some((rule.name.clone(), line));
            }
            rules.push(rule);
        }
        rules
    }

    fn rule(&mut self, span: Range<usize>, table: &DeTable<'_>) -> Option<Rule> {
        self.unknown_keys(table, &RULE_KEYS, "a rule has");
        let name = match table.get("name") {
            Some(value) => self.string(value, "name"),
            None => {
                self.problem(span.clone(), "this rule has no name: add name = \"…\"");
                None
            }
        };
        let when = table.get("when").and_then(|value| self.when(value));
        let outcome = self.outcome(span, table);
        let limit = match table.get("limit") {
            Some(value) => self.limit(value).map(Some),
            None => Some(None),
        };
        Some(Rule { name: name?, when, outcome: outcome?, limit: limit? })
    }

    /// One of a few words.
    fn word<T: Copy>(&mut self, value: &Value<'_>, key: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(value, key)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("{key} is one of {}, not {text:?}", known.join(", "));
            self.problem(value.span(), message);
        }
        found
    }

    fn when(&mut self, value: &Value<'_>) -> Option<Expr> {
        let text = self.string(value, "when")?;
        let expr = text.parse::<Expr>();
        let problems = match &expr {
            Ok(expr) => expr.check(),
            Err(error) => vec![error.clone()],
        };
        for problem in &problems {
            let offset = self.inside(value.span(), &text, problem.offset);
            self.problem(offset..offset, problem.message.clone());
        }
        expr.ok()
    }

    /// Where in the file an offset in a string's value is. Exact unless the
    /// string has escapes, then where the string begins.
    fn inside(&self, span: Range<usize>, value: &str, offset: usize) -> usize {
        let start = span.start;
        match self.text.get(span).and_then(|raw| raw.find(value)) {
            Some(quotes) => start + quotes + offset,
            None => start,
        }
    }

    fn string(&mut self, value: &Value<'_>, key: &str) -> Option<String> {
        let message = match value.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => format!("{key} is empty"),
            DeValue::String(text) if key == "when" => return Some(text.to_string()),
            DeValue::String(text) if text.len() > TEXT_BYTES_MAX => {
                format!("{key} is too long: {TEXT_BYTES_MAX} bytes are most")
            }
            DeValue::String(text) if text.contains(char::is_control) => {
                format!("{key} has control characters: it is shown on one line of a console")
            }
            DeValue::String(text) => return Some(text.to_string()),
            other => format!("{key} is a text in quotes, not {}", other.type_str()),
        };
        self.problem(value.span(), message);
        None
    }

    fn unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str], what: &str) {
        for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let name = key.get_ref();
            let hint = nearest(name, known.iter().copied())
                .map_or(String::new(), |known| format!("did you mean {known}? "));
            let message = format!("unknown key {name:?}: {hint}{what} {}", known.join(", "));
            self.problem(key.span(), message);
        }
    }
}
