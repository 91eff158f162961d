//! What a machine is told to do.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Bus, Configuration, Digest, Disk, Reference, RunId};

/// The controller's answer to a machine that checked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub enum Order {
    /// Wait safely, touch nothing, check in again later.
    Hold(HoldOrder),
    /// Run this image: start it where the receipt on the disk says that it is
    /// installed, install it first where not.
    Deploy(DeployOrder),
    /// Make an image on this machine: install its base, run a script on that,
    /// send what came of it to the store, and check in again.
    Make(Box<MakeOrder>),
    /// Ask the person at the machine, and check in again with the answer.
    Ask(AskOrder),
    /// From a newer controller: hold and say so.
    #[serde(other)]
    Unknown,
}

impl Order {
    /// Most bytes of an answer with an order in JSON: the longest script, of which each byte
    /// may become six (`\u0001`), and beside it the facts that an image is made for, which a
    /// check-in brought, and which the script's environment has again.
    pub const BYTES_MAX: usize = 6 * Making::SCRIPT_BYTES_MAX + (10 << 20);
}

/// A question for the person at the machine, who need not be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskOrder {
    /// Which question: the answer becomes the fact `answer.NAME`.
    pub name: String,
    /// The question in words.
    pub text: String,
    /// What may be answered; any text of at most [`AskOrder::ANSWER_BYTES_MAX`] where empty.
    pub choices: Vec<String>,
    /// What is taken where nobody answers; absent where the machine then waits.
    pub default: Option<String>,
    /// Seconds to wait for an answer.
    pub wait_secs: u32,
}

impl AskOrder {
    /// Longest answer, in bytes: as long as the value of a label.
    pub const ANSWER_BYTES_MAX: usize = 255;

    /// The answer that a line means: a choice, its number, or the default by an empty line;
    /// `None` where it is no answer.
    pub fn answer(&self, line: &str) -> Option<String> {
        let line = line.trim();
        if line.is_empty() {
            return self.default.clone();
        }
        let fits = line.len() <= AskOrder::ANSWER_BYTES_MAX && !line.contains(char::is_control);
        if self.choices.is_empty() {
            return fits.then(|| line.to_owned());
        }
        let named = self.choices.iter().find(|choice| choice.eq_ignore_ascii_case(line));
        let counted = || self.choices.get(line.parse::<usize>().ok()?.checked_sub(1)?);
        named.or_else(counted).cloned()
    }
}

/// Why a machine waits, in words for the person in front of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldOrder {
    /// What happened and what to do about it; shown on the machine's console.
    pub reason: String,
    /// Seconds until the agent should check in again.
    pub retry_secs: u32,
}

/// Images for one machine, each on a disk of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployOrder {
    /// The run that all events of this order belong to.
    pub run: RunId,
    /// Counts the tries of this run, from 1.
    pub attempt: u32,
    /// The image that is started.
    #[serde(flatten)]
    pub system: ImageOrder,
    /// What else is installed, at most [`DeployOrder::OTHERS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<ImageOrder>,
    /// How the OS is started.
    #[serde(default)]
    pub start: Start,
}

impl DeployOrder {
    /// Most images beside the one that is started.
    pub const OTHERS_MAX: usize = 15;

    /// All images, the one that is started first.
    pub fn images(&self) -> impl Iterator<Item = &ImageOrder> {
        std::iter::once(&self.system).chain(&self.others)
    }
}

/// What it is for people: its images.
impl fmt::Display for DeployOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.system.fmt(f)?;
        self.others.iter().try_for_each(|image| write!(f, ", {image}"))
    }
}

/// An image, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOrder {
    /// The image.
    pub image: Digest,
    /// What the policy called it, for people.
    pub reference: Reference,
    /// Which disk to install to.
    #[serde(default)]
    pub disk: DiskChoice,
}

/// What it is for people: its name and the first digits of its digest.
impl fmt::Display for ImageOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reference, self.image.short())
    }
}

/// An image that is to be made on the machine's own hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeOrder {
    /// The run that all events of this order belong to.
    pub run: RunId,
    /// Counts the tries of this run, from 1.
    pub attempt: u32,
    /// What the script begins with, and the disk that is used up for it.
    pub base: ImageOrder,
    /// Why the machine makes it, in words for the person in front of it.
    pub reason: String,
    /// How it is made.
    #[serde(flatten)]
    pub making: Making,
}

/// What makes an image out of its base, on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Making {
    /// What the image is made for; [`Configuration::reference`] is what it is
    /// stored as.
    pub configuration: Configuration,
    /// The script, at most [`Making::SCRIPT_BYTES_MAX`], run with the installed
    /// base as its root: by the program that its `#!` names, else by `/bin/sh -eu`.
    pub script: String,
    /// Its environment beside the usual: what the recipe gives it of the facts.
    pub environment: BTreeMap<String, String>,
    /// Seconds that it may take.
    pub timeout_secs: u32,
}

impl Making {
    /// Longest script, in bytes.
    pub const SCRIPT_BYTES_MAX: usize = 1 << 20;
}

