//! What bare machines are sent: a stock kernel, a small ramdisk with the agent as its init,
//! and both in one EFI program.
//!
//! [`prepare`] makes a folder of assets once per kernel and agent; [`assemble`] adds the
//! server's own configuration at start, in memory and in well under a second.

mod archive;
mod kernel;
mod manifest;
mod modinfo;
mod modules;
mod overlay;
mod package;
mod prepare;
mod selection;
mod serve;
mod uki;

pub use archive::ArchiveError;
pub use kernel::KernelError;
pub use manifest::{AssetsDir, Manifest, OpenError, Stamp};
pub use modules::ModulesError;
pub use overlay::Overlay;
pub use package::PackageError;
pub use prepare::{AssetOptions, Kernel, PrepareError, Progress, prepare};
pub use serve::{AssembleError, CMDLINE, Served, assemble};
pub use uki::{Section, UkiError, append_sections};
