//! What an image is made for: a recipe, and the facts of a machine that it uses.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, FactValue, Reference};

/// Where images that the server built are named.
const BUILT: &str = "built";
/// What the names of notes of facts begin with.
const FACT: &str = "fact.";

/// What a recipe makes for machines with certain facts. Two machines with the
/// same key get the same image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Digest of the recipe, of all that it reads, and of these facts.
    pub key: Digest,
    /// The recipe's name.
    pub recipe: String,
    /// The facts that the recipe uses, by path; null where the machine did not
    /// report one.
    pub facts: BTreeMap<String, Option<FactValue>>,
}

impl Configuration {
    /// What its image is called in the store, so that it is kept there:
    /// `built/RECIPE:` and the first twelve digits of the key.
    pub fn reference(&self) -> Reference {
        let name = format!("{BUILT}/{}", self.recipe);
        Reference { name, tag: Some(self.key.short()), digest: None }
    }

    /// What an image says of it (docs/envelope.md): `key`, `recipe`, and
    /// `fact.PATH` for each fact that was reported.
    pub fn notes(&self) -> BTreeMap<String, String> {
        let reported = self.facts.iter().filter_map(|(path, value)| Some((path, value.as_ref()?)));
        let facts = reported.map(|(path, value)| (format!("{FACT}{path}"), value.to_string()));
        let own = [("key", self.key.to_string()), ("recipe", self.recipe.clone())];
        own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(facts).collect()
    }

    /// The notes on an image that was made out of one with these notes.
    pub fn notes_over(&self, base: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let kept = base.iter().filter(|(name, _)| !name.starts_with(FACT));
        kept.map(|(name, value)| (name.clone(), value.clone())).chain(self.notes()).collect()
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recipe {}", self.recipe)?;
        for (i, (path, value)) in self.facts.iter().enumerate() {
            f.write_str(if i == 0 { " for " } else { ", " })?;
            match value {
                Some(value) => write!(f, "{path} {value}")?,
                None => write!(f, "{path} not reported")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_named_in_the_store_and_told_to_people() {
        let facts = [
            ("label.role", Some(FactValue::Text("db".into()))),
            ("nic.speed-mbit", None),
            ("cpu.count", Some(FactValue::Number(4))),
        ];
        let facts = facts.map(|(path, value)| (path.to_owned(), value)).into();
        let configuration =
            Configuration { key: Digest([0xab; 32]), recipe: "web_1.2".into(), facts };
        let reference = configuration.reference();
        assert_eq!(reference.to_string(), "built/web_1.2:abababababab");
        assert_eq!(reference.to_string().parse(), Ok(reference));
        assert_eq!(
            configuration.to_string(),
            "recipe web_1.2 for cpu.count 4, label.role \"db\", nic.speed-mbit not reported"
        );
        let base = [("arch", "amd64"), ("fact.cpu.count", "2"), ("fact.tpm", "2.0"), ("key", "0")];
        let base = base.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let notes = configuration.notes_over(&base);
        let key = configuration.key.to_string();
        let expected = [
            ("arch", "amd64"),
            ("fact.cpu.count", "4"),
            ("fact.label.role", "\"db\""),
            ("key", &key),
            ("recipe", "web_1.2"),
        ];
        assert!(notes.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected), "{notes:?}");
        let json = serde_json::to_string(&configuration).unwrap();
        assert_eq!(serde_json::from_str::<Configuration>(&json).unwrap(), configuration);
    }
}