/// Which disk an image goes to. All given criteria must hold, for exactly one
/// disk; removable, mounted, read-only and USB disks are never candidates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskChoice {
    /// Serial number, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World-wide id, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwid: Option<String>,
    /// Model, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Smallest size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes_min: Option<u64>,
    /// Largest size, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes_max: Option<u64>,
}

impl DiskChoice {
    /// Why a disk is not the one to write to, as far as the disk itself tells;
    /// `None` where it fits.
    pub fn objection(&self, disk: &Disk) -> Option<String> {
        let never = [
            (disk.read_only, "it is read-only"),
            (disk.removable, "it is removable"),
            (disk.bus == Some(Bus::Usb), "it is a USB disk"),
        ];
        if let Some((_, why)) = never.into_iter().find(|(applies, _)| *applies) {
            return Some(why.to_owned());
        }
        let texts = [
            ("serial", &self.serial, &disk.serial),
            ("wwid", &self.wwid, &disk.wwid),
            ("model", &self.model, &disk.model),
        ];
        for (what, wanted, has) in texts {
            if wanted.is_some() && wanted != has {
                let wanted = wanted.as_deref().unwrap_or_default();
                return Some(format!("its {what} is not {wanted:?}"));
            }
        }
        let bytes = disk.size_bytes;
        if self.size_bytes_min.is_some_and(|min| bytes < min) {
            return Some("it is too small".to_owned());
        }
        self.size_bytes_max.is_some_and(|max| bytes > max).then(|| "it is too large".to_owned())
    }
}

/// How the installed OS is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Load its kernel from the disk and jump into it, past the firmware.
    #[default]
    Kexec,
    /// Restart the machine; the boot decision then sends it to its disk.
    Reboot,
    /// Switch the machine off, installed.
    PowerOff,
    /// From a newer controller: as `Reboot`.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FactValue;

    #[test]
    fn a_choice_is_named_or_counted_and_nothing_else_is_an_answer() {
        let choices = |choices: &[&str]| choices.iter().map(|c| (*c).to_owned()).collect();
        let mut ask = AskOrder {
            name: "role".into(),
            text: "What for?".into(),
            choices: choices(&["db", "Web"]),
            default: None,
            wait_secs: 60,
        };
        let answer = |ask: &AskOrder, line: &str| ask.answer(line);
        for (line, expected) in
            [(" db ", "db"), ("WEB", "Web"), ("1", "db"), ("2", "Web"), ("+2", "Web")]
        {
            assert_eq!(answer(&ask, line).as_deref(), Some(expected), "{line}");
        }
        for line in ["", " ", "0", "3", "-1", "d", "web db", "99999999999999999999999"] {
            assert_eq!(answer(&ask, line), None, "{line}");
        }
        ask.default = Some("db".into());
        assert_eq!(answer(&ask, "  ").as_deref(), Some("db"));
        // A choice that is a number is that one, wherever it stands.
        ask.choices = choices(&["2", "1"]);
        assert_eq!(answer(&ask, "1").as_deref(), Some("1"));
        ask.choices.clear();
        assert_eq!(answer(&ask, " rack 7 ").as_deref(), Some("rack 7"));
        assert_eq!(answer(&ask, "a\u{1b}[2J"), None);
        assert_eq!(answer(&ask, &"x".repeat(256)), None);
    }

    #[test]
    fn the_longest_script_and_what_goes_with_it_fit_an_answer() {
        // Of as many facts as one machine has at most, each as long as is believed.
        let values = || FactValue::List(vec![FactValue::Text("\"".repeat(1024)); 512]);
        let facts = ["pci.modalias", "usb.modalias"].map(|path| (path.to_owned(), Some(values())));
        let environment = [("INGOT_FACT_PCI_MODALIAS".to_owned(), "\"\n".repeat(512 << 10))];
        let making = Making {
            configuration: Configuration {
                key: Digest([0xff; 32]),
                recipe: "gpu".into(),
                facts: facts.into(),
            },
            script: "\u{1}".repeat(Making::SCRIPT_BYTES_MAX),
            environment: environment.into(),
            timeout_secs: u32::MAX,
        };
        let (image, disk) = (Digest([0xff; 32]), DiskChoice::default());
        let base = ImageOrder { image, reference: "built/gpu:base".parse().unwrap(), disk };
        let run = "r-1".parse().unwrap();
        let order = Order::Make(Box::new(MakeOrder {
            run,
            attempt: u32::MAX,
            base,
            reason: "\u{1}".repeat(1024),
            making,
        }));
        let machine = "m-1".parse().unwrap();
        let text = serde_json::to_vec(&crate::api::CheckedIn { machine, order }).unwrap();
        assert!(text.len() > 6 * Making::SCRIPT_BYTES_MAX);
        assert!(text.len() <= Order::BYTES_MAX, "{}", text.len());
    }

    #[test]
    fn an_order_of_a_newer_controller_is_unknown() {
        let order: Order = serde_json::from_str(r#"{"order":"dance","tempo":3}"#).unwrap();
        assert_eq!(order, Order::Unknown);
    }
}
