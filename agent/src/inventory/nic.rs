//! Network cards, as sysfs has them.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::Path;

use wire::Nic;

use super::{flag, names, number, text};
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

/// The cards for the inventory. `booted` names the one that reaches the controller.
pub fn nics(sys: &Path, booted: Option<&str>) -> Vec<Nic> {
    let nic = |link: Link| {
        let folder = sys.join("class/net").join(&link.name);
        let driver = std::fs::read_link(folder.join("device/driver")).ok();
        let name = |path: std::path::PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        Nic {
            mac: mac_text(permanent_mac(&folder, &link)),
            driver: driver.and_then(name),
            link: flag(&folder.join("carrier")),
            // -1 where unknown.
            speed_mbit: number::<u32>(&folder.join("speed")),
            booted: booted == Some(link.name.as_str()),
            name: link.name,
        }
    };
    links(sys).into_iter().map(nic).collect()
}

/// `addr_assign_type` 0 says that the address in use is the one the card was made with.
fn permanent_mac(folder: &Path, link: &Link) -> [u8; 6] {
    if number::<u8>(&folder.join("addr_assign_type")) == Some(0) {
        return link.mac;
    }
    let socket = UdpSocket::bind("0.0.0.0:0").ok();
    socket.and_then(|socket| sys::permanent_mac(socket.as_fd(), &link.name)).unwrap_or(link.mac)
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
            [("eth0", "1", true), ("lo", "772", false), ("br0", "1", false)]
        {
            let folder = class.join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("type"), kind).unwrap();
            fs::write(folder.join("address"), "52:54:00:AB:cd:01\n").unwrap();
            fs::write(folder.join("addr_assign_type"), "0\n").unwrap();
            if hardware {
                let driver = sys.path().join("bus/virtio/drivers/virtio_net");
                fs::create_dir_all(&driver).unwrap();
                fs::create_dir_all(folder.join("device")).unwrap();
                std::os::unix::fs::symlink(driver, folder.join("device/driver")).unwrap();
                fs::write(folder.join("carrier"), "1\n").unwrap();
                fs::write(folder.join("speed"), "-1\n").unwrap();
            }
        }
        let found = nics(sys.path(), Some("eth0"));
        let expected = Nic {
            name: "eth0".into(),
            mac: "52:54:00:ab:cd:01".into(),
            driver: Some("virtio_net".into()),
            link: Some(true),
            speed_mbit: None,
            booted: true,
        };
        assert_eq!(found, [expected]);
        assert_eq!(links(sys.path())[0].mac, [0x52, 0x54, 0, 0xab, 0xcd, 1]);
    }
}
