//! How to make an image: the recipe, as read from its TOML file (`docs/recipe.md`).
//!
//! [`Recipe::load`] reads the file and everything it names, so that a loaded
//! recipe is complete: nothing of the recipe is read again while it is built.

mod check;
mod raw;
mod target;
mod uses;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use wire::Digest;

pub use check::RecipeError;
pub(crate) use uses::variable;

/// Largest recipe file, in bytes.
pub const RECIPE_BYTES_MAX: u64 = 1 << 20;
/// Largest file or script that a recipe names, in bytes: they are held in memory.
pub const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most packages in one list.
pub const PACKAGES_MAX: usize = 2000;
/// Most steps.
pub const STEPS_MAX: usize = 64;
/// Most files in one step.
pub const FILES_MAX: usize = 1000;
/// Most facts that a recipe uses.
pub const USES_MAX: usize = 64;

/// A recipe with everything that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// Name of the family of images; disk identities are derived from it.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// Digest of the bytes of that file.
    pub digest: Digest,
    /// Digest of all that it says, and of the files that it names. How its own
    /// file is written does not count, nor where it is.
    pub content: Digest,
    /// The other files that were read for it.
    pub sources: Vec<PathBuf>,
    /// Paths of the facts that its scripts are given, sorted, each once.
    pub uses: Vec<String>,
    /// What the root tree starts from.
    pub base: Base,
    /// What is done to it, in order; the first is the recipe's own top level.
    pub steps: Vec<Step>,
    /// Settings that every installed system needs.
    pub system: System,
    /// The disk.
    pub disk: Disk,
    /// What must hold before the image is handed on.
    pub check: Check,
    /// What is done to it on a machine, where that is a part of it. All else
    /// makes its base.
    pub target: Option<Target>,
}

/// What is done to the image on a machine that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Run with the installed base as its root.
    pub script: Script,
    /// Paths of the facts that it is given beside [`Recipe::uses`], sorted, each once.
    pub uses: Vec<String>,
    /// How long it may take, in seconds.
    pub timeout_secs: u32,
}

/// What the root tree starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The release.
    pub distro: Distro,
    /// Its archive components, such as `main`.
    pub components: Vec<String>,
    /// Packages beside those that every image gets, sorted, each once.
    pub packages: Vec<String>,
}

/// A release that a root tree can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distro {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Distro {
    /// Every release, for messages.
    pub const ALL: [Distro; 2] = [Distro::Bookworm, Distro::Trixie];

    /// As a recipe has it.
    pub fn name(self) -> &'static str {
        match self {
            Distro::Bookworm => "debian/bookworm",
            Distro::Trixie => "debian/trixie",
        }
    }

    /// As the archive has it.
    pub fn codename(self) -> &'static str {
        match self {
            Distro::Bookworm => "bookworm",
            Distro::Trixie => "trixie",
        }
    }
}

/// One step: packages, then files, then the script.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// For people, and unique in the recipe.
    pub name: String,
    /// Packages to install.
    pub packages: Vec<String>,
    /// Files to put into the tree, by path without the leading slash.
    pub files: BTreeMap<String, File>,
    /// What to run last.
    pub script: Option<Script>,
}

/// A file of the root tree; owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub bytes: Vec<u8>,
}

/// A program to run in the root tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// For people: the path in the recipe, or `script` for one written in it.
    pub name: String,
    /// Its text; without `#!` it is run by `/bin/sh -eu`.
    pub bytes: Vec<u8>,
}

/// Settings that every installed system needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// Host name until the machine gets its own.
    pub hostname: String,
    /// `crypt(3)` hash of root's password; without it root cannot log in by password.
    pub root_password: Option<String>,
    /// Ask for an address on every wired network card.
    pub dhcp: bool,
}

/// The disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Size of the root filesystem in the image; it grows to the disk when installed.
    pub size: RootSize,
    /// Kernel parameters behind those that every image gets.
    pub cmdline: String,
}

/// Size of the root filesystem in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootSize {
    /// What the tree needs, with room to work, in coarse steps.
    Fit,
    /// This many bytes, a multiple of 1 MiB.
    Bytes(u64),
}

/// What must hold before the image is handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Run against the finished tree, which it cannot change.
    pub script: Option<Script>,
    /// Firmware to boot the disk with.
    pub boot: Vec<Firmware>,
    /// What must appear on the serial console.
    pub expect: String,
    /// How long it may take to appear, in seconds.
    pub timeout_secs: u64,
}

/// Firmware to boot a disk with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Firmware {
    /// PC BIOS (SeaBIOS).
    Bios,
    /// UEFI (OVMF).
    Uefi,
}

impl Firmware {
    /// As a recipe has it.
    pub fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "bios",
            Firmware::Uefi => "uefi",
        }
    }
}

impl Recipe {
    /// Reads a recipe and every file that it names; these are looked up
    /// relative to the recipe's own folder.
    pub fn load(path: &Path) -> Result<Recipe, RecipeError> {
        check::load(path)
    }
}

#[cfg(test)]
mod tests;
