//! What is on the PCI bus and on USB, as sysfs has it.

use std::path::Path;

use wire::{Device, Inventory};

use super::{Notes, link_name, names, short, text};

/// The devices of a bus that say what they are; USB says it for each function of a device.
pub(super) fn devices(sys: &Path, bus: &str, notes: &mut Notes) -> Vec<Device> {
    let folder = sys.join("bus").join(bus).join("devices");
    let device = |place: String| {
        let folder = folder.join(&place);
        let modalias = short(&text(&folder.join("modalias"))?);
        Some(Device { place, modalias, driver: link_name(&folder.join("driver")) })
    };
    let mut devices: Vec<_> = names(&folder).into_iter().filter_map(device).collect();
    let (count, max) = (devices.len(), Inventory::DEVICES_MAX);
    let fact = format!("{bus}.modalias");
    if count == 0 {
        notes.add(&fact, format!("{} names no device", folder.display()));
    } else if count > max {
        notes.add(&fact, format!("only {max} of {count} devices are reported"));
        devices.truncate(max);
    }
    devices
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn devices_say_what_they_are_and_too_many_are_said_to_be() {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("bus/usb/devices");
        for (place, modalias) in [("usb1", None), ("1-1:1.0", Some("usb:v0781p5567\n"))] {
            fs::create_dir_all(folder.join(place)).unwrap();
            if let Some(text) = modalias {
                fs::write(folder.join(place).join("modalias"), text).unwrap();
            }
        }
        let driver = sys.path().join("bus/usb/drivers/usb-storage");
        fs::create_dir_all(&driver).unwrap();
        std::os::unix::fs::symlink(driver, folder.join("1-1:1.0/driver")).unwrap();
        let mut notes = Notes::default();
        let expected = Device {
            place: "1-1:1.0".into(),
            modalias: "usb:v0781p5567".into(),
            driver: Some("usb-storage".into()),
        };
        assert_eq!(devices(sys.path(), "usb", &mut notes), [expected]);
        assert!(notes.0.is_empty());

        for n in 0..Inventory::DEVICES_MAX {
            let place = folder.join(format!("2-{n}:1.0"));
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join("modalias"), "usb:v1").unwrap();
        }
        assert_eq!(devices(sys.path(), "usb", &mut notes).len(), Inventory::DEVICES_MAX);
        assert_eq!(notes.0["usb.modalias"], "only 512 of 513 devices are reported");
        assert_eq!(devices(sys.path(), "pci", &mut notes), []);
        assert!(notes.0["pci.modalias"].ends_with("bus/pci/devices names no device"));
    }
}
