//! Who is at the other end of a cable: LLDP frames (IEEE 802.1AB-2016), listened for in
//! the background and never waited for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use store_remote::Timing;
use wire::Neighbour;

use crate::inventory::{flag, links, mac_text, number, short};
use crate::sys;

/// Longest frame: what a card takes at once.
const FRAME_BYTES_MAX: usize = 9216;
/// Wait after a failure to receive: a card that is switched off has one for each try.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the cable is still in, and what was heard still holds.
const LOOK: Duration = Duration::from_secs(1);

const END: u8 = 0;
const CHASSIS: u8 = 1;
const PORT: u8 = 2;
const TIME_TO_LIVE: u8 = 3;
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
        self.lock().get(card).cloned()
    }

    /// Notes what the neighbour at a card told last.
    pub fn note(&self, card: &str, neighbour: Neighbour) {
        self.lock().insert(card.to_owned(), neighbour);
    }

    /// Notes that nobody is known to be at a card.
    pub fn forget(&self, card: &str) {
        self.lock().remove(card);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Neighbour>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one card hears, without socket and clock.
struct Ear {
    card: String,
    heard: Heard,
    /// Until when what was told last holds.
    until: Duration,
    /// How often the carrier had come and gone when it was looked last; none without one.
    carrier: Option<u64>,
}

impl Ear {
    /// Forgets a neighbour who was not heard for as long as it told, or whose cable was out
    /// since.
    fn look(&mut self, carrier: Option<u64>, now: Duration) {
        let same_cable = carrier.is_some() && carrier == self.carrier;
        if now >= self.until || !same_cable {
            self.heard.forget(&self.card);
        }
        self.carrier = carrier;
    }

    /// Takes a frame that came in.
    fn take(&mut self, frame: &[u8], now: Duration) {
        match read(frame) {
            // It says goodbye.
            Some(Told { holds: Duration::ZERO, .. }) => self.heard.forget(&self.card),
            Some(Told { neighbour, holds }) => {
                self.until = now + holds;
                self.heard.note(&self.card, neighbour);
            }
            None => {}
        }
    }
}

/// How often the carrier of a card has come and gone; none where it has none now.
fn carrier(folder: &Path) -> Option<u64> {
    // A kernel that does not count still tells whether there is one.
    let changes = || number(&folder.join("carrier_changes")).unwrap_or(0);
    flag(&folder.join("carrier"))?.then(changes)
}

/// Listens on every card that there is now, each in a thread of its own.
pub fn listen(sys: &Path, timing: &Arc<dyn Timing>) -> Heard {
    let heard = Heard::default();
    for link in links(sys) {
        let folder = sys.join("class/net").join(&link.name);
        let Some(index) = number(&folder.join("ifindex")) else { continue };
        // A kernel without packet sockets has no neighbours.
        let Ok(socket) = sys::lldp_socket(index) else { continue };
        let Ok(()) = SockRef::from(&socket).set_read_timeout(Some(LOOK)) else { continue };
        let mut ear = Ear {
            card: link.name,
            heard: heard.clone(),
            until: Duration::ZERO,
            carrier: carrier(&folder),
        };
        let timing = Arc::clone(timing);
        std::thread::spawn(move || {
            let mut socket = File::from(socket);
            let mut frame = vec![0; FRAME_BYTES_MAX];
            loop {
                let received = socket.read(&mut frame);
                // First: what came in may be the new neighbour's.
                ear.look(carrier(&folder), timing.now());
                match received {
                    Ok(length) => ear.take(&frame[..length], timing.now()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        });
    }
    heard
}

/// What a frame tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Who sent it.
    pub neighbour: Neighbour,
    /// How long that holds unless it is told again; no time at all is a goodbye.
    pub holds: Duration,
}

/// Reads what a frame carries behind its header. None where it is not whole.
pub fn read(mut frame: &[u8]) -> Option<Told> {
    let (mut chassis, mut port, mut system, mut holds) = (None, None, None, None);
    while let Some((kind, value, rest)) = field(frame) {
        frame = rest;
        match kind {
            END => break,
            CHASSIS if chassis.is_none() => {
                chassis = Some(identity(value, CHASSIS_MAC, CHASSIS_ADDRESS)?);
            }
            PORT if port.is_none() => port = Some(identity(value, PORT_MAC, PORT_ADDRESS)?),
            TIME_TO_LIVE if holds.is_none() => {
                let seconds = u16::from_be_bytes(*value.first_chunk()?);
                holds = Some(Duration::from_secs(seconds.into()));
            }
            SYSTEM_NAME => system = system.or_else(|| text(value)),
            _ => {}
        }
    }
    Some(Told { neighbour: Neighbour { chassis: chassis?, port: port?, system }, holds: holds? })
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
            (TIME_TO_LIVE, &[0, 120]),
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
        let holds = Duration::from_secs(120);
        assert_eq!(read(&usual()), Some(Told { neighbour: expected, holds }));
        let addresses = frame(&[
            (CHASSIS, &[5, 1, 10, 0, 0, 1]),
            (PORT, &[4, 2, 0xfe, 0x80]),
            (TIME_TO_LIVE, &[0xff, 0xff]),
        ]);
        let expected =
            Neighbour { chassis: "10.0.0.1".into(), port: "02fe80".into(), system: None };
        let holds = Duration::from_secs(65535);
        assert_eq!(read(&addresses), Some(Told { neighbour: expected, holds }));
    }

    #[test]
    fn what_is_not_whole_is_nobody() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&usual()[..12]), None, "cut within the port");
        let port: (u8, &[u8]) = (PORT, b"\x07y");
        let time: (u8, &[u8]) = (TIME_TO_LIVE, &[0, 9]);
        assert!(read(&frame(&[(CHASSIS, b"\x07x"), port, time])).is_some());
        assert_eq!(read(&frame(&[(CHASSIS, b"\x07x"), time, (END, b""), port])), None);
        assert_eq!(read(&frame(&[(CHASSIS, b""), port, time])), None);
        assert_eq!(read(&frame(&[(CHASSIS, b"\x07 "), port, time])), None);
        assert_eq!(read(&frame(&[(CHASSIS, b"\x07x"), port])), None, "no word how long");
        assert_eq!(read(&frame(&[(CHASSIS, b"\x07x"), port, (TIME_TO_LIVE, &[9])])), None);
    }

    #[test]
    fn what_was_heard_is_there_for_whoever_asks() {
        let heard = Heard::default();
        assert_eq!(heard.at("eth0"), None);
        heard.clone().note("eth0", read(&usual()).unwrap().neighbour);
        assert_eq!(heard.at("eth0").unwrap().port, "Ethernet7/1");
        assert_eq!(heard.at("eth1"), None);
    }

    fn ear() -> Ear {
        let (card, heard) = ("eth0".into(), Heard::default());
        Ear { card, heard, until: Duration::ZERO, carrier: Some(1) }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_neighbour_that_says_goodbye_or_nothing_any_more_is_forgotten() {
        let mut ear = ear();
        let is_there = |ear: &Ear| ear.heard.at("eth0").is_some();
        ear.take(&usual(), secs(5));
        ear.look(Some(1), secs(124));
        assert!(is_there(&ear));
        ear.take(&usual(), secs(124));
        ear.look(Some(1), secs(243));
        assert!(is_there(&ear), "told again, so it holds for longer");
        ear.look(Some(1), secs(244));
        assert!(!is_there(&ear), "not heard for as long as it told");
        ear.take(&usual(), secs(250));
        let goodbye =
            frame(&[(CHASSIS, b"\x07x"), (PORT, b"\x07y"), (TIME_TO_LIVE, &[0, 0]), (END, b"")]);
        ear.take(&goodbye, secs(251));
        assert!(!is_there(&ear));
    }

    #[test]
    fn a_neighbour_is_forgotten_with_the_cable_and_the_next_one_is_heard() {
        let mut ear = ear();
        let is_there = |ear: &Ear| ear.heard.at("eth0").is_some();
        ear.take(&usual(), secs(5));
        ear.look(None, secs(6));
        assert!(!is_there(&ear), "no carrier");
        ear.look(Some(3), secs(7));
        ear.take(&usual(), secs(7));
        ear.look(Some(3), secs(8));
        assert!(is_there(&ear));
        // Out and in again between two looks.
        ear.look(Some(5), secs(9));
        assert!(!is_there(&ear));
    }

    #[test]
    fn a_carrier_is_told_by_how_often_it_came_and_went() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |file: &str, text: &str| std::fs::write(folder.path().join(file), text).unwrap();
        assert_eq!(carrier(folder.path()), None);
        write("carrier", "1\n");
        assert_eq!(carrier(folder.path()), Some(0));
        write("carrier_changes", "7\n");
        assert_eq!(carrier(folder.path()), Some(7));
        write("carrier", "0\n");
        assert_eq!(carrier(folder.path()), None);
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
            if let Some(Told { neighbour, .. }) = read(&frame) {
                prop_assert!(!neighbour.chassis.contains(char::is_control));
                prop_assert!(neighbour.port.len() <= 1024);
            }
        }
    }
}
