//! Clients as bytes, and a server to ask. What clients send is written here
//! without the crate under test, as firmware was seen to send it.
#![allow(missing_docs, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use bootsvc_proto::dhcp::{
    Answer, Change, Config, Lease, Outcome, Packet, Reply, Request, Scope, Server, code,
};
use bootsvc_proto::{Intent, Mac, Offers};
use dhcproto::v4::{Message, OptionCode};
use dhcproto::{Decodable, Decoder};

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const LISTED: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x51]);
pub const LISTED_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 51);
pub const UNMARKED: Mac = Mac([0x52, 0x54, 0, 0, 0, 0x60]);
pub const LEASE_SECS: u64 = 3600;
pub const SCRIPT: &str = "http://192.0.2.1:8080/boot/script.ipxe?mac=";
pub const OF_UUID: &str = "&uuid=0102030405060708090a0b0c0d0e0f10";
pub const LOADER_URL: &str = "http://192.0.2.1:8080/boot/ingot.efi";

pub const DISCOVER: u8 = 1;
pub const REQUEST: u8 = 3;
pub const DECLINE: u8 = 4;
pub const RELEASE: u8 = 7;
pub const INFORM: u8 = 8;

pub fn mac(n: u16) -> Mac {
    let [a, b] = n.to_be_bytes();
    Mac([0x52, 0x54, 0, 1, a, b])
}

pub fn config() -> Config {
    Config {
        server: SERVER,
        scopes: vec![
            Scope {
                subnet: "192.0.2.0/24".parse().unwrap(),
                pool: Some([192, 0, 2, 100].into()..=[192, 0, 2, 109].into()),
                router: Some([192, 0, 2, 254].into()),
                name_servers: vec![[192, 0, 2, 53].into()],
            },
            Scope {
                subnet: "198.51.100.0/24".parse().unwrap(),
                pool: Some([198, 51, 100, 10].into()..=[198, 51, 100, 20].into()),
                router: Some([198, 51, 100, 1].into()),
                name_servers: vec![],
            },
        ],
        machines: BTreeMap::from([(LISTED, LISTED_ADDRESS)]),
        lease: Duration::from_secs(LEASE_SECS),
        offers: Offers {
            http: "http://192.0.2.1:8080/boot".into(),
            loader: "ingot.efi".into(),
            bios_program: Some("undionly.kpxe".into()),
            unmarked: BTreeSet::from([UNMARKED]),
        },
    }
}

/// A client's message under construction.
#[derive(Debug, Clone)]
pub struct Raw {
    pub mac: Mac,
    pub xid: u32,
    pub broadcast: bool,
    pub ciaddr: Ipv4Addr,
    pub giaddr: Ipv4Addr,
    pub options: Vec<(u8, Vec<u8>)>,
}

impl Raw {
    pub fn new(kind: u8, mac: Mac) -> Raw {
        Raw {
            mac,
            xid: 0x1234_5678,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            options: vec![(53, vec![kind])],
        }
    }

    pub fn option(mut self, code: u8, value: impl AsRef<[u8]>) -> Raw {
        self.options.push((code, value.as_ref().to_vec()));
        self
    }

    pub fn wants(self, address: impl Into<Ipv4Addr>) -> Raw {
        self.option(50, address.into().octets())
    }

    pub fn of(self, server: Ipv4Addr) -> Raw {
        self.option(54, server.octets())
    }

    pub fn has(self, address: impl Into<Ipv4Addr>) -> Raw {
        Raw { ciaddr: address.into(), ..self }
    }

