//! GRUB for both firmwares, made by grub-mkimage and put in place without
//! grub-install: what that would write, we write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::EPOCH;
use crate::cache::{CacheError, at};
use crate::geometry::{BIOS_SECTORS, BIOS_START, SECTOR_BYTES};
use crate::identity::Identities;
use crate::tool::{self, Log, ToolError};

/// Boot code of the MBR, from grub-pc-bin.
const BOOT_IMG: &str = "/usr/lib/grub/i386-pc/boot.img";
/// Bytes of the MBR that are boot code.
pub(crate) const BOOT_CODE_BYTES: usize = 440;
/// Where `boot.img` has the sector of the core image (u64).
const BOOT_KERNEL_SECTOR: usize = 0x5c;
/// Where `boot.img` jumps over its check of the drive number that the BIOS
/// passed; two NOPs let it run, as grub-install has it for hard disks.
const BOOT_DRIVE_CHECK: usize = 0x66;
/// Where the first sector of the core image lists the others: sector u64,
/// count u16, segment u16.
const CORE_BLOCK_LIST: usize = 500;
/// Segment that the rest of the core image is loaded to.
const CORE_SEGMENT: u16 = 0x820;

const MODULES: [&str; 17] = [
    "boot",
    "cat",
    "configfile",
    "echo",
    "ext2",
    "halt",
    "linux",
    "ls",
    "minicmd",
    "normal",
    "part_gpt",
    "reboot",
    "search",
    "search_fs_uuid",
    "serial",
    "terminal",
    "test",
];
const BIOS_MODULES: [&str; 1] = ["biosdisk"];
const EFI_MODULES: [&str; 3] = ["efi_gop", "efi_uga", "fat"];

/// Why there is no GRUB.
#[derive(Debug, thiserror::Error)]
pub enum GrubError {
    /// Its files.
    #[error(transparent)]
    File(#[from] CacheError),
    /// grub-mkimage failed.
    #[error("cannot make GRUB for {platform}")]
    Make {
        /// GRUB's name of the platform.
        platform: &'static str,
        /// Why.
        #[source]
        source: ToolError,
    },
    /// What it made does not have the known form.
    #[error("{what} has {bytes} bytes, which does not fit")]
    Size {
        /// Which file.
        what: &'static str,
        /// Its size.
        bytes: usize,
    },
}

/// What boots by BIOS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bios {
    /// For the first bytes of the disk.
    pub boot_code: [u8; BOOT_CODE_BYTES],
    /// For the BIOS boot partition.
    pub core: Vec<u8>,
}

/// Makes what boots by BIOS.
pub(crate) fn bios(work: &Path, identities: &Identities, log: Log<'_>) -> Result<Bios, GrubError> {
    let path = make(work, "i386-pc", &BIOS_MODULES, identities, log)?;
    let core = fs::read(&path).map_err(at("read", &path))?;
    let boot = fs::read(BOOT_IMG).map_err(at("read", Path::new(BOOT_IMG)))?;
    Ok(Bios { boot_code: boot_code(&boot)?, core: with_block_list(core)? })
}

/// Makes what boots by UEFI and returns its file.
pub(crate) fn efi(
    work: &Path,
    identities: &Identities,
    log: Log<'_>,
) -> Result<PathBuf, GrubError> {
    make(work, "x86_64-efi", &EFI_MODULES, identities, log)
}

fn make(
    work: &Path,
    platform: &'static str,
    modules: &[&str],
    identities: &Identities,
    log: Log<'_>,
) -> Result<PathBuf, GrubError> {
    // Read before there is a shell: it knows no conditions, and what follows
    // is `normal`, which reads grub.cfg from the prefix.
    let early = work.join("early.cfg");
    let text =
        format!("search.fs_uuid {} root\nset prefix=($root)/boot/grub\n", identities.filesystem);
    fs::write(&early, text).map_err(at("write", &early))?;
    let image = work.join(format!("grub-{platform}"));
    let mut mkimage: Command = tool::command("grub-mkimage", EPOCH);
    mkimage.args(["-O", platform, "-p", "/boot/grub", "-c"]).arg(&early).arg("-o").arg(&image);
    tool::run(mkimage.args(modules).args(MODULES), log)
        .map_err(|source| GrubError::Make { platform, source })?;
    Ok(image)
}

/// `boot.img` with the place of the core image.
fn boot_code(image: &[u8]) -> Result<[u8; BOOT_CODE_BYTES], GrubError> {
    let size = GrubError::Size { what: "boot.img", bytes: image.len() };
    let mut code: [u8; BOOT_CODE_BYTES] =
        image.get(..BOOT_CODE_BYTES).and_then(|code| code.try_into().ok()).ok_or(size)?;
    code[BOOT_KERNEL_SECTOR..][..8].copy_from_slice(&BIOS_START.to_le_bytes());
    code[BOOT_DRIVE_CHECK..][..2].copy_from_slice(&[0x90, 0x90]);
    Ok(code)
}

/// The core image with the place of everything behind its first sector.
fn with_block_list(mut core: Vec<u8>) -> Result<Vec<u8>, GrubError> {
    let size = || GrubError::Size { what: "GRUB's core image", bytes: core.len() };
    let sectors = (core.len() as u64).div_ceil(SECTOR_BYTES);
    if !(2..=BIOS_SECTORS).contains(&sectors) {
        return Err(size());
    }
    let rest = u16::try_from(sectors - 1).map_err(|_| size())?;
    let list = &mut core[CORE_BLOCK_LIST..][..12];
    list[..8].copy_from_slice(&(BIOS_START + 1).to_le_bytes());
    list[8..10].copy_from_slice(&rest.to_le_bytes());
    list[10..].copy_from_slice(&CORE_SEGMENT.to_le_bytes());
    Ok(core)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_code_knows_where_the_core_image_is() {
        let code = boot_code(&[0xff; 512]).unwrap();
        assert_eq!(code[0x5c..0x64], 2048u64.to_le_bytes());
        assert_eq!(code[0x66..0x68], [0x90, 0x90]);
        assert!(boot_code(&[0; 439]).is_err());
    }

    #[test]
    fn the_core_image_knows_where_its_rest_is() {
        let core = with_block_list(vec![0; 1025]).unwrap();
        assert_eq!(core[500..508], 2049u64.to_le_bytes());
        assert_eq!(core[508..512], [2, 0, 0x20, 0x08]);
        assert!(with_block_list(vec![0; 512]).is_err());
        assert!(with_block_list(vec![0; (1 << 20) + 1]).is_err());
        assert!(with_block_list(vec![0; 1 << 20]).is_ok());
    }
}
