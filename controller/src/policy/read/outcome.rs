//! What a rule says: images and their disks, or why there is none.

use std::ops::Range;

use toml::de::{DeArray, DeTable, DeValue};
use wire::expr::size;
use wire::{DeployOrder, DiskChoice, Start};

use super::{Reader, Value};
use crate::policy::{ImageSet, Member, Missing, OnTarget, Outcome, Source};

const OUTCOME_KEYS: [&str; 5] = ["image", "recipe", "set", "hold", "fail"];
const MEMBER_KEYS: [&str; 4] = ["image", "recipe", "missing", "disk"];
const DISK_KEYS: [&str; 5] = ["serial", "wwid", "model", "size-min", "size-max"];
const MISSING: [(&str, Missing); 4] = [
    ("build", Missing::Build),
    ("on-target", Missing::OnTarget),
    ("hold", Missing::Hold),
    ("fail", Missing::Fail),
];
const STARTS: [(&str, Start); 3] =
    [("kexec", Start::Kexec), ("reboot", Start::Reboot), ("power-off", Start::PowerOff)];

/// Most images of a set.
const SET_MAX: usize = DeployOrder::OTHERS_MAX + 1;

/// Keys that say how images are put on a machine, and with what they go.
const HOW: [(&str, &str); 4] = [
    ("missing", "recipe"),
    ("disk", "image or recipe"),
    ("start", "image, recipe or set"),
    ("limit", "image, recipe or set"),
];

