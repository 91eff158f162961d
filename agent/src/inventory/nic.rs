//! Network cards, as sysfs has them.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;

use wire::{Inventory, Nic};

use super::{Notes, Reached, flag, link_name, names, number, text};
use crate::sys;

/// A network card as the network set-up needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Kernel name.
    pub name: String,
    /// Hardware address in use.
    pub mac: [u8; 6],
    /// Whether a cable is in and the other side answers.
    pub up: bool,
}

/// Every Ethernet card made of hardware, in the order of kernel names.
pub fn links(sys: &Path) -> Vec<Link> {
    let class = sys.join("class/net");
    let link = |name: String| {
        let folder = class.join(&name);
        // 1 is ARPHRD_ETHER; what has no device below it is made of software.
        let ethernet = number::<u32>(&folder.join("type")) == Some(1);
        let mac = parse_mac(&text(&folder.join("address"))?)?;
        let up = flag(&folder.join("carrier")) == Some(true);
        (ethernet && folder.join("device").exists()).then_some(Link { name, mac, up })
    };
    names(&class).into_iter().filter_map(link).collect()
}

/// The cards for the inventory.
pub(super) fn nics(sys: &Path, reached: &Reached, notes: &mut Notes) -> Vec<Nic> {
    let mut not_permanent = Vec::new();
    let nic = |link: Link| {
        let folder = sys.join("class/net").join(&link.name);
        let mac = permanent_mac(&folder, &link).unwrap_or_else(|| {
            not_permanent.push(link.name.clone());
            link.mac
        });
        Nic {
            mac: mac_text(mac),
            driver: link_name(&folder.join("device/driver")),
            bus_id: bus_id(&folder.join("device")),
            link: flag(&folder.join("carrier")),
            // -1 where unknown.
            speed_mbit: number::<u32>(&folder.join("speed")),
            booted: reached.card.as_ref() == Some(&link.name),
            // Without a link nobody is there, whoever was heard.
            neighbour: reached.heard.at(&link.name).filter(|_| link.up),
            name: link.name,
        }
    };
    let nics: Vec<Nic> = links(sys).into_iter().take(Inventory::NICS_MAX).map(nic).collect();
    if !not_permanent.is_empty() {
        let names = not_permanent.join(", ");
        notes.add("nic.mac", format!("the address in use is reported of {names}: its driver does not tell the one it was made with"));
    }
    let mut silent = |fact: &str, told: fn(&Nic) -> bool| {
        notes.silent(fact, nics.iter().map(|nic| (nic.name.as_str(), told(nic))));
    };
    silent("nic.driver", |nic| nic.driver.is_some());
    silent("nic.bus-id", |nic| nic.bus_id.is_some());
    silent("nic.link", |nic| nic.link.is_some());
    silent("nic.speed-mbit", |nic| nic.speed_mbit.is_some());
    silent("lldp.chassis", |nic| nic.neighbour.is_some());
    nics
}

/// `addr_assign_type` 0 says that the address in use is the one the card was made with.
fn permanent_mac(folder: &Path, link: &Link) -> Option<[u8; 6]> {
    if number::<u8>(&folder.join("addr_assign_type")) == Some(0) {
        return Some(link.mac);
    }
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    sys::permanent_mac(socket.as_fd(), &link.name)
}

/// The innermost place on the PCI bus on the way to a device; else its own on its bus.
fn bus_id(device: &Path) -> Option<String> {
    let path = std::fs::canonicalize(device).ok()?;
    let names: Vec<&str> = path.iter().filter_map(|name| name.to_str()).collect();
    let is_pci = |name: &&&str| {
        let shape: String =
            name.chars().map(|c| if c.is_ascii_hexdigit() { 'x' } else { c }).collect();
        shape == "xxxx:xx:xx.x"
    };
    names.iter().rev().find(is_pci).or(names.last()).map(|name| (*name).to_owned())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// Lower case with colons.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_hardware_counts() {
        let sys = tempfile::tempdir().unwrap();
        let class = sys.path().join("class/net");
        for (name, kind, hardware) in
            [("card0", "1", true), ("lo", "772", false), ("br0", "1", false)]
        {
            let folder = class.join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("type"), kind).unwrap();
            fs::write(folder.join("address"), "52:54:00:AB:cd:01\n").unwrap();
            fs::write(folder.join("addr_assign_type"), "0\n").unwrap();
            if hardware {
                let driver = sys.path().join("bus/virtio/drivers/virtio_net");
                fs::create_dir_all(&driver).unwrap();
                let device = sys.path().join("devices/pci0000:00/0000:00:03.0/virtio0");
                fs::create_dir_all(&device).unwrap();
                std::os::unix::fs::symlink(&device, folder.join("device")).unwrap();
                std::os::unix::fs::symlink(driver, folder.join("device/driver")).unwrap();
                fs::write(folder.join("carrier"), "1\n").unwrap();
                fs::write(folder.join("speed"), "-1\n").unwrap();
            }
        }
        let reached = Reached { card: Some("card0".into()), ..Reached::default() };
        let neighbour = wire::Neighbour { chassis: "sw".into(), ..wire::Neighbour::default() };
        reached.heard.note("card0", neighbour.clone());
        let mut notes = Notes::default();
        let found = nics(sys.path(), &reached, &mut notes);
        assert_eq!(notes.0.keys().collect::<Vec<_>>(), ["nic.speed-mbit"]);
        let expected = Nic {
            name: "card0".into(),
            mac: "52:54:00:ab:cd:01".into(),
            driver: Some("virtio_net".into()),
            bus_id: Some("0000:00:03.0".into()),
            link: Some(true),
            speed_mbit: None,
            booted: true,
            neighbour: Some(neighbour),
        };
        assert_eq!(found, [expected]);
        assert_eq!(links(sys.path())[0].mac, [0x52, 0x54, 0, 0xab, 0xcd, 1]);

        fs::write(class.join("card0/carrier"), "0\n").unwrap();
        assert_eq!(nics(sys.path(), &reached, &mut notes)[0].neighbour, None, "the cable is out");

        // An address that somebody chose is not the card's own.
        fs::write(class.join("card0/addr_assign_type"), "3\n").unwrap();
        nics(sys.path(), &reached, &mut notes);
        assert!(notes.0["nic.mac"].starts_with("the address in use is reported of card0"));
    }
}
