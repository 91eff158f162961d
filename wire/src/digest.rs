//! The name of content: BLAKE3-256 of its plain bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// BLAKE3-256 of some bytes; text form `blake3:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub [u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest: expected \"blake3:\" and 64 lower-case hex digits")]
pub struct DigestError {
    text: String,
}

const PREFIX: &str = "blake3:";

impl Digest {
    /// The 64 hex digits without the prefix, as used in object keys.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// Twelve hex digits, enough for a person to tell images apart.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }

    /// Reads the 64 hex digits without the prefix.
    pub fn from_hex(text: &str) -> Result<Digest, DigestError> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|b| b.is_ascii_uppercase());
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) if lower => Ok(Digest(bytes)),
            _ => Err(DigestError { text: text.to_owned() }),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let hex = text.strip_prefix(PREFIX).ok_or_else(|| DigestError { text: text.to_owned() })?;
        Digest::from_hex(hex)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Digest, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let long = format!("blake3:{}", "0".repeat(66));
        let upper = format!("blake3:{}", "AB".repeat(32));
        for text in ["", "blake3:", "sha256:00", "blake3:zz", &long, &upper] {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
        }
    }
}
