//! The recipe as written: shapes only, with the place of each value.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// A text and its place.
pub(super) type Text = Spanned<String>;

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    pub recipe: Text,
    #[serde(default)]
    pub uses: Vec<Text>,
    pub base: Base,
    #[serde(default)]
    pub packages: Vec<Text>,
    #[serde(default)]
    pub files: BTreeMap<Text, FileEntry>,
    pub script: Option<Text>,
    #[serde(default)]
    pub step: Vec<Step>,
    #[serde(default)]
    pub system: System,
    #[serde(default)]
    pub disk: Disk,
    #[serde(default)]
    pub check: Check,
    pub target: Option<Target>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    pub distro: Text,
    #[serde(default)]
    pub components: Vec<Text>,
    #[serde(default)]
    pub packages: Vec<Text>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub name: Text,
    #[serde(default)]
    pub packages: Vec<Text>,
    #[serde(default)]
    pub files: BTreeMap<Text, FileEntry>,
    pub script: Option<Text>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct System {
    pub hostname: Option<Text>,
    pub root_password: Option<Text>,
    pub dhcp: Option<bool>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    pub size: Option<Text>,
    pub cmdline: Option<Text>,
}

#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    pub script: Option<Text>,
    #[serde(default)]
    pub boot: Boot,
    pub expect: Option<Text>,
    pub timeout: Option<Spanned<u64>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub script: Text,
    #[serde(default)]
    pub uses: Vec<Text>,
    pub timeout: Option<Spanned<u64>>,
}

/// What a file of the root tree is made of.
pub(super) enum FileEntry {
    /// `"path"`.
    Path(Text),
    /// `{ from = "path", mode = "0644" }` or `{ text = "...", mode = "0644" }`.
    Table(Spanned<FileTable>),
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileTable {
    pub from: Option<Text>,
    pub text: Option<String>,
    pub mode: Option<Text>,
}

/// `true`, `false` or a list of firmware.
#[derive(Default)]
pub(super) enum Boot {
    #[default]
    No,
    Yes,
    On(Vec<Text>),
}

impl<'de> Deserialize<'de> for FileEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FileEntry, D::Error> {
        enum Entry {
            Path(String),
            Table(FileTable),
        }

        struct EntryVisitor;

        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "the path of a file, or a table like { from = \"path\", mode = \"0755\" } \
                     or { text = \"content\" }",
                )
            }

            fn visit_str<E: de::Error>(self, path: &str) -> Result<Entry, E> {
                Ok(Entry::Path(path.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                FileTable::deserialize(MapAccessDeserializer::new(map)).map(Entry::Table)
            }
        }

        impl<'de> Deserialize<'de> for Entry {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entry, D::Error> {
                deserializer.deserialize_any(EntryVisitor)
            }
        }

        let entry = Spanned::<Entry>::deserialize(deserializer)?;
        let span = entry.span();
        Ok(match entry.into_inner() {
            Entry::Path(path) => FileEntry::Path(Spanned::new(span, path)),
            Entry::Table(table) => FileEntry::Table(Spanned::new(span, table)),
        })
    }
}

impl<'de> Deserialize<'de> for Boot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Boot, D::Error> {
        struct BootVisitor;

        impl<'de> Visitor<'de> for BootVisitor {
            type Value = Boot;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a list of firmware like [\"bios\", \"uefi\"]")
            }

            fn visit_bool<E: de::Error>(self, yes: bool) -> Result<Boot, E> {
                Ok(if yes { Boot::Yes } else { Boot::No })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Boot, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Boot::On(names))
            }
        }

        deserializer.deserialize_any(BootVisitor)
    }
}
