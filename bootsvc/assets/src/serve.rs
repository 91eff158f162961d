//! What a server hands out: the prepared assets with its own configuration.

use crate::archive::ArchiveError;
use crate::{AssetsDir, Overlay, Section, UkiError, append_sections};

/// The kernel command line of the loader. A server may append hints such as
/// `ingot.server=URL` and `BOOTIF=` where the firmware lets it.
pub const CMDLINE: &str = "console=tty0 console=ttyS0,115200 loglevel=4 panic=60";

/// Complete files, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The kernel.
    pub vmlinuz: Vec<u8>,
    /// The ramdisk with the overlay.
    pub initramfs: Vec<u8>,
    /// Both with [`CMDLINE`] in one EFI program.
    pub ingot_efi: Vec<u8>,
}

/// Why the files cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The overlay cannot be packed.
    #[error("cannot pack the agent's configuration")]
    Overlay(#[from] ArchiveError),
    /// The EFI program cannot be made.
    #[error("cannot make the EFI program; make the boot assets again with `ingot boot assets`")]
    Uki(#[from] UkiError),
}

/// Adds the agent's configuration (JSON) to prepared assets. The same input gives the same
/// bytes.
pub fn assemble(assets: &AssetsDir, agent_config: &[u8]) -> Result<Served, AssembleError> {
    let mut initramfs = assets.initramfs.clone();
    initramfs.extend(Overlay::new(agent_config).to_bytes()?);
    let release = &assets.manifest().release;
    let os_release = format!(
        "ID=ingot\nNAME=ingot\nPRETTY_NAME=\"ingot loader ({release})\"\nVERSION_ID={}\n",
        env!("CARGO_PKG_VERSION")
    );
    let sections = [
        Section { name: ".osrel", content: os_release.as_bytes() },
        Section { name: ".cmdline", content: CMDLINE.as_bytes() },
        Section { name: ".uname", content: release.as_bytes() },
        Section { name: ".initrd", content: &initramfs },
        Section { name: ".linux", content: &assets.vmlinuz },
    ];
    let ingot_efi = append_sections(&assets.stub, &sections)?;
    Ok(Served { vmlinuz: assets.vmlinuz.clone(), initramfs, ingot_efi })
}