impl Reader<'_> {
    pub(super) fn outcome(&mut self, span: Range<usize>, table: &DeTable<'_>) -> Option<Outcome> {
        let key = self.one_of(span, table, &OUTCOME_KEYS, "rule")?;
        let value = table.get(key)?;
        let goes: &[&str] = match key {
            "recipe" => &["missing", "disk", "start", "limit"],
            "image" => &["disk", "start", "limit"],
            "set" => &["start", "limit"],
            _ => &[],
        };
        self.only_with(table, key, goes);
        if matches!(key, "hold" | "fail") {
            let reason = self.string(value, key)?;
            return Some(if key == "hold" { Outcome::Hold(reason) } else { Outcome::Fail(reason) });
        }
        let members = match key {
            "set" => self.set(value),
            _ => self.member(key, value, table).map(|member| vec![member]),
        };
        let start = match table.get("start") {
            Some(value) => self.word(value, "start", &STARTS),
            None => Some(Start::default()),
        };
        let mut members = members?.into_iter();
        let (system, others) = (members.next()?, members.collect());
        Some(Outcome::Images(ImageSet { system, others, start: start? }))
    }

    /// Which of these keys a table has; a problem where not exactly one.
    fn one_of<'k>(
        &mut self,
        span: Range<usize>,
        table: &DeTable<'_>,
        keys: &[&'k str],
        what: &str,
    ) -> Option<&'k str> {
        let given: Vec<_> = keys.iter().copied().filter(|key| table.contains_key(*key)).collect();
        if let [key] = given[..] {
            return Some(key);
        }
        let message = match (given.is_empty(), keys.split_last()) {
            (true, Some((last, keys))) => {
                format!("this {what} says nothing: add one of {} or {last}", keys.join(", "))
            }
            _ => format!("this {what} has {}: leave only one", given.join(" and ")),
        };
        self.problem(span, message);
        None
    }

    fn only_with(&mut self, table: &DeTable<'_>, key: &str, goes: &[&str]) {
        for (only, with) in HOW.iter().filter(|(only, _)| !goes.contains(only)) {
            if let Some(value) = table.get(*only) {
                let each = if key == "set" { ": each of its images has its own" } else { "" };
                self.problem(
                    value.span(),
                    format!("{only} goes with {with}, not with {key}{each}"),
                );
            }
        }
    }

    fn set(&mut self, value: &Value<'_>) -> Option<Vec<Member>> {
        let DeValue::Array(values) = value.get_ref() else {
            let message = "set is a list of tables, such as [{ image = \"…\", disk = {…} }, …]";
            self.problem(value.span(), message);
            return None;
        };
        let message = match values.len() {
            0 => "the set is empty: name its images, or leave it out".to_owned(),
            1 => "a set of one: write image = or recipe = in the rule instead of set".to_owned(),
            2..=SET_MAX => return self.members(values),
            _ => format!("too many images in a set: {SET_MAX} are most"),
        };
        self.problem(value.span(), message);
        None
    }

    fn members(&mut self, values: &DeArray<'_>) -> Option<Vec<Member>> {
        // All are read, so that the problems of all are told.
        let read: Vec<_> = values.iter().map(|value| self.member_of_set(value)).collect();
        for (number, (value, member)) in values.iter().zip(&read).enumerate() {
            let Some(member) = member else { continue };
            let same = |before: &Option<Member>| {
                before.as_ref().is_some_and(|before| before.disk == member.disk)
            };
            let Some(before) = read[..number].iter().position(same) else { continue };
            let message = match member.disk == DiskChoice::default() {
                true => format!(
                    "image {} and this one say nothing of their disks: say which disk each goes \
                     to, as in disk = {{ serial = \"…\" }}",
                    before + 1
                ),
                false => format!(
                    "image {} and this one go to the same disk: each needs one of its own",
                    before + 1
                ),
            };
            self.problem(value.span(), message);
        }
        read.into_iter().collect()
    }

    fn member_of_set(&mut self, value: &Value<'_>) -> Option<Member> {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("an image of a set is a table of {}", MEMBER_KEYS.join(", "));
            self.problem(value.span(), message);
            return None;
        };
        self.unknown_keys(table, &MEMBER_KEYS, "an image of a set has");
        let key = self.one_of(value.span(), table, &["image", "recipe"], "image of a set")?;
        if let (Some(value), "image") = (table.get("missing"), key) {
            self.problem(value.span(), "missing goes with recipe, not with image");
        }
        self.member(key, table.get(key)?, table)
    }

    /// One image: the value of `image` or `recipe`, and what else its table says of it.
    fn member(&mut self, key: &str, value: &Value<'_>, table: &DeTable<'_>) -> Option<Member> {
        let source = match key {
            "image" => self.image(value),
            _ => self.recipe(value, table.get("missing")),
        };
        let disk = table.get("disk").map_or(Some(DiskChoice::default()), |disk| self.disk(disk));
        Some(Member { source: source?, disk: disk? })
    }

    fn image(&mut self, value: &Value<'_>) -> Option<Source> {
        let text = self.string(value, "image")?;
        let reference =
            text.parse().map_err(|error| self.problem(value.span(), format!("{error}")));
        reference.map(Source::Image).ok()
    }

    fn recipe(&mut self, value: &Value<'_>, missing: Option<&Value<'_>>) -> Option<Source> {
        let file = self.string(value, "recipe").map(std::path::PathBuf::from);
        let facts = match file.as_ref().map(|file| (self.recipes)(file)) {
            Some(Ok(facts)) => Some(facts),
            Some(Err(message)) => {
                self.problem(value.span(), message);
                None
            }
            None => None,
        };
        let word = match missing {
            Some(value) => self.word(value, "missing", &MISSING),
            None => Some(Missing::default()),
        };
        if let (Some(facts), Some(word)) = (facts, word) {
            if let Some(problem) = mismatch(&facts.on_target, word) {
                self.problem(missing.unwrap_or(value).span(), problem);
            }
            self.used.push((value.span(), facts.uses));
        }
        Some(Source::Recipe { file: file?, missing: word? })
    }

    fn disk(&mut self, value: &Value<'_>) -> Option<DiskChoice> {
        let DeValue::Table(table) = value.get_ref() else {
            let message = format!("disk is a table of {}", DISK_KEYS.join(", "));
            self.problem(value.span(), message);
            return None;
        };
        self.unknown_keys(table, &DISK_KEYS, "a disk has");
        let disk = DiskChoice {
            serial: table.get("serial").and_then(|value| self.string(value, "serial")),
            wwid: table.get("wwid").and_then(|value| self.string(value, "wwid")),
            model: table.get("model").and_then(|value| self.string(value, "model")),
            size_bytes_min: table.get("size-min").and_then(|value| self.size(value)),
            size_bytes_max: table.get("size-max").and_then(|value| self.size(value)),
        };
        if let (Some(min), Some(max)) = (disk.size_bytes_min, disk.size_bytes_max)
            && min > max
        {
            self.problem(value.span(), "no disk fits: size-min is more than size-max");
        }
        Some(disk)
    }

    fn size(&mut self, value: &Value<'_>) -> Option<u64> {
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(bytes) => bytes.to_string(),
            other => {
                let message = format!(
                    "a size is written as \"100 GiB\" or in bytes, not as {}",
                    other.type_str()
                );
                self.problem(value.span(), message);
                return None;
            }
        };
        size(&text).map_err(|error| self.problem(value.span(), error.message)).ok()
    }
}

/// Why an image cannot be had in that way that a recipe makes.
fn mismatch(on_target: &OnTarget, missing: Missing) -> Option<String> {
    match (on_target, missing) {
        (OnTarget::No, Missing::OnTarget) => Some(
            "missing = \"on-target\" needs a recipe with a [target], which this one has not: say \
             what is to be done on the machine, or let the server build it with \"build\""
                .to_owned(),
        ),
        (OnTarget::Yes | OnTarget::Impossible(_), Missing::Build) => Some(
            "this recipe has a [target], which the server cannot build: say missing = \
             \"on-target\", \"hold\" or \"fail\""
                .to_owned(),
        ),
        (OnTarget::Impossible(why), Missing::OnTarget) => Some(why.clone()),
        _ => None,
    }
}
