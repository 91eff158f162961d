//! Makes images: a recipe becomes a root tree, the tree partitions, the
//! partitions a raw disk that boots by BIOS and by UEFI.
//!
//! [`build`] hands over a [`BuiltImage`]: the disk as a file and all that a store
//! wants to know of it. Everything here blocks. No image is
//! mounted and no loop device used. The steps of a recipe run in a sandbox
//! without network; the base tree is mmdebstrap's, in a chroot. The same recipe
//! and the same packages give the same bytes: see `docs/recipe.md` for what
//! that takes.
//!
//! What it is not: it neither knows machines and policy nor decides what is
//! built when; that is the controller's.

mod apt;
mod base;
mod build;
mod cache;
mod check;
mod configuration;
mod disk;
mod ext4;
mod geometry;
mod grub;
mod identity;
mod key;
mod on_target;
mod preflight;
mod progress;
mod recipe;
mod sandbox;
mod step;
mod system;
mod tool;
mod tree;

pub use apt::AptError;
pub use base::{BaseError, PACKAGES as BASE_PACKAGES};
pub use build::{BuildError, BuiltImage, Options, build};
pub use cache::CacheError;
pub use check::CheckError;
pub use disk::DiskError;
pub use ext4::Ext4Error;
pub use grub::GrubError;
pub use preflight::{Missing, preflight};
pub use progress::{Event, Outcome, Progress, Stage};
pub use recipe::{
    Base, Check, Disk, Distro, File, Firmware, Recipe, RecipeError, RootSize, Script, Step, System,
    Target,
};
pub use step::StepError;
pub use tool::ToolError;
pub use tree::TreeError;

/// The clock of every build, in seconds since 1970: 2025-01-01. No file of an
/// image is newer.
pub const EPOCH: u64 = 1_735_689_600;

/// Path of the kernel in an image; Debian keeps it as a link to the newest.
pub const KERNEL: &str = "/vmlinuz";

/// Path of the initrd in an image, likewise.
pub const INITRD: &str = "/initrd.img";
