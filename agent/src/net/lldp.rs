//! Who is at the other end of a cable: LLDP frames (IEEE 802.1AB-2016), listened for in
//! the background and never waited for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wire::Neighbour;

use crate::inventory::{links, mac_text, short};
use crate::sys;

/// Longest frame: what a card takes at once.
const FRAME_BYTES_MAX: usize = 9216;
/// Wait after a failure to receive: a card that is switched off has one for each try.
const PAUSE: Duration = Duration::from_secs(1);

const END: u8 = 0;
const CHASSIS: u8 = 1;
const PORT: u8 = 2;
const SYSTEM_NAME: u8 = 5;
/// Subtypes of an identity that is a hardware address: of a chassis, and of a port.
const CHASSIS_MAC: u8 = 4;
const PORT_MAC: u8 = 3;
/// Subtypes of one that is a network address.
const CHASSIS_ADDRESS: u8 = 5;
const PORT_ADDRESS: u8 = 4;

/// What neighbours have told, by the names of the cards.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<Mutex<BTreeMap<String, Neighbour>>>);

impl Heard {
    /// The neighbour at this card, if it has spoken.
    pub fn at(&self, card: &str) -> Option<Neighbour> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(card).cloned()
    }

    /// Notes what the neighbour at a card told last.
    pub fn note(&self, card: &str, neighbour: Neighbour) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.insert(card.to_owned(), neighbour);
    }
}

/// Listens on every card that there is now, each in a thread of its own.
pub fn listen(sys: &Path) -> Heard {
    let heard = Heard::default();
    for link in links(sys) {
        let index = std::fs::read_to_string(sys.join("class/net").join(&link.name).join("ifindex"));
        let Some(index) = index.ok().and_then(|text| text.trim().parse().ok()) else { continue };
        // A kernel without packet sockets has no neighbours.
        let Ok(socket) = sys::lldp_socket(index) else { continue };
        let heard = heard.clone();
        std::thread::spawn(move || {
            let mut socket = File::from(socket);
            let mut frame = vec![0; FRAME_BYTES_MAX];
            loop {
                match socket.read(&mut frame) {
                    Ok(length) => {
                        if let Some(neighbour) = read(&frame[..length]) {
                            heard.note(&link.name, neighbour);
                        }
                    }
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        });
    }
    heard
}

/// Reads what a frame carries behind its header. None where it is not whole.
pub fn read(mut frame: &[u8]) -> Option<Neighbour> {
    let (mut chassis, mut port, mut system) = (None, None, None);
    while let Some((kind, value, rest)) = field(frame) {
        frame = rest;
        match kind {
            END => break,
            CHASSIS if chassis.is_none() => {
                chassis = Some(identity(value, CHASSIS_MAC, CHASSIS_ADDRESS)?);
            }
            PORT if port.is_none() => port = Some(identity(value, PORT_MAC, PORT_ADDRESS)?),
            SYSTEM_NAME => system = system.or_else(|| text(value)),
            _ => {}
        }
    }
    Some(Neighbour { chassis: chassis?, port: port?, system })
}

/// The first field: its kind, its value, and what is behind it.
fn field(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[high, low], rest) = bytes.split_first_chunk()?;
    let length = usize::from(high & 1) << 8 | usize::from(low);
    let (value, rest) = rest.split_at_checked(length)?;
    Some((high >> 1, value, rest))
}

fn identity(value: &[u8], mac: u8, address: u8) -> Option<String> {
    let (&subtype, value) = value.split_first()?;
    match value {
        value if subtype == mac && value.len() == 6 => {
            Some(mac_text(value.try_into().unwrap_or_default()))
        }
        // 1 is the family of IPv4.
        &[1, a, b, c, d] if subtype == address => {
            Some(std::net::Ipv4Addr::new(a, b, c, d).to_string())
        }
        value if subtype == mac || subtype == address => {
            Some(value.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        value => text(value),
    }
}

fn text(value: &[u8]) -> Option<String> {
    let text = short(String::from_utf8_lossy(value).trim_matches(['\0', ' ']));
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in fields {
            let head = u16::from(*kind) << 9 | u16::try_from(value.len()).unwrap();
            bytes.extend(head.to_be_bytes());
            bytes.extend(*value);
        }
        bytes
    }

    fn usual() -> Vec<u8> {
        frame(&[
            (CHASSIS, &[4, 0x00, 0x1c, 0x73, 0xaa, 0xbb, 0xcc]),
            (PORT, b"\x05Ethernet7/1"),
            (3, &[0, 120]),
            (4, b"rack 12, left"),
            (SYSTEM_NAME, b"leaf-12\x1b[2J"),
            (127, &[0, 0x80, 0xc2, 1, 0, 1]),
            (END, b""),
        ])
    }

    #[test]
    fn a_switch_tells_itself_its_port_and_its_name() {
        let expected = Neighbour {
            chassis: "00:1c:73:aa:bb:cc".into(),
            port: "Ethernet7/1".into(),
            system: Some("leaf-12 [2J".into()),
        };
        assert_eq!(read(&usual()), Some(expected));
        let addresses = frame(&[(CHASSIS, &[5, 1, 10, 0, 0, 1]), (PORT, &[4, 2, 0xfe, 0x80])]);
        let expected =
            Neighbour { chassis: "10.0.0.1".into(), port: "02fe80".into(), system: None };
        assert_eq!(read(&addresses), Some(expected));
    }

    #[test]
    fn what_is_not_whole_is_nobody() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&usual()[..12]), None, "cut within the port");
        assert_eq!(read(&frame(&[(CHASSIS, b"\x07x"), (END, b""), (PORT, b"\x07y")])), None);
        assert_eq!(read(&frame(&[(CHASSIS, b""), (PORT, b"\x07y")])), None);
        assert_eq!(read(&frame(&[(CHASSIS, b"\x07 "), (PORT, b"\x07y")])), None);
    }

    #[test]
    fn what_was_heard_is_there_for_whoever_asks() {
        let heard = Heard::default();
        assert_eq!(heard.at("eth0"), None);
        heard.clone().note("eth0", read(&usual()).unwrap());
        assert_eq!(heard.at("eth0").unwrap().port, "Ethernet7/1");
        assert_eq!(heard.at("eth1"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..80,
        ) {
            read(&bytes);
            let mut frame = usual();
            let at = at.min(frame.len());
            frame.splice(at.., bytes);
            if let Some(neighbour) = read(&frame) {
                prop_assert!(!neighbour.chassis.contains(char::is_control));
                prop_assert!(neighbour.port.len() <= 1024);
            }
        }
    }
}
