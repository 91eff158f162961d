//! The drivers that the loader carries: what servers, desktops and common virtual machines
//! need to reach their network and their disks, and nothing else.
//!
//! Left out: filesystems but those on which images are made (what it starts the agent reads
//! itself), Fibre Channel, InfiniBand, and cards that do nothing without firmware files that
//! Debian keeps in `non-free-firmware` (`bnx2`, `bnx2x`, `qed`). A kernel that lacks some of
//! them is fine.

/// Buses, controllers and what the agent itself uses.
const PLATFORM: &[&str] = &[
    "efivarfs",
    "virtio_pci",
    "virtio_mmio",
    "virtio_rng",
    "hv_vmbus",
    "vmd",
    "xhci_pci",
    "ehci_pci",
    "ohci_pci",
    "uhci_hcd",
    "usbhid",
    "hid_generic",
    "hyperv_keyboard",
];

/// Checksums that storage drivers ask the kernel for by name.
const CRYPTO: &[&str] = &["crc32c_generic", "crct10dif_generic", "crc64_rocksoft_generic"];

/// Disks and their controllers.
const STORAGE: &[&str] = &[
    "virtio_blk",
    "virtio_scsi",
    "nvme",
    "sd_mod",
    "ahci",
    "ata_piix",
    "ata_generic",
    "sata_mv",
    "sata_nv",
    "sata_sil24",
    "megaraid_sas",
    "mpt3sas",
    "mpi3mr",
    "mptsas",
    "mptspi",
    "smartpqi",
    "hpsa",
    "aacraid",
    "isci",
    "mvsas",
    "sym53c8xx",
    "hv_storvsc",
    "vmw_pvscsi",
    "xen_blkfront",
    "xen_scsifront",
    "usb_storage",
    "uas",
    "mmc_block",
    "sdhci_pci",
    "sdhci_acpi",
];

/// Network cards.
const NETWORK: &[&str] = &[
    // virtual machines and clouds
    "virtio_net",
    "vmxnet3",
    "hv_netvsc",
    "xen_netfront",
    "ena",
    "gve",
    "mana",
    "idpf",
    // 1 Gbit/s and 2.5 Gbit/s
    "e1000",
    "e1000e",
    "igb",
    "igbvf",
    "igc",
    "tg3",
    "r8169",
    "realtek",
    "8139cp",
    "8139too",
    "forcedeth",
    "sky2",
    "skge",
    "alx",
    "atl1c",
    "pcnet32",
    "ne2k_pci",
    "jme",
    "dwmac_intel",
    // 10 Gbit/s and more
    "atlantic",
    "ixgbe",
    "ixgbevf",
    "i40e",
    "iavf",
    "ice",
    "bnxt_en",
    "mlx4_core",
    "mlx4_en",
    "mlx5_core",
    "be2net",
    "enic",
    "cxgb4",
    "sfc",
    "ionic",
    "amd_xgbe",
    // on USB
    "r8152",
    "ax88179_178a",
    "asix",
    "cdc_ether",
    "cdc_ncm",
    "smsc95xx",
    "lan78xx",
];

/// What the images have on which the agent runs scripts; the FAT of an EFI system partition
/// needs the code pages that kernels mount it with by default.
const FILESYSTEMS: &[&str] =
    &["ext4", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"];

/// The names of all of them.
pub(crate) fn modules() -> impl Iterator<Item = &'static str> {
    [PLATFORM, CRYPTO, STORAGE, NETWORK, FILESYSTEMS].into_iter().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_kernels_and_unique() {
        let mut names: Vec<_> = modules().collect();
        assert!(names.iter().all(|name| !name.contains('-')));
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
