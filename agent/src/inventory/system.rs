//! Manufacturer, processor, memory, firmware and security chip.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wire::{Cpu, Firmware, FirmwareKind, Inventory, Memory, System, Tpm};

use super::{Notes, Roots, names, short, smbios, told, told_inscribed};

/// SMBIOS types 1 to 3, as far as the kernel shows them in files.
pub(super) fn system(sys: &Path, notes: &mut Notes) -> System {
    let id = sys.join("class/dmi/id");
    let mut dmi = |fact: &str, name: &str| {
        notes.take(&format!("system.{fact}"), told_inscribed(&id.join(name)))
    };
    System {
        manufacturer: dmi("manufacturer", "sys_vendor"),
        product: dmi("product", "product_name"),
        family: dmi("family", "product_family"),
        sku: dmi("sku", "product_sku"),
        serial: dmi("serial", "product_serial"),
        uuid: dmi("uuid", "product_uuid").map(|uuid| uuid.to_ascii_lowercase()),
        board_product: dmi("board-product", "board_name"),
        board_serial: dmi("board-serial", "board_serial"),
        chassis_serial: dmi("chassis-serial", "chassis_serial"),
        asset_tag: dmi("asset-tag", "chassis_asset_tag"),
        ..System::default()
    }
}

/// What is only in the tables themselves.
pub(super) fn add_smbios(sys: &Path, inventory: &mut Inventory, notes: &mut Notes) {
    let path = sys.join("firmware/dmi/tables/DMI");
    let mut bytes = Vec::new();
    let read = File::open(&path)
        .and_then(|file| file.take(smbios::BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| format!("reading {} failed: {error}", path.display()));
    let smbios::Smbios { chassis_kind, enclosure_serial, slot, fitted_bytes } =
        smbios::read(&bytes);
    let why = |silent: &str| read.as_ref().err().cloned().unwrap_or_else(|| silent.to_owned());
    let system = &mut inventory.system;
    let kind = chassis_kind.map(str::to_owned).ok_or_else(|| why("its chassis is of no kind"));
    system.chassis_kind = notes.take("system.chassis-kind", kind);
    let slot = slot.ok_or_else(|| why("its main board does not tell its place in the chassis"));
    system.slot = notes.take("system.slot", slot);
    let enclosure = enclosure_serial.ok_or_else(|| why("it does not tell of an enclosure"));
    system.enclosure_serial = notes.take("system.enclosure-serial", enclosure);
    let fitted = fitted_bytes.ok_or_else(|| why("no memory module tells its size"));
    inventory.memory.fitted_bytes = notes.take("memory.fitted", fitted);
}

/// What `/proc/cpuinfo` says of the first processor, and how many there are. Of very many that
/// file would be too long to count them in.
pub(super) fn cpu(Roots { sys, proc, .. }: &Roots, notes: &mut Notes) -> Cpu {
    let path = proc.join("cpuinfo");
    let info = told(&path);
    let lines = info.as_deref().unwrap_or_default();
    let fields = || lines.lines().filter_map(|line| line.split_once(':'));
    let absent = |name: &str| match &info {
        Ok(_) => format!("{} does not have {name:?}", path.display()),
        Err(why) => why.clone(),
    };
    let first = |name: &str| {
        let value = fields().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
        value.filter(|value| !value.is_empty()).ok_or_else(|| absent(name))
    };
    let number = |name: &str| first(name)?.parse::<u64>().map_err(|_| absent(name));
    let online = sys.join("devices/system/cpu/online");
    let no_list = || format!("{} is no list of processors", online.display());
    let count = told(&online).and_then(|list| listed(&list).ok_or_else(no_list));
    // The second name is that of ARM.
    let flags = first("flags").or_else(|_| first("Features")).map_err(|_| absent("flags"));
    let flags = flags.map(|flags| flags.split_whitespace().take(Inventory::FLAGS_MAX).map(short));
    Cpu {
        vendor: notes.take("cpu.vendor", first("vendor_id").map(short)),
        model: notes.take("cpu.model", first("model name").map(short)),
        family: notes.take("cpu.family", number("cpu family")),
        model_number: notes.take("cpu.model-number", number("model")),
        stepping: notes.take("cpu.stepping", number("stepping")),
        count: notes.take("cpu.count", count),
        arch: Some(std::env::consts::ARCH.to_owned()),
        flags: notes.take("cpu.flags", flags).map_or_else(Vec::new, Iterator::collect),
    }
}

/// How many a list such as `0-3,8` names.
fn listed(list: &str) -> Option<u32> {
    list.split(',').try_fold(0u32, |count, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Hypervisors tell the processors of their guests; where processors have no word for it
/// nothing is said.
pub fn is_virtual(cpu: &Cpu) -> Result<bool, String> {
    let told = cpu.arch.as_deref() == Some("x86_64") && !cpu.flags.is_empty();
    told.then(|| cpu.flags.iter().any(|flag| flag == "hypervisor"))
        .ok_or_else(|| "its processor does not tell".to_owned())
}

/// `MemTotal` of `/proc/meminfo`. What is fitted is in the SMBIOS tables.
pub(super) fn memory(proc: &Path, notes: &mut Notes) -> Memory {
    let path = proc.join("meminfo");
    let total = |info: String| {
        let value = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    let absent = || format!("{} has no MemTotal in kB", path.display());
    let usable = told(&path).and_then(|info| total(info).ok_or_else(absent));
    Memory { usable_bytes: notes.take("memory.usable", usable), fitted_bytes: None }
}

/// How the machine was booted, and by what.
pub(super) fn firmware(sys: &Path, notes: &mut Notes) -> Firmware {
    let efi = sys.join("firmware/efi");
    let kind = if efi.exists() { FirmwareKind::Uefi } else { FirmwareKind::Bios };
    let mut dmi = |fact: &str, name: &str| {
        notes.take(fact, told_inscribed(&sys.join("class/dmi/id").join(name)))
    };
    let (vendor, version) =
        (dmi("firmware.vendor", "bios_vendor"), dmi("firmware.version", "bios_version"));
    let secure = secure_boot(&efi).ok_or_else(|| match kind {
        FirmwareKind::Bios => "a BIOS has no Secure Boot".to_owned(),
        _ => "the firmware does not have the variable SecureBoot".to_owned(),
    });
    Firmware {
        kind: Some(kind),
        vendor,
        version,
        secure_boot: notes.take("firmware.secure-boot", secure),
    }
}

/// The first security chip. Where the kernel knows none at all, it may lack the driver.
pub(super) fn tpm(sys: &Path, notes: &mut Notes) -> Tpm {
    let class = sys.join("class/tpm");
    if !class.exists() {
        let why = format!(
            "this kernel has no driver for security chips: {} is not there",
            class.display()
        );
        notes.add("tpm.present", why.clone());
        notes.add("tpm.version", why);
        return Tpm::default();
    }
    let Some(chip) = names(&class).into_iter().next() else {
        notes.add("tpm.version", "there is no security chip".to_owned());
        return Tpm { present: Some(false), version: None };
    };
    let path = class.join(chip).join("tpm_version_major");
    let version = told(&path).map(|major| match major.as_str() {
        "1" => "1.2".to_owned(),
        major => format!("{}.0", short(major)),
    });
    Tpm { present: Some(true), version: notes.take("tpm.version", version) }
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

        let tables = sys.path().join("firmware/dmi/tables");
        fs::create_dir_all(&tables).unwrap();
        fs::write(tables.join("DMI"), b"\x02\x0b\0\0\0\0\0\0\0\0\x01Bay 3\0\0").unwrap();
        fs::create_dir_all(sys.path().join("class/tpm/tpm0")).unwrap();
        fs::write(sys.path().join("class/tpm/tpm0/tpm_version_major"), "2\n").unwrap();

        let mut notes = Notes::default();
        let mut inventory = Inventory::default();
        add_smbios(sys.path(), &mut inventory, &mut notes);
        assert_eq!(inventory.system.slot.as_deref(), Some("Bay 3"));
        assert_eq!(notes.0["memory.fitted"], "no memory module tells its size");
        let expected = Tpm { present: Some(true), version: Some("2.0".into()) };
        assert_eq!(tpm(sys.path(), &mut notes), expected);
        let system = system(sys.path(), &mut notes);
        assert_eq!(system.manufacturer.as_deref(), Some("Dell Inc."));
        assert_eq!(system.uuid.as_deref(), Some("4c4c4544-0031-3510-8052-b4c04f4a3232"));
        assert_eq!((system.serial, system.asset_tag), (None, None));
        assert_eq!(notes.0["system.serial"], "its maker left \"To be filled by O.E.M.\" there");
        assert!(notes.0["system.asset-tag"].ends_with("chassis_asset_tag is empty"));
        assert!(!notes.0.contains_key("system.product"));
        let firmware = firmware(sys.path(), &mut notes);
        assert_eq!(firmware.kind, Some(FirmwareKind::Uefi));
        assert_eq!(firmware.secure_boot, Some(true));
    }

    #[test]
    fn counts_processors_and_memory() {
        let root = tempfile::tempdir().unwrap();
        let (sys, proc) = (root.path().join("sys"), root.path().join("proc"));
        let online = sys.join("devices/system/cpu/online");
        fs::create_dir_all(online.parent().unwrap()).unwrap();
        fs::create_dir(&proc).unwrap();
        let roots = Roots { sys, proc: proc.clone(), dev: root.path().join("dev") };
        // What the kernel shows of one of very many is cut after the first.
        let info = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n\
                    model name\t: Xeon: fast\nstepping\t: 7\nflags\t\t: fpu avx2 hypervisor\n\n";
        fs::write(proc.join("cpuinfo"), info).unwrap();
        fs::write(&online, "0-1021,1024,1026-1027\n").unwrap();
        fs::write(proc.join("meminfo"), "MemTotal:        2014932 kB\nMemFree: 1 kB\n").unwrap();
        let mut notes = Notes::default();
        let read = cpu;
        let cpu = read(&roots, &mut notes);
        assert_eq!(cpu.count, Some(1025));
        assert_eq!(cpu.model.as_deref(), Some("Xeon: fast"));
        assert_eq!((cpu.family, cpu.model_number, cpu.stepping), (Some(6), Some(85), Some(7)));
        assert_eq!(cpu.flags, ["fpu", "avx2", "hypervisor"]);
        assert_eq!(is_virtual(&Cpu { arch: Some("x86_64".into()), ..cpu.clone() }), Ok(true));
        assert!(is_virtual(&Cpu { flags: vec![], ..cpu }).is_err());
        assert_eq!(memory(&proc, &mut notes).usable_bytes, Some(2_014_932 * 1024));
        assert!(notes.0.is_empty(), "{notes:?}");
        fs::write(proc.join("meminfo"), "MemTotal: lots\n").unwrap();
        assert_eq!(memory(&proc, &mut notes).usable_bytes, None);
        assert!(notes.0["memory.usable"].ends_with("meminfo has no MemTotal in kB"));
        for nonsense in ["0-", "3-1", "x", "0,,1", "0-4294967295", "-1"] {
            fs::write(&online, nonsense).unwrap();
            assert_eq!(read(&roots, &mut notes).count, None, "{nonsense}");
            assert!(notes.0["cpu.count"].ends_with("online is no list of processors"));
        }
    }
}
