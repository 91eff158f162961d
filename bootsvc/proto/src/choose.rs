//! The boot decision: which program a client gets, and how the reply says so.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Client, Mac, Platform, Program};

/// What is wanted of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Boot our loader.
    Loader,
    /// Boot from its own disk.
    Disk,
    /// Not ours: answer nothing at all.
    Ignore,
}

/// What there is to boot, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offers {
    /// Base of all HTTP paths without a final slash: `http://192.0.2.1:8080/boot`.
    /// With a literal address: firmware gets no name server from us for it.
    pub http: String,
    /// File name of the UEFI loader, over TFTP and below `http`.
    pub loader: String,
    /// File name over TFTP of the program that BIOS firmware without iPXE
    /// starts and that then is iPXE, such as `undionly.kpxe`.
    pub bios_program: Option<String>,
    /// Machines whose firmware ignores the file name of a reply that carries
    /// options 60 and 43: they get neither.
    pub unmarked: BTreeSet<Mac>,
}

/// Why [`Offers`] cannot be put into a DHCP reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OffersError {
    /// Too long for the `file` field of a reply.
    #[error(
        "boot file {file:?} has {len} bytes, a DHCP reply has room for {FILE_LEN_MAX}: \
         use a shorter host name or path"
    )]
    Long {
        /// The name or URL.
        file: String,
        /// Its length.
        len: usize,
    },
    /// Not printable ASCII.
    #[error("boot file {file:?} has other characters than printable ASCII without spaces")]
    Characters {
        /// The name or URL.
        file: String,
    },
}

/// The `file` field has 128 bytes, and the last must be zero (RFC 2131 §2).
const FILE_LEN_MAX: usize = 127;

impl Offers {
    /// Checks that everything fits into a reply.
    pub fn validate(&self) -> Result<(), OffersError> {
        let urls = [
            self.script_url(Mac([0xff; 6]), Some([0xff; 16])),
            self.loader_url(),
            self.no_file_url(),
        ];
        let names = urls.into_iter().chain([self.loader.clone()]);
        for file in names.chain(self.bios_program.clone()) {
            if !file.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(OffersError::Characters { file });
            }
            if file.len() > FILE_LEN_MAX {
                return Err(OffersError::Long { len: file.len(), file });
            }
        }
        Ok(())
    }

    /// Who asks is in it as DHCP knows it: a card may have been in another machine.
    fn script_url(&self, mac: Mac, uuid: Option<[u8; 16]>) -> String {
        let uuid = uuid.map(|uuid| format!("&uuid={:032x}", u128::from_be_bytes(uuid)));
        format!("{}/script.ipxe?mac={mac}{}", self.http, uuid.unwrap_or_default())
    }

    fn loader_url(&self) -> String {
        format!("{}/{}", self.http, self.loader)
    }

    fn no_file_url(&self) -> String {
        format!("{}/{NO_FILE}", self.http)
    }
}

/// How far along its boot a client is with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// An address only: it asked for nothing else.
    Address,
    /// Nothing that boots, said so that it goes on to its disk soon.
    Disk,
    /// An address only: there is no boot program for this platform.
    Unsupported(Platform),
    /// The program that becomes iPXE.
    BiosProgram,
    /// The script for iPXE.
    Script,
    /// The UEFI loader by TFTP.
    LoaderTftp,
    /// The UEFI loader by HTTP.
    LoaderHttp,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Address => f.write_str("address"),
            Stage::Disk => f.write_str("disk"),
            Stage::Unsupported(platform) => write!(f, "no loader for {platform}"),
            Stage::BiosProgram => f.write_str("bios-program"),
            Stage::Script => f.write_str("script"),
            Stage::LoaderTftp => f.write_str("loader-tftp"),
            Stage::LoaderHttp => f.write_str("loader-http"),
        }
    }
}

