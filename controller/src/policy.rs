//! From the facts of a machine to what shall become of it: ordered rules, the
//! first that matches decides. The file format is in `docs/policy.md`.

mod file;
mod limit;
pub(crate) mod question;
mod read;
mod stamp;

use std::fmt;
use std::path::{Path, PathBuf};

use wire::admin::{PolicyCheck, PolicyProblem, RuleTrace};
use wire::expr::Expr;
use wire::{DiskChoice, Facts, Reference, Start};

pub use file::{PolicyError, PolicyFile, ReplaceError};
pub use limit::Limit;
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
    /// How many of them get it, and when.
    pub limit: Option<Limit>,
}

/// What a rule says of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Run images.
    Images(ImageSet),
    /// Wait, for this reason.
    Hold(String),
    /// Refuse the machine, for this reason.
    Fail(String),
}

/// Images for one machine, each on a disk of its own. One image is a set of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSet {
    /// The one that is started.
    pub system: Member,
    /// What else is installed, at most [`wire::DeployOrder::OTHERS_MAX`].
    pub others: Vec<Member>,
    /// How the first is started.
    pub start: Start,
}

/// An image, and how it is put on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Which image.
    pub source: Source,
    /// Which disk it goes to.
    pub disk: DiskChoice,
}

/// How a policy names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// As the store does.
    Image(Reference),
    /// By the recipe that makes it for the machine.
    Recipe {
        /// The recipe's file, as the policy has it: relative to the policy's folder.
        file: PathBuf,
        /// What to do where there is no such image yet.
        missing: Missing,
    },
}

/// What to do where the image of a recipe was not made yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Missing {
    /// The server builds it, the machine waits for that.
    #[default]
    Build,
    /// One of the machines that need it makes it, the others wait.
    OnTarget,
    /// The machine waits.
    Hold,
    /// The machine is refused.
    Fail,
}

/// What a policy has to know of a recipe that it names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecipeFacts {
    /// Paths of the facts that it uses.
    pub uses: Vec<String>,
    /// Whether machines make its image.
    pub on_target: OnTarget,
}

/// Whether machines make the image of a recipe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OnTarget {
    /// It was not looked at.
    #[default]
    Unknown,
    /// The server makes it.
    No,
    /// They do.
    Yes,
    /// They would, and this server cannot have them do it, for this reason.
    Impossible(String),
}

/// What there is to know of the recipe in a file, or what is wrong with it.
pub type CheckRecipe<'a> = &'a dyn Fn(&Path) -> Result<RecipeFacts, String>;

impl Policy {
    /// Reads the text of a policy file; every problem is found at once. The
    /// recipes that it names are not looked at.
    pub fn parse(text: &str) -> Result<Policy, Vec<PolicyProblem>> {
        Policy::parse_with(text, &|_| Ok(RecipeFacts::default()))
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
                builds: Vec::new(),
                limit: rule.limit.as_ref().map(Limit::to_string),
            }
        };
        self.rules.iter().map(trace).collect()
    }
}

impl ImageSet {
    /// All of them, the one that is started first.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.system).chain(&self.others)
    }
}

impl Outcome {
    /// The images that it gives.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let set = match self {
            Outcome::Images(set) => Some(set),
            Outcome::Hold(_) | Outcome::Fail(_) => None,
        };
        set.into_iter().flat_map(ImageSet::members)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Images(set) => set.fmt(f),
            Outcome::Hold(reason) => write!(f, "hold: {reason}"),
            Outcome::Fail(reason) => write!(f, "fail: {reason}"),
        }
    }
}

impl fmt::Display for ImageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.others.is_empty() {
            f.write_str("set of ")?;
        }
        self.system.source.fmt(f)?;
        self.others.iter().try_for_each(|member| write!(f, ", {}", member.source))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Image(reference) => write!(f, "image {reference}"),
            Source::Recipe { file, .. } => write!(f, "recipe {}", file.display()),
        }
    }
}
