//! What an image is, apart from its bytes (`docs/envelope.md`).
//!
//! Canonical JSON: the fields in the order of these types, maps sorted, no
//! white space. The image's digest is the BLAKE3 of exactly these bytes; it
//! covers every byte of the disk by the regions' digests, and nothing of how
//! those bytes are cut, compressed or placed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wire::Digest;

use crate::geometry;

/// The format this code writes and reads.
pub const FORMAT: &str = "ingot.image/1";
const FORMAT_FAMILY: &str = "ingot.image/";

/// Most bytes of an envelope.
pub const BYTES_MAX: usize = 1 << 20;
/// Most regions of an image.
pub const REGIONS_MAX: usize = 1024;
/// Most bytes of a disk: 8 EiB less one, what a file offset can say.
pub const DISK_BYTES_MAX: u64 = (1 << 63) - 1;
/// Most entries of `configuration` and of `provenance`.
pub const NOTES_MAX: usize = 1024;
/// Longest key of a note, in bytes.
pub const NOTE_KEY_MAX: usize = 128;
/// Longest path of a kernel or initrd, in bytes.
pub const PATH_MAX: usize = 1024;
/// Longest kernel command line, in bytes: what x86 takes, less its final zero.
pub const CMDLINE_MAX: usize = 2047;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// [`FORMAT`].
    pub format: String,
    /// Bytes of the disk that the image fills.
    pub disk_bytes: u64,
    /// Logical sector size, 512 or 4096.
    pub sector_bytes: u32,
    /// The partition table, where there is one.
    pub table: Option<PartitionTable>,
    /// The whole disk, in order, without gaps.
    pub regions: Vec<Region>,
    /// Number of the partition to extend to the end of a larger disk; the
    /// last one on the disk.
    pub grow: Option<u32>,
    /// How to start the OS without its own boot loader.
    pub boot: Option<BootSpec>,
    /// What the image was built for.
    pub configuration: BTreeMap<String, String>,
    /// Where it comes from.
    pub provenance: BTreeMap<String, String>,
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PartitionTable {
    /// GUID partition table (UEFI specification, section 5.3).
    Gpt {
        /// Identity of the disk.
        disk_guid: String,
        /// By rising number.
        partitions: Vec<GptPartition>,
    },
    /// PC partition table, with the logical partitions in an extended one.
    Mbr {
        /// Identity of the disk: eight lower-case hex digits, as Linux prints them.
        signature: String,
        /// By rising number; extended partitions are listed too.
        partitions: Vec<MbrPartition>,
    },
}

/// A partition of a GPT. GUIDs are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GptPartition {
    /// From 1.
    pub number: u32,
    /// What it is for.
    pub type_guid: String,
    /// Its identity.
    pub guid: String,
    /// At most 36 UTF-16 code units.
    pub name: String,
    /// Attribute bits.
    pub flags: u64,
    /// First sector.
    pub first_lba: u64,
    /// Last sector.
    pub last_lba: u64,
}

/// A partition of a PC partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbrPartition {
    /// 1 to 4, logical ones from 5.
    pub number: u32,
    /// Type byte.
    pub kind: u8,
    /// Whether it is marked active.
    pub active: bool,
    /// First sector.
    pub first_lba: u64,
    /// Sectors.
    pub sectors: u64,
}

impl MbrPartition {
    /// Whether it only holds logical partitions and has no region of its own.
    pub fn is_extended(&self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// A stretch of the disk: a partition, or what is between two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// For people; unique in the image.
    pub name: String,
    /// Offset of its first byte.
    pub start: u64,
    /// Its bytes, at least 1.
    pub bytes: u64,
    /// Number of the partition that it is.
    pub partition: Option<u32>,
    /// Digest of its plain bytes, holes as zeros: [`crate::region::Hasher`].
    pub digest: Digest,
}

/// What to start the OS with; the paths are in the filesystem of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec {
    /// Number of the partition.
    pub partition: u32,
    /// Absolute path of the kernel.
    pub kernel: String,
    /// Absolute path of the initrd.
    pub initrd: Option<String>,
    /// Kernel command line.
    pub cmdline: String,
}