/// The boot fields of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// What this is.
    pub stage: Stage,
    /// Boot file: goes into both the `file` field and option 67, and makes
    /// `siaddr` our address.
    pub file: Option<String>,
    /// Option 60.
    pub class: Option<&'static [u8]>,
    /// Option 43.
    pub vendor: Option<&'static [u8]>,
    /// Option 175.
    pub ipxe: Option<&'static [u8]>,
}

/// PXE discovery control (sub-option 6) 8: use the file name, ask nobody else.
/// Without it EDK2 takes class `PXEClient` for BINL and asks port 4011.
const NO_DISCOVERY: &[u8] = &[6, 1, 8, 255];

/// iPXE `no-pxedhcp` (sub-option 176) 1: do not wait for a proxyDHCP offer.
const NO_PXEDHCP: &[u8] = &[176, 1, 1];

/// A file that is never served: asking for it fails at once.
const NO_FILE: &str = "start-from-disk.efi";

/// What `client` gets. With [`Intent::Ignore`] there should be no reply at
/// all; should one be sent nevertheless, it has no boot fields.
pub fn choose(client: &Client, intent: Intent, offers: &Offers) -> Boot {
    match (client.program, intent) {
        (Program::Plain, _) | (_, Intent::Ignore) => Boot::address(Stage::Address),
        // iPXE with nothing to boot waits and complains: its script ends at once.
        (Program::Ipxe, _) => Boot {
            ipxe: Some(NO_PXEDHCP),
            ..Boot::file(Stage::Script, offers.script_url(client.mac, client.uuid))
        },
        (Program::Pxe, Intent::Disk) => pxe_disk(client, offers),
        (Program::Http, Intent::Disk) => http_boot(Stage::Disk, offers.no_file_url()),
        (Program::Pxe, Intent::Loader) => pxe(client, offers),
        (Program::Http, Intent::Loader) => http(client, offers),
    }
}

/// A BIOS goes on to the next boot device at once when no file is named. UEFI
/// repeats its request for a minute first, but not when a file is missing.
fn pxe_disk(client: &Client, offers: &Offers) -> Boot {
    match client.platform() {
        Platform::Bios | Platform::Unknown => Boot::address(Stage::Disk),
        _ => marked(Boot::file(Stage::Disk, NO_FILE.to_owned()), client, offers),
    }
}

fn pxe(client: &Client, offers: &Offers) -> Boot {
    let boot = match (client.platform(), &offers.bios_program) {
        (Platform::UefiX64, _) => Boot::file(Stage::LoaderTftp, offers.loader.clone()),
        // PXE without an architecture is older than UEFI.
        (Platform::Bios | Platform::Unknown, Some(file)) => {
            Boot::file(Stage::BiosProgram, file.clone())
        }
        (platform, _) => return Boot::address(Stage::Unsupported(platform)),
    };
    marked(boot, client, offers)
}

/// With the options that PXE firmware knows its server by.
fn marked(boot: Boot, client: &Client, offers: &Offers) -> Boot {
    if offers.unmarked.contains(&client.mac) {
        return boot;
    }
    Boot { class: Some(b"PXEClient"), vendor: Some(NO_DISCOVERY), ..boot }
}

fn http(client: &Client, offers: &Offers) -> Boot {
    match client.platform() {
        Platform::UefiX64 => http_boot(Stage::LoaderHttp, offers.loader_url()),
        platform => Boot::address(Stage::Unsupported(platform)),
    }
}

/// Without the class the firmware does not take the reply for a boot offer.
fn http_boot(stage: Stage, url: String) -> Boot {
    Boot { class: Some(b"HTTPClient"), ..Boot::file(stage, url) }
}

impl Boot {
    fn address(stage: Stage) -> Boot {
        Boot { stage, file: None, class: None, vendor: None, ipxe: None }
    }

    fn file(stage: Stage, file: String) -> Boot {
        Boot { file: Some(file), ..Boot::address(stage) }
    }
}
