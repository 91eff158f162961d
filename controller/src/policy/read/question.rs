//! `[[question]]` of a policy file.

use std::ops::Range;

use toml::de::{DeTable, DeValue};
use wire::AskOrder;

use super::{Reader, Value};
use crate::policy::Rule;
use crate::policy::question::{
    CHOICES_MAX, QUESTIONS_MAX, Question, WAIT_SECS, WAIT_SECS_MAX, asked_by,
};

const QUESTION_KEYS: [&str; 6] = ["name", "text", "choices", "default", "wait", "when"];

impl Reader<'_> {
    /// The questions of a document. Their conditions may refer to earlier ones only.
    pub(super) fn questions(&mut self, document: &DeTable<'_>) -> Vec<Question> {
        let Some(value) = document.get("question") else { return Vec::new() };
        let tables = "questions are written as [[question]], with two brackets";
        let DeValue::Array(values) = value.get_ref() else {
            self.problem(value.span(), tables);
            return Vec::new();
        };
        let mut questions: Vec<Question> = Vec::new();
        for value in values.iter() {
            if questions.len() == QUESTIONS_MAX {
                self.problem(value.span(), format!("too many questions: {QUESTIONS_MAX} are most"));
                break;
            }
            let DeValue::Table(table) = value.get_ref() else {
                self.problem(value.span(), tables);
                continue;
            };
            let Some(question) = self.question(value.span(), table) else { continue };
            let span = table.get("name").map_or(value.span(), |name| name.span());
            if questions.iter().any(|before| before.ask.name == question.ask.name) {
                let message = format!("a question named {:?} stands before", question.ask.name);
                self.problem(span, message);
                continue;
            }
            if let (Some(when), Some(value)) = (&question.when, table.get("when")) {
                self.only_asked(value.span(), when.paths(), &questions, "an earlier question");
            }
            questions.push(question);
        }
        questions
    }

    fn question(&mut self, span: Range<usize>, table: &DeTable<'_>) -> Option<Question> {
        self.unknown_keys(table, &QUESTION_KEYS, "a question has");
        let mut required = |key: &str, like: &str| match table.get(key) {
            Some(value) => self.string(value, key),
            None => {
                self.problem(span.clone(), format!("this question has no {key}: add {like}"));
                None
            }
        };
        let name = required("name", "name = \"…\"");
        let text = required("text", "text = \"…\", which the person at the machine reads");
        let name = name.filter(|name| {
            let problem = crate::limits::name("a question", name);
            let wrong = table.get("name").zip(problem);
            wrong.map(|(value, problem)| self.problem(value.span(), problem)).is_none()
        });
        let choices = table.get("choices").map_or(Some(Vec::new()), |value| self.choices(value));
        let default = match table.get("default") {
            Some(value) => Some((value.span(), self.string(value, "default")?)),
            None => None,
        };
        let wait_secs = table.get("wait").map_or(Some(WAIT_SECS), |value| self.wait(value));
        let when = table.get("when").and_then(|value| self.when(value));
        let ask = AskOrder {
            name: name?,
            text: text?,
            choices: choices?,
            default: default.as_ref().map(|(_, text)| text.clone()),
            wait_secs: wait_secs?,
        };
        if let Some((span, text)) = default {
            let fits = match ask.choices.is_empty() {
                true => text.len() <= AskOrder::ANSWER_BYTES_MAX,
                false => ask.choices.contains(&text),
            };
            if !fits {
                self.problem(span, format!("the default {text:?} is none of the choices"));
            }
        }
        Some(Question { when, ask })
    }

    fn choices(&mut self, value: &Value<'_>) -> Option<Vec<String>> {
        let DeValue::Array(values) = value.get_ref() else {
            self.problem(value.span(), "choices is a list of texts, such as [\"db\", \"web\"]");
            return None;
        };
        if values.is_empty() || values.len() > CHOICES_MAX {
            let message = format!("choices has 1 to {CHOICES_MAX} texts; without it, any is taken");
            self.problem(value.span(), message);
            return None;
        }
        let mut choices: Vec<String> = Vec::new();
        for value in values.iter() {
            let choice = self.string(value, "a choice")?;
            let problem = if choice.trim() != choice {
                Some(format!("the choice {choice:?} begins or ends with a blank"))
            } else if choice.len() > AskOrder::ANSWER_BYTES_MAX {
                Some(format!("a choice has at most {} bytes", AskOrder::ANSWER_BYTES_MAX))
            } else if choices.iter().any(|before| before.eq_ignore_ascii_case(&choice)) {
                Some(format!("the choice {choice:?} stands there twice"))
            } else {
                None
            };
            if let Some(problem) = problem {
                self.problem(value.span(), problem);
                return None;
            }
            choices.push(choice);
        }
        Some(choices)
    }

    fn wait(&mut self, value: &Value<'_>) -> Option<u32> {
        let text = self.string(value, "wait")?;
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(0));
        let factor = match unit.trim() {
            "s" => Some(1),
            "min" => Some(60),
            _ => None,
        };
        let secs = number.parse::<u32>().ok().zip(factor).and_then(|(n, f)| n.checked_mul(f));
        let secs = secs.filter(|secs| (1..=WAIT_SECS_MAX).contains(secs));
        if secs.is_none() {
            let most = WAIT_SECS_MAX / 60;
            let message = format!("wait is written as \"60 s\" or \"5 min\", at most {most} min");
            self.problem(value.span(), message);
        }
        secs
    }

    /// Every answer that an expression refers to has to be asked for.
    pub(super) fn only_asked(
        &mut self,
        span: Range<usize>,
        paths: Vec<&str>,
        questions: &[Question],
        what: &str,
    ) {
        for name in paths.into_iter().filter_map(asked_by) {
            if !questions.iter().any(|question| question.ask.name == name) {
                let message = format!("{what} named {name:?} is needed for answer.{name}");
                self.problem(span.clone(), message);
            }
        }
    }

    /// So does every answer that a recipe uses.
    pub(super) fn recipes_asked(&mut self, questions: &[Question]) {
        for (span, used) in self.used.clone() {
            let paths = used.iter().map(String::as_str).collect();
            self.only_asked(span, paths, questions, "a question");
        }
    }

    /// A question that no rule, no recipe and no other question refers to would
    /// never be asked.
    pub(super) fn all_used(
        &mut self,
        document: &DeTable<'_>,
        questions: &[Question],
        rules: &[Rule],
    ) {
        let whens = rules.iter().filter_map(|rule| rule.when.as_ref());
        let whens = whens.chain(questions.iter().filter_map(|question| question.when.as_ref()));
        let recipes = self.used.iter().flat_map(|(_, paths)| paths.iter().map(String::as_str));
        let paths = whens.flat_map(|when| when.paths()).chain(recipes);
        let used: Vec<_> = paths.filter_map(asked_by).map(str::to_owned).collect();
        let span = document.get("question").map_or(0..0, |value| value.span());
        // A rule that could not be read may be the one that refers to it.
        if !self.problems.is_empty() {
            return;
        }
        for question in questions.iter().filter(|q| !used.contains(&q.ask.name)) {
            let name = &question.ask.name;
            let message = format!(
                "question {name:?} is never asked: no rule refers to answer.{name}, as in \
                 when = 'answer.{name} == \"…\"'"
            );
            self.problem(span.clone(), message);
        }
    }
}