/// Why some bytes, or some values, are not an image's envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// More bytes than accepted.
    #[error("an envelope has {len} bytes, more than the limit of {BYTES_MAX}")]
    TooLong {
        /// How many.
        len: usize,
    },
    /// Not the JSON of an envelope.
    #[error("this is not the envelope of an image")]
    Json(#[source] serde_json::Error),
    /// Another kind of document.
    #[error("this is not the envelope of an image: its format is {found:?}")]
    Format {
        /// What it says it is.
        found: String,
    },
    /// Written by a newer version of the format.
    #[error("the image has format {found:?}, and this program reads {FORMAT:?}: use a newer ingot")]
    Newer {
        /// What it says it is.
        found: String,
    },
    /// The same values have another canonical form, so the digest would be
    /// another one.
    #[error("an envelope is not in canonical form; it was not written by ingot or was changed")]
    NotCanonical,
    /// A value that cannot be.
    #[error("an envelope is wrong at {at}: {why}")]
    Invalid {
        /// Which part.
        at: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Envelope {
    /// Reads an envelope and checks everything in it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Envelope, EnvelopeError> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
        }
        if bytes.len() > BYTES_MAX {
            return Err(EnvelopeError::TooLong { len: bytes.len() });
        }
        // The format first, and alone: another version may have other fields.
        let Head { format } = serde_json::from_slice(bytes).map_err(EnvelopeError::Json)?;
        check_format(format)?;
        let envelope: Envelope = serde_json::from_slice(bytes).map_err(EnvelopeError::Json)?;
        envelope.validate()?;
        match envelope.to_bytes() == bytes {
            true => Ok(envelope),
            false => Err(EnvelopeError::NotCanonical),
        }
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Fails only for maps with keys that are not text and for failing
        // writers, and here is neither.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The image's digest.
    pub fn digest(&self) -> Digest {
        crate::digest_of(&self.to_bytes())
    }

    /// Checks what [`Envelope::from_bytes`] checks, for an envelope that was
    /// just put together.
    pub fn validate(&self) -> Result<(), EnvelopeError> {
        check_format(self.format.clone())?;
        geometry::check(self)?;
        self.check_boot()?;
        check_notes("configuration", &self.configuration)?;
        check_notes("provenance", &self.provenance)?;
        let len = self.to_bytes().len();
        match len <= BYTES_MAX {
            true => Ok(()),
            false => Err(EnvelopeError::TooLong { len }),
        }
    }

    /// The region of a partition.
    pub fn region_of(&self, partition: u32) -> Option<&Region> {
        self.regions.iter().find(|region| region.partition == Some(partition))
    }

    fn check_boot(&self) -> Result<(), EnvelopeError> {
        let Some(boot) = &self.boot else { return Ok(()) };
        if self.region_of(boot.partition).is_none() {
            return invalid("boot.partition", "the image has no such partition");
        }
        check_path("boot.kernel", &boot.kernel)?;
        if let Some(initrd) = &boot.initrd {
            check_path("boot.initrd", initrd)?;
        }
        if boot.cmdline.len() > CMDLINE_MAX || boot.cmdline.chars().any(char::is_control) {
            return invalid("boot.cmdline", "too long, or has control characters");
        }
        Ok(())
    }
}

fn check_format(format: String) -> Result<(), EnvelopeError> {
    let version = format.strip_prefix(FORMAT_FAMILY).and_then(|text| text.parse::<u32>().ok());
    match version {
        Some(1) if format == FORMAT => Ok(()),
        Some(version) if version > 1 => Err(EnvelopeError::Newer { found: format }),
        _ => Err(EnvelopeError::Format { found: format }),
    }
}

fn check_path(at: &str, path: &str) -> Result<(), EnvelopeError> {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    let ok = path.len() <= PATH_MAX
        && !path.chars().any(char::is_control)
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
    match ok {
        true => Ok(()),
        false => invalid(at, "not a plain absolute path"),
    }
}

fn check_notes(at: &str, notes: &BTreeMap<String, String>) -> Result<(), EnvelopeError> {
    if notes.len() > NOTES_MAX {
        return invalid(at, &format!("more than {NOTES_MAX} entries"));
    }
    match notes.keys().find(|key| key.is_empty() || key.len() > NOTE_KEY_MAX) {
        Some(_) => invalid(at, &format!("a key is empty or longer than {NOTE_KEY_MAX} bytes")),
        None => Ok(()),
    }
}

pub(crate) fn invalid<T>(at: impl Into<String>, why: &str) -> Result<T, EnvelopeError> {
    Err(EnvelopeError::Invalid { at: at.into(), why: why.to_owned() })
}
