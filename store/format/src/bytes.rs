//! Reading and writing the parts that all binary structures share: a magic and
//! a version at the start, little-endian integers, a BLAKE3 checksum.

use wire::Digest;

/// Why some bytes are not the structure they were read as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Other bytes than the magic stand where it belongs.
    #[error("this is not {what}: its magic is missing")]
    Magic {
        /// The structure.
        what: &'static str,
    },
    /// Written by another version of the format.
    #[error(
        "{what} has format version {found}, and this program reads version {known}: {}",
        match found > known {
            true => "use a newer ingot",
            false => "export its image with the older ingot and import that",
        }
    )]
    Version {
        /// The structure.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The version this code knows.
        known: u32,
    },
    /// There are fewer bytes than the structure says it has.
    #[error("{what} is cut short")]
    Truncated {
        /// The structure.
        what: &'static str,
    },
    /// The checksum is another one than that of the bytes.
    #[error("{what} is damaged: its checksum is wrong")]
    Checksum {
        /// The structure.
        what: &'static str,
    },
    /// A value that no writer writes.
    #[error("{what} is damaged: {why}")]
    Invalid {
        /// The structure.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More entries than this code is ready to hold.
    #[error("{what} has {count} entries, more than the limit of {limit}")]
    TooMany {
        /// The structure.
        what: &'static str,
        /// Entries that it says it has.
        count: u64,
        /// Entries that are accepted.
        limit: u64,
    },
}

/// Length of a checksum or digest.
pub(crate) const SUM: usize = 32;
/// Bytes that are summed between two pauses.
const PAUSE_BYTES: usize = 4 << 20;

/// A cursor over the bytes of one structure.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, rest: bytes }
    }

    /// A cursor over what stands before the checksum that ends `bytes`, once
    /// magic, version and checksum were found right, in this order: an
    /// unknown version may sum differently.
    pub(crate) fn checked(
        what: &'static str,
        magic: &[u8; 8],
        version: u32,
        bytes: &'a [u8],
    ) -> Result<Reader<'a>, DecodeError> {
        Reader::checked_with(what, magic, version, bytes, || ())
    }

    /// [`Reader::checked`], with a pause now and then.
    pub(crate) fn checked_with(
        what: &'static str,
        magic: &[u8; 8],
        version: u32,
        bytes: &'a [u8],
        pause: impl Fn(),
    ) -> Result<Reader<'a>, DecodeError> {
        Reader::new(what, bytes).start(magic, version)?;
        let (body, sum) = bytes.split_last_chunk::<SUM>().ok_or(DecodeError::Truncated { what })?;
        let mut hasher = blake3::Hasher::new();
        for piece in body.chunks(PAUSE_BYTES) {
            hasher.update(piece);
            pause();
        }
        if hasher.finalize() != *sum {
            return Err(DecodeError::Checksum { what });
        }
        let mut reader = Reader::new(what, body);
        reader.start(magic, version)?;
        Ok(reader)
    }

    /// Reads magic and version.
    pub(crate) fn start(&mut self, magic: &[u8; 8], known: u32) -> Result<(), DecodeError> {
        let what = self.what;
        if self.array::<8>().map_err(|_| DecodeError::Magic { what })? != *magic {
            return Err(DecodeError::Magic { what });
        }
        let found = self.u32()?;
        if found == 0 {
            return Err(self.invalid("its version is 0"));
        }
        if found != known {
            return Err(DecodeError::Version { what, found, known });
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated { what: self.what })?;
        self.rest = rest;
        Ok(*array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, DecodeError> {
        self.array().map(Digest)
    }

    /// Reads `N` bytes that must be zero.
    pub(crate) fn zeros<const N: usize>(&mut self) -> Result<(), DecodeError> {
        match self.array::<N>()? == [0; N] {
            true => Ok(()),
            false => Err(self.invalid("reserved bytes are not zero")),
        }
    }

    /// Reads the count of entries that follow, each `entry_len` bytes. The
    /// bytes for them are known to be there afterwards, so that memory may be
    /// reserved.
    pub(crate) fn count(&mut self, limit: u64, entry_len: usize) -> Result<usize, DecodeError> {
        let what = self.what;
        let count = self.u64()?;
        if count > limit {
            return Err(DecodeError::TooMany { what, count, limit });
        }
        let count = usize::try_from(count).map_err(|_| DecodeError::Truncated { what })?;
        match count.checked_mul(entry_len) {
            Some(len) if len <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::Truncated { what }),
        }
    }

    /// Everything must have been read.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(self.invalid("bytes follow its end")),
        }
    }

    pub(crate) fn invalid(&self, why: &'static str) -> DecodeError {
        DecodeError::Invalid { what: self.what, why }
    }
}

/// Starts a structure: magic and version.
pub(crate) fn start(magic: &[u8; 8], version: u32, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(magic);
    out.extend_from_slice(&version.to_le_bytes());
    out
}

/// Writes a count.
pub(crate) fn put_len(out: &mut Vec<u8>, len: usize) {
    // usize has at most 64 bits on every target of Rust.
    out.extend_from_slice(&(len as u64).to_le_bytes());
}

/// Ends a structure with the checksum of everything before.
pub(crate) fn finish(mut out: Vec<u8>) -> Vec<u8> {
    let sum = blake3::hash(&out);
    out.extend_from_slice(sum.as_bytes());
    out
}
