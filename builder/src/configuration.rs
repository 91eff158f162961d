//! What a recipe makes for which machine: the key by which an image is found
//! again, and what scripts are told of the machine.

use std::collections::BTreeMap;

use wire::{Configuration, Digest, FactValue, Facts};

use crate::key::Key;
use crate::recipe::{Base, Check, Disk, Recipe, RootSize, Script, System, variable};
use crate::step;

impl Recipe {
    /// What this recipe makes for a machine with these facts. Facts that it
    /// does not use do not matter.
    pub fn configuration(&self, facts: &Facts) -> Configuration {
        let used = self.uses.iter().map(|path| (path.clone(), facts.get(path).cloned()));
        let facts: BTreeMap<String, Option<FactValue>> = used.collect();
        let key = Key::new("ingot configuration 1").field("recipe", self.content.0);
        let key = add_facts(key, &facts).digest();
        Configuration { key, recipe: self.name.clone(), facts }
    }
}

/// Adds facts that a machine reported, and those that it did not.
pub(crate) fn add_facts(key: Key, facts: &BTreeMap<String, Option<FactValue>>) -> Key {
    facts.iter().fold(key, |key, (path, value)| match value {
        Some(value) => key.field(path, text(value)).field("kind", kind(value)),
        None => key.field(path, "").field("kind", "not reported"),
    })
}

/// What [`Recipe::content`] is to be: of what makes its base.
pub(crate) fn content(recipe: &Recipe) -> Digest {
    let Recipe { name, path: _, digest: _, content: _, sources: _, target: _, .. } = recipe;
    let Recipe { uses, base, steps, system, disk, check, .. } = recipe;
    let Base { distro, components, packages } = base;
    let System { hostname, root_password, dhcp } = system;
    let Disk { size, cmdline } = disk;
    let Check { script, boot, expect, timeout_secs } = check;
    let size = match size {
        RootSize::Fit => "fit".to_owned(),
        RootSize::Bytes(bytes) => bytes.to_string(),
    };
    let mut key = Key::new("ingot recipe 1")
        .field("arch", "amd64")
        .field("name", name)
        .list("uses", uses.iter())
        .field("distro", distro.name())
        .list("components", components.iter())
        .list("packages", packages.iter())
        .field("hostname", hostname)
        .list("root-password", root_password.iter())
        .field("dhcp", dhcp.to_string())
        .field("size", size)
        .field("cmdline", cmdline)
        .list("check", script.iter().map(|script| &script.bytes))
        .list("boot", boot.iter().map(|firmware| firmware.name()))
        .field("expect", expect)
        .field("timeout", timeout_secs.to_string());
    for step in steps {
        key = step::add_to_key(key.field("step", &step.name), step, &Given::default());
    }
    key.digest()
}

/// The facts that scripts may be given, by the names of their variables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given(Vec<(String, String)>);

impl Given {
    /// Those that the machine reported.
    pub fn of(configuration: &Configuration) -> Given {
        let reported = configuration.facts.iter();
        Given(reported.filter_map(|(path, v)| Some((variable(path), text(v.as_ref()?)))).collect())
    }

    /// Those that a script names, and gets: what it does not name cannot change
    /// what it makes.
    pub fn to<'a>(&'a self, script: &Script) -> Vec<(&'a str, &'a str)> {
        let names = |name: &str| script.bytes.windows(name.len()).any(|w| w == name.as_bytes());
        let named = self.0.iter().filter(|(name, _)| names(name));
        named.map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// All of them.
    pub fn all(self) -> BTreeMap<String, String> {
        self.0.into_iter().collect()
    }

    /// Adds those that a script gets.
    pub fn add_to_key(&self, key: Key, script: &Script) -> Key {
        self.to(script).into_iter().fold(key, |key, (name, value)| key.field(name, value))
    }
}

/// As a script has it: texts as they are, several values in lines. What no
/// variable can hold is left out.
fn text(value: &FactValue) -> String {
    match value {
        FactValue::Text(text) => text.replace('\0', ""),
        FactValue::List(values) => values.iter().map(text).collect::<Vec<_>>().join("\n"),
        FactValue::Bool(_) | FactValue::Number(_) => value.to_string(),
    }
}

