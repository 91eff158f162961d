//! What iPXE is told.
//!
//! Kernel and initramfs are named apart, on BIOS and on UEFI: a chained UKI
//! would lose its own command line when Secure Boot is off.

use crate::Mac;

/// Boots the loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loader<'a> {
    /// Base URL of the boot files, without a final slash.
    pub http: &'a str,
    /// URL that the agent shall report to; a hint, the agent's own
    /// configuration goes first.
    pub server: &'a str,
    /// The kernel's command line, without the two hints added here.
    pub arguments: &'a str,
    /// The card that it booted from.
    pub mac: Mac,
}

impl Loader<'_> {
    /// The script. Line ends in any of the fields become spaces, so that none
    /// of them can add a command.
    pub fn text(&self) -> String {
        let Loader { http, server, arguments, mac } = self;
        let line = |text: String| text.replace(char::is_control, " ");
        // An EFI kernel that knows no LoadFile2 finds its initramfs by `initrd=`.
        let kernel = line(format!(
            "kernel {http}/vmlinuz initrd=initramfs.img {arguments} \
             ingot.server={server} BOOTIF={}",
            mac.bootif()
        ));
        let initrd = line(format!("initrd {http}/initramfs.img"));
        format!("#!ipxe\necho ingot: loader for {mac}\n{kernel}\n{initrd}\nboot\n")
    }
}

/// Goes on to the next boot device. UEFI stops at its menu where a boot option
/// reports success, so there it reports failure.
pub fn disk(mac: Mac) -> String {
    format!(
        "#!ipxe\necho ingot: {mac} starts from its disk\n\
         iseq ${{platform}} efi && goto efi ||\nexit 0\n:efi\nexit 1\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

    fn loader(arguments: &str) -> String {
        let http = "http://192.0.2.1:8080/boot";
        Loader { http, server: "http://192.0.2.1:8080", arguments, mac: MAC }.text()
    }

    #[test]
    fn names_kernel_initramfs_card_and_server() {
        let text = loader("console=ttyS0");
        assert!(text.starts_with("#!ipxe\n"), "{text}");
        assert!(text.contains(
            "\nkernel http://192.0.2.1:8080/boot/vmlinuz initrd=initramfs.img console=ttyS0 \
             ingot.server=http://192.0.2.1:8080 BOOTIF=01-52-54-00-00-00-01\n"
        ));
        assert!(text.ends_with("\ninitrd http://192.0.2.1:8080/boot/initramfs.img\nboot\n"));
    }

    #[test]
    fn a_line_end_in_the_arguments_adds_no_command() {
        let text = loader("quiet\nshell");
        assert!(!text.lines().any(|line| line.starts_with("shell")), "{text}");
    }

    #[test]
    fn the_way_to_the_disk_reports_failure_to_uefi_only() {
        assert!(disk(MAC).ends_with("exit 0\n:efi\nexit 1\n"));
    }
}
