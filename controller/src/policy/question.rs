//! Questions for the person at a machine: their answers are facts that rules match on.

use std::collections::BTreeMap;

use wire::admin::{Answer, AnswerSource, QuestionTrace, UnixMs};
use wire::expr::Expr;
use wire::{AskOrder, Facts};

use super::Policy;

/// Most questions of a policy.
pub const QUESTIONS_MAX: usize = 32;
/// Most choices of a question: as many as fit on a screen.
pub const CHOICES_MAX: usize = 20;
/// Longest and usual time that an agent waits for an answer, in seconds.
pub const WAIT_SECS_MAX: u32 = 3600;
pub(super) const WAIT_SECS: u32 = 60;

/// What answers are facts of: `answer.NAME`.
const PREFIX: &str = "answer.";

/// Answers by the names of their questions.
pub type Answers = BTreeMap<String, Answer>;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which machines it is for; all where absent.
    pub when: Option<Expr>,
    /// The question, as a machine is told it.
    pub ask: AskOrder,
}

impl Question {
    /// Whether this is an answer to it, as an agent sends it.
    fn accepts(&self, answer: &str) -> bool {
        match self.ask.choices.is_empty() {
            true => self.ask.answer(answer).is_some(),
            false => self.ask.choices.iter().any(|choice| choice == answer),
        }
    }
}

/// The name of the question that a fact is the answer to.
pub(super) fn asked_by(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX)
}

/// The facts that answers are.
pub(crate) fn add_facts(answers: &Answers, facts: &mut Facts) {
    for (name, answer) in answers {
        let value = wire::FactValue::Text(answer.value.clone());
        facts.insert(format!("{PREFIX}{name}"), value);
    }
}

impl Policy {
    /// The question to ask before these facts decide; none where no answer that is
    /// missing could change which rule matches first.
    pub fn unanswered(&self, facts: &Facts) -> Option<&Question> {
        let is_open = |path: &str| self.open(path, facts).is_some();
        for rule in &self.rules {
            let Some(when) = &rule.when else { return None };
            match when.matches_without(facts, &is_open) {
                Some(true) => return None,
                Some(false) => {}
                None => return when.paths().into_iter().find_map(|path| self.open(path, facts)),
            }
        }
        None
    }

    /// The question to ask before all of these facts can be known; none where no
    /// answer is missing.
    pub fn unanswered_of<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p str>,
        facts: &Facts,
    ) -> Option<&Question> {
        paths.into_iter().find_map(|path| self.open(path, facts))
    }

    /// What has to be asked for this fact to be known. A question's own condition may
    /// depend on the answers to those before it, never to itself or later ones.
    fn open(&self, path: &str, facts: &Facts) -> Option<&Question> {
        let name = asked_by(path).filter(|_| !facts.contains_key(path))?;
        let question = self.questions.iter().find(|question| question.ask.name == name)?;
        let Some(when) = &question.when else { return Some(question) };
        let is_open = |path: &str| self.open(path, facts).is_some();
        match when.matches_without(facts, &is_open) {
            Some(true) => Some(question),
            Some(false) => None,
            None => when.paths().into_iter().find_map(|path| self.open(path, facts)),
        }
    }

    /// The answers that a machine has after it told these: what is not an answer to a
    /// question of this policy is left out, and where nobody answered its default is taken.
    pub fn answered(
        &self,
        mut answers: Answers,
        told: &BTreeMap<String, Option<String>>,
        at: UnixMs,
    ) -> Answers {
        for (name, told) in told {
            let Some(question) = self.questions.iter().find(|q| q.ask.name == *name) else {
                tracing::warn!(name, "an answer to no question of the policy");
                continue;
            };
            let (value, source) = match (told, &question.ask.default) {
                (Some(told), _) if question.accepts(told) => (told, AnswerSource::Console),
                (None, Some(default)) if !answers.contains_key(name) => {
                    (default, AnswerSource::Default)
                }
                _ => continue,
            };
            // Told once more because the reply was lost, it is no news.
            let known = answers.get(name).is_some_and(|a| a.value == *value && a.source == source);
            if !known {
                answers.insert(name.clone(), Answer { value: value.clone(), source, at });
            }
        }
        answers
    }

    /// How every question stands for a machine, in order.
    pub fn why_asked(&self, facts: &Facts, answers: &Answers) -> Vec<QuestionTrace> {
        let trace = |question: &Question| QuestionTrace {
            name: question.ask.name.clone(),
            text: question.ask.text.clone(),
            asked: question.when.as_ref().is_none_or(|when| when.matches(facts)),
            answer: answers.get(&question.ask.name).cloned(),
        };
        self.questions.iter().map(trace).collect()
    }
}
