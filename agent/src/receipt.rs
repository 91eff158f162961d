//! The receipt's slot on a disk; described in `docs/receipt.md`.

use wire::{Receipt, ReceiptState};

/// First byte of the slot on the disk.
pub const START: u64 = 524_288;
/// Length of the slot in bytes.
pub const BYTES: usize = 65_536;
/// First byte after the slot.
pub const END: u64 = START + BYTES as u64;

const MAGIC: &[u8; 8] = b"INGOTRCP";
const VERSION: u32 = 1;
/// Magic, version, length, BLAKE3 of the text.
const HEADER: usize = 8 + 4 + 4 + 32;

/// Why a slot holds no receipt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Nothing of ours is there.
    #[error("no receipt: the disk was not installed by ingot")]
    Absent,
    /// Something of ours is there that this version cannot read.
    #[error(
        "the receipt has the slot format {0}, this agent reads {VERSION}: use a newer agent, or \
         zero bytes {START} to {END} of the disk to give up what is installed"
    )]
    Version(u32),
    /// The text says more than this version understands.
    #[error(
        "the receipt comes from a newer agent: use a newer agent, or zero bytes {START} to {END} \
         of the disk to give up what is installed"
    )]
    Newer,
    /// The slot is damaged or was written half.
    #[error("the receipt is damaged ({0}): it counts as none")]
    Damaged(&'static str),
    /// A receipt does not fit into its slot.
    #[error("the receipt takes {0} bytes, its slot has {BYTES}: shorten the reference")]
    TooLong(usize),
}

/// The whole slot for a receipt: header, JSON, zeroes.
pub fn encode(receipt: &Receipt) -> Result<Vec<u8>, ReceiptError> {
    let text = serde_json::to_vec(receipt).map_err(|_| ReceiptError::Damaged("not JSON"))?;
    let length = u32::try_from(text.len()).map_err(|_| ReceiptError::TooLong(text.len()))?;
    if HEADER + text.len() > BYTES {
        return Err(ReceiptError::TooLong(HEADER + text.len()));
    }
    let mut slot = Vec::with_capacity(BYTES);
    slot.extend(MAGIC);
    slot.extend(VERSION.to_le_bytes());
    slot.extend(length.to_le_bytes());
    slot.extend(blake3::hash(&text).as_bytes());
    slot.extend(text);
    slot.resize(BYTES, 0);
    Ok(slot)
}

/// Reads a slot where a disk may have none: absent and damaged count as none.
/// A newer one is an error, because it may speak for an OS that works.
pub fn found(slot: &[u8]) -> Result<Option<Receipt>, ReceiptError> {
    match decode(slot) {
        Ok(receipt) => Ok(Some(receipt)),
        Err(ReceiptError::Absent | ReceiptError::Damaged(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of a text of any version.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// Reads a slot.
pub fn decode(slot: &[u8]) -> Result<Receipt, ReceiptError> {
    let (header, rest) = slot.split_at_checked(HEADER).ok_or(ReceiptError::Damaged("too short"))?;
    let (magic, header) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(ReceiptError::Absent);
    }
    let word = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    };
    if word(0) != VERSION {
        return Err(ReceiptError::Version(word(0)));
    }
    let length = usize::try_from(word(4)).unwrap_or(usize::MAX);
    let text = rest.get(..length).ok_or(ReceiptError::Damaged("its length is past the slot"))?;
    if blake3::hash(text).as_bytes().as_slice() != &header[8..] {
        return Err(ReceiptError::Damaged("its hash does not match"));
    }
    let unclear = |_| ReceiptError::Damaged("its text does not parse");
    // Before the rest, which a newer version may have changed.
    let Versioned { version } = serde_json::from_slice(text).map_err(unclear)?;
    if version > Receipt::VERSION {
        return Err(ReceiptError::Newer);
    }
    let receipt: Receipt = serde_json::from_slice(text).map_err(unclear)?;
    match receipt.state {
        ReceiptState::Unknown => Err(ReceiptError::Newer),
        _ => Ok(receipt),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::Digest;

    use super::*;

    fn sample(reference: &str) -> Receipt {
        Receipt {
            version: Receipt::VERSION,
            state: ReceiptState::Installed,
            image: Digest([7; 32]),
            reference: reference.parse().unwrap(),
            run: "r-1".parse().unwrap(),
            machine: "m-1".parse().unwrap(),
            disk: Some("serial".into()),
            disk_bytes: 1 << 30,
        }
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let slot = encode(&sample("web:1")).unwrap();
        assert_eq!(slot.len(), BYTES);
        assert_eq!(decode(&slot), Ok(sample("web:1")));
        let used = HEADER + slot[HEADER..].iter().position(|&b| b == 0).unwrap();
        for at in 0..used {
            let mut damaged = slot.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_err(), "byte {at}");
        }
        assert_eq!(decode(&[0; BYTES]), Err(ReceiptError::Absent));
    }

    #[test]
    fn absent_and_damaged_are_none_and_newer_is_an_error() {
        let slot = encode(&sample("web:1")).unwrap();
        assert_eq!(found(&slot), Ok(Some(sample("web:1"))));
        assert_eq!(found(&[0; BYTES]), Ok(None));
        let mut damaged = slot.clone();
        damaged[HEADER] ^= 1;
        assert_eq!(found(&damaged), Ok(None));
        let mut newer = slot;
        newer[8] = 2;
        assert_eq!(found(&newer), Err(ReceiptError::Version(2)));
        let mut newer = sample("web:1");
        newer.version = Receipt::VERSION + 1;
        assert_eq!(found(&encode(&newer).unwrap()), Err(ReceiptError::Newer));
        let mut newer = sample("web:1");
        newer.state = ReceiptState::Unknown;
        assert_eq!(found(&encode(&newer).unwrap()), Err(ReceiptError::Newer));
    }

    proptest! {
        #[test]
        fn round_trips(name in "[a-z0-9]{1,40}", bytes in any::<u64>(), installed: bool) {
            let mut receipt = sample(&name);
            receipt.disk_bytes = bytes;
            if !installed {
                receipt.state = ReceiptState::Installing;
            }
            prop_assert_eq!(decode(&encode(&receipt).unwrap()), Ok(receipt));
        }

        #[test]
        fn any_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: bool) {
            if ours {
                bytes.splice(0..0, MAGIC.iter().copied().chain(1u32.to_le_bytes()));
            }
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
