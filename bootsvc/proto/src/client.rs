//! Who asks: what a DHCP request tells about the program that sent it.

use std::fmt;

use crate::Mac;
use crate::dhcp::Options;
use crate::dhcp::code;

/// The sender of a request, as far as the boot decision goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The network card that asked.
    pub mac: Mac,
    /// SMBIOS UUID (option 97) as it stood on the wire; some firmware sends none.
    pub uuid: Option<[u8; 16]>,
    /// Architectures it says that it runs (option 93, RFC 4578), at most
    /// [`Client::ARCHS_MAX`]; empty where it says none.
    pub archs: Vec<u16>,
    /// What kind of program it is.
    pub program: Program,
}

/// What kind of program sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Program {
    /// iPXE, in a card's ROM or loaded by us: takes a script by HTTP.
    Ipxe,
    /// PXE firmware: takes a program by TFTP.
    Pxe,
    /// UEFI HTTP boot: takes a program by HTTP.
    Http,
    /// No boot program, such as the DHCP client of an operating system.
    Plain,
}

/// What the machine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Platform {
    /// x86 with a PC BIOS.
    Bios,
    /// x86-64 with UEFI.
    UefiX64,
    /// Something that there is no loader for, by its number in RFC 4578.
    Other(u16),
    /// It did not say.
    Unknown,
}

impl Client {
    /// Most architectures kept from one request.
    pub const ARCHS_MAX: usize = 16;

    /// What `options` tell of the sender with the hardware address `mac`.
    pub fn from_options(mac: Mac, options: &Options) -> Client {
        let archs = options.get(code::ARCHITECTURE).unwrap_or_default();
        let archs = archs.chunks_exact(2).take(Client::ARCHS_MAX);
        Client {
            mac,
            uuid: uuid(options),
            archs: archs.map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect(),
            program: program(options),
        }
    }

    /// The first of its architectures that a loader exists for.
    pub fn platform(&self) -> Platform {
        let platforms = || self.archs.iter().map(|arch| Platform::from_arch(*arch));
        let known = platforms().find(|p| !matches!(p, Platform::Other(_)));
        known.or_else(|| platforms().next()).unwrap_or(Platform::Unknown)
    }
}

impl Platform {
    /// Numbers by IANA "Processor Architecture Types". 7 and 9 both mean
    /// x86-64 UEFI: an erratum of RFC 4578 swapped them, and firmware uses both.
    pub fn from_arch(arch: u16) -> Platform {
        match arch {
            0 | 20 => Platform::Bios,
            7 | 9 | 16 => Platform::UefiX64,
            other => Platform::Other(other),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Program::Ipxe => "ipxe",
            Program::Pxe => "pxe",
            Program::Http => "http-boot",
            Program::Plain => "dhcp",
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Platform::Bios => f.write_str("bios"),
            Platform::UefiX64 => f.write_str("uefi-x64"),
            Platform::Other(arch) => write!(f, "arch-{arch}"),
            Platform::Unknown => f.write_str("unknown"),
        }
    }
}

fn uuid(options: &Options) -> Option<[u8; 16]> {
    match options.get(code::CLIENT_UUID)? {
        [0, uuid @ ..] => uuid.try_into().ok(),
        _ => None,
    }
}

/// iPXE goes first: its class says `PXEClient` like that of the ROM below it.
fn program(options: &Options) -> Program {
    let class = options.get(code::CLASS).unwrap_or_default();
    if is_ipxe(options) {
        Program::Ipxe
    } else if class.starts_with(b"HTTPClient") {
        Program::Http
    } else if class.starts_with(b"PXEClient") {
        Program::Pxe
    } else {
        Program::Plain
    }
}

/// iPXE sends its user class raw, without the length bytes of RFC 3004, and
/// its feature list in option 175; others follow the RFC.
fn is_ipxe(options: &Options) -> bool {
    let user_class = options.get(code::USER_CLASS).unwrap_or_default();
    user_class == b"iPXE"
        || classes(user_class).any(|class| class == b"iPXE")
        || options.get(code::IPXE).is_some_and(|features| !features.is_empty())
}

/// The user classes of RFC 3004: each a length byte and that many bytes.
fn classes(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = bytes.split_first()?;
        let (class, rest) = rest.split_at_checked(usize::from(*len))?;
        bytes = rest;
        Some(class)
    })
}
