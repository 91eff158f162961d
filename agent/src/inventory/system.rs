//! Manufacturer, processor, memory and firmware.

use std::path::Path;

use wire::{Cpu, Firmware, FirmwareKind, Memory, System};

use super::{inscribed, text};

/// SMBIOS types 1 to 3.
pub fn system(sys: &Path) -> System {
    let dmi = |name: &str| inscribed(&sys.join("class/dmi/id").join(name));
    System {
        manufacturer: dmi("sys_vendor"),
        product: dmi("product_name"),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        board_serial: dmi("board_serial"),
        chassis_serial: dmi("chassis_serial"),
        asset_tag: dmi("chassis_asset_tag"),
    }
}

/// What `/proc/cpuinfo` says of the first processor, and how many there are.
pub fn cpu(proc: &Path) -> Cpu {
    let info = text(&proc.join("cpuinfo")).unwrap_or_default();
    let fields = || info.lines().filter_map(|line| line.split_once(':'));
    let first = |name: &str| {
        let value = fields().find(|(key, _)| key.trim() == name)?.1.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let count = fields().filter(|(key, _)| key.trim() == "processor").count();
    Cpu {
        vendor: first("vendor_id"),
        model: first("model name"),
        count: u32::try_from(count).ok().filter(|&count| count > 0),
        arch: Some(std::env::consts::ARCH.to_owned()),
    }
}

/// `MemTotal` of `/proc/meminfo`.
pub fn memory(proc: &Path) -> Memory {
    let info = text(&proc.join("meminfo")).unwrap_or_default();
    let total = || {
        let value = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Memory { usable_bytes: total() }
}

/// How the machine was booted, and by what.
pub fn firmware(sys: &Path) -> Firmware {
    let efi = sys.join("firmware/efi");
    let kind = if efi.exists() { FirmwareKind::Uefi } else { FirmwareKind::Bios };
    Firmware {
        kind: Some(kind),
        vendor: inscribed(&sys.join("class/dmi/id/bios_vendor")),
        version: inscribed(&sys.join("class/dmi/id/bios_version")),
        secure_boot: secure_boot(&efi),
    }
}

/// UEFI 2.10 section 3.3: four bytes of attributes, then 1 where enforced.
fn secure_boot(efi: &Path) -> Option<bool> {
    let name = "efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    match std::fs::read(efi.join(name)).ok()?.as_slice() {
        [_, _, _, _, enforced] => Some(*enforced == 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn reads_what_a_machine_has_inscribed() {
        let sys = tempfile::tempdir().unwrap();
        let dmi = sys.path().join("class/dmi/id");
        fs::create_dir_all(&dmi).unwrap();
        fs::create_dir_all(sys.path().join("firmware/efi/efivars")).unwrap();
        for (name, value) in [
            ("sys_vendor", "Dell Inc.\n"),
            ("product_name", "PowerEdge R640\n"),
            ("product_serial", "To be filled by O.E.M.\n"),
            ("product_uuid", "4C4C4544-0031-3510-8052-B4C04F4A3232\n"),
            ("bios_vendor", "Dell Inc.\n"),
            ("chassis_asset_tag", "   \n"),
        ] {
            fs::write(dmi.join(name), value).unwrap();
        }
        let variable = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
        fs::write(sys.path().join(variable), [6, 0, 0, 0, 1]).unwrap();

        let system = system(sys.path());
        assert_eq!(system.manufacturer.as_deref(), Some("Dell Inc."));
        assert_eq!(system.uuid.as_deref(), Some("4c4c4544-0031-3510-8052-b4c04f4a3232"));
        assert_eq!((system.serial, system.asset_tag), (None, None));
        let firmware = firmware(sys.path());
        assert_eq!(firmware.kind, Some(FirmwareKind::Uefi));
        assert_eq!(firmware.secure_boot, Some(true));
    }

    #[test]
    fn counts_processors_and_memory() {
        let proc = tempfile::tempdir().unwrap();
        let info = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon: fast\n\n\
                    processor\t: 1\nvendor_id\t: GenuineIntel\n";
        fs::write(proc.path().join("cpuinfo"), info).unwrap();
        fs::write(proc.path().join("meminfo"), "MemTotal:        2014932 kB\nMemFree: 1 kB\n")
            .unwrap();
        let cpu = cpu(proc.path());
        assert_eq!(cpu.count, Some(2));
        assert_eq!(cpu.model.as_deref(), Some("Xeon: fast"));
        assert_eq!(memory(proc.path()).usable_bytes, Some(2_014_932 * 1024));
    }
}
