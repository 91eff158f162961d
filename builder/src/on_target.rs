//! The part of an image that is made on a machine: its base is built like any
//! other image, and a script changes that where the hardware is.

use std::collections::BTreeMap;

use wire::{Configuration, Facts, Making};

use crate::configuration::{Given, add_facts};
use crate::key::Key;
use crate::recipe::Recipe;

impl Recipe {
    /// What is done on a machine with these facts to the base that
    /// [`Recipe::configuration`] is of; nothing where that is the whole image.
    pub fn on_target(&self, facts: &Facts) -> Option<Making> {
        let target = self.target.as_ref()?;
        let base = self.configuration(facts);
        let used = target.uses.iter().map(|path| (path.clone(), facts.get(path).cloned()));
        let used: BTreeMap<_, _> = used.collect();
        let key = Key::new("ingot on-target 1")
            .field("base", base.key.0)
            .field("script", &target.script.bytes);
        let key = add_facts(key, &used).digest();
        let facts = base.facts.into_iter().chain(used).collect();
        let configuration = Configuration { key, recipe: base.recipe, facts };
        Some(Making {
            environment: Given::of(&configuration).all(),
            configuration,
            // The recipe's reader took care that it is text.
            script: String::from_utf8_lossy(&target.script.bytes).into_owned(),
            timeout_secs: target.timeout_secs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::FactValue;

    const BASE: &str = "recipe = \"gpu\"\nuses = [\"label.role\"]\n\
                        [base]\ndistro = \"debian/bookworm\"\n";

    fn recipe(target: &str, script: &str) -> Recipe {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("install.sh"), script).unwrap();
        let path = dir.path().join("r.toml");
        std::fs::write(&path, format!("{BASE}{target}")).unwrap();
        Recipe::load(&path).unwrap()
    }

    const TARGET: &str = "[target]\nscript = \"install.sh\"\nuses = [\"pci.modalias\"]\n";

    fn facts(role: &str, devices: &[&str]) -> Facts {
        let text = |text: &str| FactValue::Text(text.to_owned());
        let devices = FactValue::List(devices.iter().map(|device| text(device)).collect());
        [("label.role".to_owned(), text(role)), ("pci.modalias".to_owned(), devices)].into()
    }

    #[test]
    fn the_base_is_what_the_recipe_makes_without_its_target_part() {
        let facts = facts("db", &["a"]);
        let plain = recipe("", "");
        let whole = recipe(TARGET, "true");
        assert_eq!(plain.on_target(&facts), None);
        assert_eq!(whole.configuration(&facts), plain.configuration(&facts));
        assert_eq!(whole.sources.len(), 1, "its script is a file that the server watches");
        // As it was before there were target parts: images that were made stay in use.
        assert_eq!(
            plain.configuration(&Facts::new()).key.to_string(),
            "blake3:41cd0ffcf3463ea48e1f3c958862e727d04722c081db827f1e2991c8b0e0d75f"
        );
    }

    #[test]
    fn the_key_of_the_whole_follows_from_base_script_and_facts_of_both() {
        let whole = recipe(TARGET, "true");
        let made = whole.on_target(&facts("db", &["a", "b"])).unwrap();
        assert_eq!(made.configuration.recipe, "gpu");
        let paths: Vec<_> = made.configuration.facts.keys().map(String::as_str).collect();
        assert_eq!(paths, ["label.role", "pci.modalias"]);
        let mut other = facts("db", &["a", "b"]);
        other.insert("cpu.count".into(), FactValue::Number(4));
        assert_eq!(whole.on_target(&other).unwrap(), made, "facts that it does not use");
        let longer = recipe(&format!("{TARGET}timeout = 60\n"), "true");
        assert_eq!(longer.on_target(&other).unwrap().configuration, made.configuration);

        let key =
            |recipe: &Recipe, facts: &Facts| recipe.on_target(facts).unwrap().configuration.key;
        let keys = [
            made.configuration.key,
            whole.configuration(&facts("db", &["a", "b"])).key,
            key(&whole, &facts("web", &["a", "b"])),
            key(&whole, &facts("db", &["a"])),
            key(&whole, &Facts::new()),
            key(&recipe(TARGET, "false"), &facts("db", &["a", "b"])),
            key(&recipe(&TARGET.replace("pci", "usb"), "true"), &facts("db", &["a", "b"])),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[i + 1..].contains(key), "key {i} is there twice");
        }
    }

    #[test]
    fn the_script_is_told_all_facts() {
        let made = recipe(TARGET, "true").on_target(&facts("db", &["a", "b"])).unwrap();
        assert_eq!((made.script.as_str(), made.timeout_secs), ("true", 3600));
        let environment = [("INGOT_LABEL_ROLE", "db"), ("INGOT_PCI_MODALIAS", "a\nb")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(made.environment, environment.into());
        let made = recipe(TARGET, "true").on_target(&Facts::new()).unwrap();
        assert_eq!(made.environment.len(), 0);
    }
}
