//! What a host needs to build.

use std::path::Path;

use crate::recipe::{Firmware, Recipe};

/// Something that a build needs and this host does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// A program, a file, or a permission.
    pub what: &'static str,
    /// What to do about it: the Debian package that has it, or other advice.
    pub package: Option<&'static str>,
}

/// Programs and the Debian packages that have them.
const TOOLS: [(&str, &str); 16] = [
    ("apt-config", "apt"),
    ("apt-get", "apt"),
    ("bwrap", "bubblewrap"),
    ("debugfs", "e2fsprogs"),
    ("dumpe2fs", "e2fsprogs"),
    ("fatlabel", "dosfstools"),
    ("grub-mkimage", "grub-common"),
    ("mcopy", "mtools"),
    ("mkfs.vfat", "dosfstools"),
    ("mke2fs", "e2fsprogs"),
    ("mmd", "mtools"),
    ("mmdebstrap", "mmdebstrap"),
    ("sh", "dash"),
    ("tar", "tar"),
    ("tune2fs", "e2fsprogs"),
    ("unshare", "util-linux"),
];

/// Files and the Debian packages that have them.
const FILES: [(&str, &str); 3] = [
    ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("/usr/lib/grub/x86_64-efi/normal.mod", "grub-efi-amd64-bin"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
];

/// Where programs are looked up, as when a build runs them.
const PATH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Everything that the build of `recipe` lacks on this host; nothing when it can start.
pub fn preflight(recipe: &Recipe) -> Vec<Missing> {
    let mut tools = TOOLS.to_vec();
    let mut files = FILES.to_vec();
    if !recipe.check.boot.is_empty() {
        tools.push(("qemu-system-x86_64", "qemu-system-x86"));
    }
    if recipe.check.boot.contains(&Firmware::Uefi) {
        files.push(("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"));
    }
    let has_tool = |tool: &str| PATH.iter().any(|folder| Path::new(folder).join(tool).exists());
    let tools = tools.into_iter().filter(|(tool, _)| !has_tool(tool));
    let files = files.into_iter().filter(|(file, _)| !Path::new(file).exists());
    let mut missing: Vec<Missing> = tools
        .chain(files)
        .map(|(what, package)| Missing { what, package: Some(package) })
        .collect();
    if !is_root() {
        missing.push(Missing { what: "root's permissions", package: None });
    }
    missing
}

/// Owning files as anybody and mapping ids into a user namespace are root's alone.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// As a sentence: what is missing and how to get it.
pub(crate) fn sentence(missing: &[Missing]) -> String {
    let names: Vec<&str> = missing.iter().map(|missing| missing.what).collect();
    let mut packages: Vec<&str> = missing.iter().filter_map(|missing| missing.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let mut text = format!("this host lacks {}", names.join(", "));
    if !packages.is_empty() {
        text.push_str(&format!("; install with: apt-get install {}", packages.join(" ")));
    }
    if missing.iter().any(|missing| missing.package.is_none()) {
        text.push_str("; run it as root");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_thing_is_named_and_each_package_once() {
        let missing = [
            Missing { what: "mmd", package: Some("mtools") },
            Missing { what: "mcopy", package: Some("mtools") },
            Missing { what: "bwrap", package: Some("bubblewrap") },
            Missing { what: "root's permissions", package: None },
        ];
        assert_eq!(
            sentence(&missing),
            "this host lacks mmd, mcopy, bwrap, root's permissions; install with: apt-get install \
             bubblewrap mtools; run it as root"
        );
    }
}