    pub fn via(self, relay: impl Into<Ipv4Addr>) -> Raw {
        Raw { giaddr: relay.into(), ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![1, 1, 6, 0];
        out.extend(self.xid.to_be_bytes());
        out.extend([0, 4, u8::from(self.broadcast) << 7, 0]);
        for address in [self.ciaddr, [0, 0, 0, 0].into(), [0, 0, 0, 0].into(), self.giaddr] {
            out.extend(address.octets());
        }
        out.extend(self.mac.0);
        out.resize(236, 0);
        out.extend([99, 130, 83, 99]);
        for (code, value) in &self.options {
            for piece in value.chunks(255) {
                out.extend([*code, u8::try_from(piece.len()).unwrap()]);
                out.extend(piece);
            }
        }
        out.push(255);
        out
    }
}

const UUID: [u8; 17] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn firmware(kind: u8, mac: Mac, arch: u16, class: &str) -> Raw {
    Raw::new(kind, mac)
        .option(60, class)
        .option(93, arch.to_be_bytes())
        .option(94, [1, 3, 0])
        .option(97, UUID)
}

/// iPXE in a card's ROM, or loaded: it keeps the class of the ROM below it.
pub fn ipxe(kind: u8, mac: Mac, arch: u16) -> Raw {
    let id = [&[1], mac.0.as_slice()].concat();
    firmware(kind, mac, arch, &format!("PXEClient:Arch:{arch:05}:UNDI:003010"))
        .option(57, 1472_u16.to_be_bytes())
        .option(77, "iPXE")
        .option(55, [1, 3, 6, 7, 12, 15, 17, 26, 43, 60, 66, 67, 119, 128, 175, 203])
        .option(175, [177, 5, 1, 26, 244, 16, 0, 24, 1, 1, 23, 1, 1, 19, 1, 1, 17, 1, 1])
        .option(61, id)
}

/// OVMF's PXE client.
pub fn uefi_pxe(kind: u8, mac: Mac) -> Raw {
    let mut raw = firmware(kind, mac, 7, "PXEClient:Arch:00007:UNDI:003000")
        .option(57, 65280_u16.to_be_bytes());
    raw.broadcast = true;
    raw
}

/// OVMF's HTTP boot client, with the byte that it never set in its list.
pub fn uefi_http(kind: u8, mac: Mac) -> Raw {
    let mut raw = firmware(kind, mac, 16, "HTTPClient:Arch:00016:UNDI:003000")
        .option(55, [1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 43, 54, 58, 59, 60, 235]);
    raw.broadcast = true;
    raw
}

/// A PXE 2.1 ROM of a BIOS machine.
pub fn bios_pxe(kind: u8, mac: Mac) -> Raw {
    firmware(kind, mac, 0, "PXEClient:Arch:00000:UNDI:002001").option(57, 1260_u16.to_be_bytes())
}

/// The DHCP client of an operating system.
pub fn udhcpc(kind: u8, mac: Mac) -> Raw {
    let id = [&[1], mac.0.as_slice()].concat();
    Raw::new(kind, mac).option(61, id).option(57, 576_u16.to_be_bytes()).option(60, "udhcp 1.35.0")
}

/// A server with a clock.
pub struct Lan {
    pub server: Server,
    pub now: Duration,
}

impl Lan {
    pub fn new() -> Lan {
        Lan::with(config())
    }

    pub fn with(config: Config) -> Lan {
        let (server, changes) = Server::new(config, []).unwrap();
        assert_eq!(changes, []);
        Lan { server, now: Duration::from_secs(1_800_000_000) }
    }

    pub fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    pub fn ask(&mut self, raw: &Raw, intent: Intent) -> Answer {
        let request = Request::decode(&raw.bytes()).unwrap().unwrap();
        self.server.handle(self.now, &request, intent)
    }

    /// The reply to a request that must have one.
    pub fn reply(&mut self, raw: &Raw, intent: Intent) -> Reply {
        match self.ask(raw, intent).outcome {
            Outcome::Reply(reply) => reply,
            other => panic!("no reply but {other:?}"),
        }
    }

    /// Discover, offer, request, ack: the address and what was to be recorded.
    pub fn dora(&mut self, client: impl Fn(u8) -> Raw) -> (Ipv4Addr, Vec<Change>) {
        let offer = self.reply(&client(DISCOVER), Intent::Loader);
        let address = offer.address.unwrap();
        let request = client(REQUEST).wants(address).of(SERVER);
        let answer = self.ask(&request, Intent::Loader);
        let Outcome::Reply(ack) = answer.outcome else { panic!("{answer:?}") };
        assert_eq!(Seen::of(&ack).kind, 5);
        assert_eq!(ack.address, Some(address));
        (address, answer.changes)
    }

    pub fn leases(&self) -> Vec<Lease> {
        self.server.leases().collect()
    }
}

/// A reply as two readers see it: ours, and an independent one.
pub struct Seen {
    pub kind: u8,
    pub packet: Packet,
    pub message: Message,
}

impl Seen {
    pub fn of(reply: &Reply) -> Seen {
        let packet = Packet::decode(&reply.bytes).unwrap();
        let message = Message::decode(&mut Decoder::new(&reply.bytes)).unwrap();
        let kind = packet.options.byte(code::MESSAGE_TYPE).unwrap();
        assert_eq!(message.opts().len(), packet.options.iter().count(), "all options readable");
        Seen { kind, packet, message }
    }

    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.packet.options.get(code)
    }

    pub fn has(&self, code: u8) -> bool {
        self.message.opts().contains(OptionCode::from(code))
    }

    /// The boot file, which must stand in both places.
    pub fn file(&self) -> Option<String> {
        let file = String::from_utf8(self.packet.file.clone()).unwrap();
        let option = self.option(code::BOOT_FILE).map(|v| String::from_utf8(v.to_vec()).unwrap());
        assert_eq!(option.clone().unwrap_or_default(), file, "option 67 and file");
        option
    }
}