fn kind(value: &FactValue) -> &'static str {
    match value {
        FactValue::Bool(_) => "bool",
        FactValue::Number(_) => "number",
        FactValue::Text(_) => "text",
        FactValue::List(_) => "list",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "recipe = \"web\"\nuses = [\"label.role\", \"disk.size\", \"cpu.arch\"]\n\
                        script = \"echo $INGOT_LABEL_ROLE\"\n\
                        [base]\ndistro = \"debian/bookworm\"\npackages = [\"linux-image-amd64\"]\n\
                        [files]\n\"etc/a\" = \"a\"\n\
                        [[step]]\nname = \"last\"\nscript = \"last.sh\"\n\
                        [check]\nscript = \"test -e /etc/a\"\n";

    /// A recipe in a folder of its own, and that file of it changed.
    fn recipe(text: &str, a: &str, last: &str) -> Recipe {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("r.toml", text), ("a", a), ("last.sh", last)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let recipe = Recipe::load(&dir.path().join("r.toml")).unwrap();
        let names: Vec<_> = recipe.sources.iter().map(|path| path.file_name().unwrap()).collect();
        assert_eq!(names, ["a", "last.sh"], "every file that was read");
        recipe
    }

    fn facts(pairs: &[(&str, FactValue)]) -> Facts {
        pairs.iter().map(|(path, value)| ((*path).to_owned(), value.clone())).collect()
    }

    fn role(role: &str) -> Facts {
        facts(&[("label.role", FactValue::Text(role.to_owned()))])
    }

    #[test]
    fn the_key_follows_from_the_recipe_its_files_and_the_facts_that_it_uses() {
        let web = recipe(TEXT, "a", "true");
        let db = web.configuration(&role("db"));
        assert_eq!(db.recipe, "web");
        let used: Vec<_> = db.facts.iter().map(|(path, v)| (path.as_str(), v.is_some())).collect();
        assert_eq!(used, [("cpu.arch", false), ("disk.size", false), ("label.role", true)]);

        let mut other = role("db");
        other.insert("label.rack".into(), FactValue::Text("7".into()));
        other.insert("cpu.count".into(), FactValue::Number(7));
        assert_eq!(web.configuration(&other), db, "facts that are not used do not matter");
        let commented = format!("# A comment.\n{TEXT}");
        assert_eq!(recipe(&commented, "a", "true").configuration(&role("db")), db);

        let one = |value| facts(&[("label.role", value)]);
        let text = |text: &str| FactValue::Text(text.into());
        let changed = |from: &str, to: &str| recipe(&TEXT.replace(from, to), "a", "true");
        let keys = [
            db.key,
            web.configuration(&role("web")).key,
            web.configuration(&Facts::new()).key,
            web.configuration(&role("")).key,
            web.configuration(&one(FactValue::Number(4))).key,
            web.configuration(&one(text("4"))).key,
            web.configuration(&one(FactValue::List(vec![text("4")]))).key,
            recipe(TEXT, "b", "true").configuration(&role("db")).key,
            recipe(TEXT, "a", "false").configuration(&role("db")).key,
            changed("echo", "printf").configuration(&role("db")).key,
            changed("bookworm", "trixie").configuration(&role("db")).key,
            changed("linux-image-amd64", "linux-image-cloud-amd64").configuration(&role("db")).key,
            changed("\"cpu.arch\"", "\"cpu.model\"").configuration(&role("db")).key,
            changed("test -e", "test -s").configuration(&role("db")).key,
            changed("\"web\"", "\"app\"").configuration(&role("db")).key,
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(key), "key {i} is there twice");
        }
    }

    #[test]
    fn a_script_is_given_the_facts_that_it_names() {
        let web = recipe(TEXT, "a", "true");
        let numbers = FactValue::List(vec![FactValue::Number(1), FactValue::Number(20)]);
        let mut facts = role("d\0b");
        facts.insert("disk.size".into(), numbers);
        facts.insert("cpu.arch".into(), FactValue::Text("x86_64".into()));
        let given = Given::of(&web.configuration(&facts));
        let script = |text: &str| Script { name: "s".into(), bytes: text.into() };
        assert_eq!(given.to(&script("echo hello")), []);
        assert_eq!(given.to(web.steps[0].script.as_ref().unwrap()), [("INGOT_LABEL_ROLE", "db")]);
        let both = script("echo ${INGOT_DISK_SIZE:-} $INGOT_CPU_ARCH $INGOT_CPU_MODEL");
        let expected = [("INGOT_CPU_ARCH", "x86_64"), ("INGOT_DISK_SIZE", "1\n20")];
        assert_eq!(given.to(&both), expected);
        assert_eq!(Given::of(&web.configuration(&Facts::new())), Given::default());
    }

    #[test]
    fn only_steps_whose_script_names_a_fact_are_made_anew_for_another_value() {
        let web = recipe(TEXT, "a", "true");
        let key = |step: usize, facts: &Facts| {
            let given = Given::of(&web.configuration(facts));
            step::add_to_key(Key::new("k"), &web.steps[step], &given).digest()
        };
        assert_ne!(key(0, &role("db")), key(0, &role("web")));
        assert_eq!(key(1, &role("db")), key(1, &role("web")));
        assert_ne!(key(0, &role("db")), key(0, &Facts::new()));
    }
}
