//! The smallest router advertisement (RFC 4861 §4.2): "there is no router".
//!
//! iPXE asks for IPv6 routers and waits about 13 seconds where nobody answers.
//! An advertisement with a lifetime of zero ends the wait and configures
//! nothing: no default router, no prefix, no DHCPv6.

use crate::Mac;

/// An ICMPv6 router advertisement with lifetime zero and our link-layer
/// address. The checksum is zero: the kernel fills it in on ICMPv6 sockets
/// (RFC 3542 §3.1).
pub fn advertisement(ours: Mac) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[0] = 134;
    // Option 1, source link-layer address, one unit of eight bytes.
    bytes[16] = 1;
    bytes[17] = 1;
    bytes[18..].copy_from_slice(&ours.0);
    bytes
}

/// Whether an ICMPv6 message is a router solicitation (RFC 4861 §4.1).
pub fn is_solicitation(message: &[u8]) -> bool {
    message.len() >= 8 && message[0] == 133 && message[1] == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q01_an_advertisement_that_offers_nothing() {
        let bytes = advertisement(Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!(bytes[..2], [134, 0]);
        assert_eq!(bytes[5], 0, "neither managed nor other configuration");
        assert_eq!(bytes[6..8], [0, 0], "no default router");
        assert_eq!(bytes[16..], [1, 1, 2, 0, 0, 0, 0, 9]);
        assert!(is_solicitation(&[133, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!is_solicitation(&bytes));
        assert!(!is_solicitation(&[133]));
    }
}
