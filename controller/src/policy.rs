//! From the facts of a machine to what shall become of it: ordered rules, the
//! first that matches decides. The file format is in `docs/policy.md`.

mod file;
pub(crate) mod question;
mod read;
mod stamp;

use std::fmt;
use std::path::{Path, PathBuf};

use wire::admin::{PolicyCheck, PolicyProblem, RuleTrace};
use wire::expr::Expr;
use wire::{DiskChoice, Facts, Reference, Start};

pub use file::{PolicyError, PolicyFile};
pub use question::{Answers, Question};
pub use stamp::Stamp;

/// Longest policy file, in bytes.
pub const BYTES_MAX: usize = 1 << 20;
/// Most rules of a policy; each is held against every machine that checks in.
pub const RULES_MAX: usize = 1000;

/// Ordered rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    questions: Vec<Question>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique in the policy.
    pub name: String,
    /// Which machines it is for; all where absent.
    pub when: Option<Expr>,
    /// What it says of them.
    pub outcome: Outcome,
}

/// What a rule says of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Run an image.
    Image(ImageOutcome),
    /// Run the image that a recipe makes for the machine.
    Recipe(RecipeOutcome),
    /// Wait, for this reason.
    Hold(String),
    /// Refuse the machine, for this reason.
    Fail(String),
}

/// An image, and how it is put on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOutcome {
    /// The image.
    pub reference: Reference,
    /// Which disk it goes to.
    pub disk: DiskChoice,
    /// How it is started.
    pub start: Start,
}

/// A recipe, and how its image is put on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeOutcome {
    /// The recipe's file, as the policy has it: relative to the policy's folder.
    pub recipe: PathBuf,
    /// What to do where there is no such image yet.
    pub missing: Missing,
    /// Which disk it goes to.
    pub disk: DiskChoice,
    /// How it is started.
    pub start: Start,
}

/// What to do where the image of a recipe was not made yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missing {
    /// The server builds it, the machine waits for that.
    #[default]
    Build,
    /// The machine waits.
    Hold,
    /// The machine is refused.
    Fail,
}

/// The facts that the recipe in a file uses, or what is wrong with it.
pub type CheckRecipe<'a> = &'a dyn Fn(&Path) -> Result<Vec<String>, String>;

impl Policy {
    /// Reads the text of a policy file; every problem is found at once. The
    /// recipes that it names are not looked at.
    pub fn parse(text: &str) -> Result<Policy, Vec<PolicyProblem>> {
        Policy::parse_with(text, &|_| Ok(Vec::new()))
    }

    /// As [`Policy::parse`], and its recipes have to be right too.
    pub fn parse_with(text: &str, recipes: CheckRecipe<'_>) -> Result<Policy, Vec<PolicyProblem>> {
        let (policy, problems) = read::read(text, recipes);
        if problems.is_empty() { Ok(policy) } else { Err(problems) }
    }

    /// What is wrong with the text of a policy file and with its recipes.
    pub fn check(text: &str, recipes: CheckRecipe<'_>) -> PolicyCheck {
        let (policy, problems) = read::read(text, recipes);
        PolicyCheck { rules: policy.rules.into_iter().map(|rule| rule.name).collect(), problems }
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule that decides about a machine with these facts.
    pub fn decide(&self, facts: &Facts) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.when.as_ref().is_none_or(|when| when.matches(facts)))
    }

    /// How every rule comes out for these facts, in order.
    pub fn why(&self, facts: &Facts) -> Vec<RuleTrace> {
        let trace = |rule: &Rule| {
            let when = rule.when.as_ref().map(|when| when.trace(facts));
            RuleTrace {
                name: rule.name.clone(),
                outcome: rule.outcome.to_string(),
                matched: when.as_ref().is_none_or(|when| when.matched),
                when,
                build: None,
            }
        };
        self.rules.iter().map(trace).collect()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Image(image) => write!(f, "image {}", image.reference),
            Outcome::Recipe(recipe) => write!(f, "recipe {}", recipe.recipe.display()),
            Outcome::Hold(reason) => write!(f, "hold: {reason}"),
            Outcome::Fail(reason) => write!(f, "fail: {reason}"),
        }
    }
}
