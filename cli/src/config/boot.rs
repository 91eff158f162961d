//! `[boot]`: machines that start over the network.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Deserializer};

/// `[boot]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The only interface that DHCP and TFTP are answered on.
    pub interface: String,
    /// Our address there; absent: the interface's first IPv4 address.
    pub address: Option<Ipv4Addr>,
    /// Addresses for machines without one of their own; absent: chosen from the network.
    #[serde(default)]
    pub pool: Pool,
    /// What machines are told is their router.
    pub router: Option<Ipv4Addr>,
    /// What machines are told are their name servers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// How long an address is given for.
    #[serde(default = "an_hour")]
    pub lease_secs: u32,
    /// Folder that `ingot boot assets` made; absent: in the data directory.
    pub assets: Option<PathBuf>,
    /// Whether TFTP is answered.
    #[serde(default = "yes")]
    pub tftp: bool,
    /// Whether machines are told that there is no IPv6 router.
    #[serde(default = "yes")]
    pub ra: bool,
    /// Program for BIOS firmware without iPXE.
    pub nbp: Option<PathBuf>,
    /// Networks whose machines ask through a relay.
    #[serde(default)]
    pub relayed: Vec<Relayed>,
    /// Machines with an address of their own.
    #[serde(default, rename = "static")]
    pub machines: Vec<Static>,
}

/// `[[boot.relayed]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relayed {
    /// Its addresses.
    #[serde(deserialize_with = "subnet")]
    pub subnet: Ipv4Net,
    /// As of `[boot]`, of this network; to be said, since addresses of relays in it
    /// are not known.
    pub pool: Pool,
    /// What its machines are told is their router: the way to us.
    pub router: Ipv4Addr,
    /// What they are told are their name servers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
}

/// `[[boot.static]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {
    /// Its hardware address, with colons.
    pub mac: String,
    /// The address it gets.
    pub address: Ipv4Addr,
}

/// Addresses that are given to whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Pool {
    /// The longest free range of the network.
    #[default]
    Chosen,
    /// None: only known machines get an address.
    Nobody,
    /// From the first to the last.
    Range(Ipv4Addr, Ipv4Addr),
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pool, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_pool(&text).ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not a pool: expected \"FIRST-LAST\", such as \
                 \"10.0.0.100-10.0.0.199\", or \"none\""
            ))
        })
    }
}

fn subnet<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ipv4Net, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().ok().filter(|net: &Ipv4Net| net.trunc() == *net).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?} is not a subnet: expected its first address and the length of its prefix, \
             such as \"10.0.12.0/24\""
        ))
    })
}

fn parse_pool(text: &str) -> Option<Pool> {
    if text == "none" {
        return Some(Pool::Nobody);
    }
    let (first, last) = text.split_once('-')?;
    Some(Pool::Range(first.trim().parse().ok()?, last.trim().parse().ok()?))
}

fn yes() -> bool {
    true
}

/// Short enough that a pool frees itself, long enough for any installation.
fn an_hour() -> u32 {
    3600
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_begins_with_its_first_address() {
        let parse = |subnet: &str| {
            toml::from_str::<Relayed>(&format!(
                "subnet = {subnet:?}\nrouter = \"10.0.12.1\"\npool = \"none\"\n"
            ))
        };
        assert_eq!(parse("10.0.12.0/24").unwrap().subnet.to_string(), "10.0.12.0/24");
        for text in ["10.0.12.1/24", "10.0.12.0", "10.0.12.0/33", "fd00::/64", ""] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("is not a subnet"), "{text:?}: {error}");
        }
    }

    #[test]
    fn pools_are_ranges_or_nobody() {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        assert_eq!(parse_pool("none"), Some(Pool::Nobody));
        assert_eq!(parse_pool("10.0.0.1-10.0.0.9"), Some(Pool::Range(ip(1), ip(9))));
        assert_eq!(parse_pool("10.0.0.1 - 10.0.0.9"), Some(Pool::Range(ip(1), ip(9))));
        for text in ["", "10.0.0.1", "10.0.0.0/24", "a-b", "10.0.0.1-"] {
            assert_eq!(parse_pool(text), None, "{text:?}");
        }
    }
}
