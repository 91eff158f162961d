//! Policies as a model has them: what a rule means is told here a second time,
//! without the controller's parser and matcher.

use std::fmt::Write as _;

use wire::Start;

pub const ROLES: [&str; 2] = ["web", "db"];
pub const MAKERS: [&str; 2] = ["Acme", "Bolt"];
pub const IMAGES: [&str; 3] = ["web:1", "db:1", "base:1"];

/// The serial numbers of each machine's disks.
pub const DISKS: [&str; 2] = ["S", "D"];

/// What rules look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// One of [`ROLES`].
    pub role: Option<usize>,
    /// One of [`MAKERS`].
    pub maker: usize,
    pub memory_gib: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Role(usize),
    Maker(usize),
    /// More memory than this.
    Memory(u64),
    RoleOfMaker(usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// One of [`IMAGES`] on the first disk.
    Image(usize, Start),
    /// And another one on the second.
    Set([usize; 2], Start),
    Hold,
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// None matches all; only the last can have it.
    pub when: Option<When>,
    pub gives: Gives,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

impl When {
    fn matches(self, of: Traits) -> bool {
        match self {
            When::Role(role) => of.role == Some(role),
            When::Maker(maker) => of.maker == maker,
            When::Memory(gib) => of.memory_gib > gib,
            When::RoleOfMaker(role, maker) => of.role == Some(role) && of.maker == maker,
        }
    }

    fn text(self) -> String {
        match self {
            When::Role(role) => format!("label.role == \"{}\"", ROLES[role]),
            When::Maker(maker) => format!("system.manufacturer == \"{}\"", MAKERS[maker]),
            When::Memory(gib) => format!("memory.usable > {gib} GiB"),
            When::RoleOfMaker(role, maker) => {
                format!("{} and {}", When::Role(role).text(), When::Maker(maker).text())
            }
        }
    }
}

impl Rules {
    /// Each subset of the fleet gets an image of its own, and nobody waits.
    pub fn for_all() -> Rules {
        let rule = |when, gives| Rule { when, gives };
        Rules(vec![
            rule(Some(When::Role(0)), Gives::Image(0, Start::Kexec)),
            rule(Some(When::Memory(32)), Gives::Set([1, 2], Start::Reboot)),
            rule(None, Gives::Image(2, Start::Kexec)),
        ])
    }

    /// What a machine gets, with the name of the rule that says so.
    pub fn give(&self, to: Traits) -> Option<(String, Gives)> {
        let matches = |rule: &Rule| rule.when.is_none_or(|when| when.matches(to));
        let number = self.0.iter().position(matches)?;
        Some((format!("rule-{number}"), self.0[number].gives))
    }

    /// As the controller reads it.
    pub fn toml(&self) -> String {
        let mut text = String::new();
        for (number, Rule { when, gives }) in self.0.iter().enumerate() {
            writeln!(text, "[[rule]]\nname = \"rule-{number}\"").unwrap();
            if let Some(when) = when {
                writeln!(text, "when = '{}'", when.text()).unwrap();
            }
            let outcome = match gives {
                Gives::Image(image, start) => {
                    let start = serde_json::to_string(start).unwrap();
                    let disk = "disk = { serial = \"S\" }";
                    format!("image = \"{}\"\n{disk}\nstart = {start}", IMAGES[*image])
                }
                Gives::Set(images, start) => {
                    let start = serde_json::to_string(start).unwrap();
                    let member = |(image, serial): (&usize, &str)| {
                        let image = IMAGES[*image];
                        format!("{{ image = \"{image}\", disk = {{ serial = \"{serial}\" }} }}")
                    };
                    let members: Vec<_> = images.iter().zip(DISKS).map(member).collect();
                    format!("set = [{}]\nstart = {start}", members.join(", "))
                }
                Gives::Hold => "hold = \"wait\"".to_owned(),
                Gives::Fail => "fail = \"no\"".to_owned(),
            };
            writeln!(text, "{outcome}\n").unwrap();
        }
        text
    }
}
