//! The hardware address that a machine is known by.

use std::fmt;
use std::str::FromStr;

/// Ethernet address of one network card; text form `52:54:00:12:34:56`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is not a [`Mac`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a hardware address: expected six bytes like 52:54:00:12:34:56")]
pub struct MacError {
    text: String,
}

impl Mac {
    /// Whether this can be the address of one card: neither a group address
    /// nor all zeros.
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }

    /// The form of `BOOTIF=` on a kernel's command line: hardware type 1
    /// (Ethernet), then the address, all parted by hyphens.
    pub fn bootif(&self) -> String {
        let [a, b, c, d, e, f] = self.0;
        format!("01-{a:02x}-{b:02x}-{c:02x}-{d:02x}-{e:02x}-{f:02x}")
    }
}

impl FromStr for Mac {
    type Err = MacError;

    /// Accepts `:` or `-` between the bytes and digits in either case.
    fn from_str(text: &str) -> Result<Mac, MacError> {
        let wrong = || MacError { text: text.chars().take(40).collect() };
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Mac(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_in_both_notations() {
        let mac = Mac([0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert_eq!("52-54-00-AB-CD-EF".parse(), Ok(mac));
        assert_eq!(mac.bootif(), "01-52-54-00-ab-cd-ef");
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        for text in ["", "52:54", "52:54:00:12:34:5", "52:54:00:12:34:56:78", "+1:54:00:12:34:56"] {
            assert!(text.parse::<Mac>().is_err(), "{text:?}");
        }
    }
}
