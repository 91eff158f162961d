//! The network interface that machines are booted on.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use ipnet::Ipv4Net;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;

use crate::exit::{Code, Failure};

/// Our address on the interface, with its network: `wanted`, else the first.
pub fn address(name: &str, wanted: Option<Ipv4Addr>) -> anyhow::Result<Ipv4Net> {
    let all: Vec<_> = getifaddrs().context("cannot list the network interfaces")?.collect();
    choose(name, wanted, &all.iter().map(Seen::of).collect::<Vec<_>>())
}

/// What matters of one address of one interface.
#[derive(Debug, Clone)]
struct Seen {
    interface: String,
    up: bool,
    net: Option<Ipv4Net>,
}

impl Seen {
    fn of(entry: &InterfaceAddress) -> Seen {
        let ipv4 = |storage: &Option<nix::sys::socket::SockaddrStorage>| {
            Some(storage.as_ref()?.as_sockaddr_in()?.ip())
        };
        let net = ipv4(&entry.address).zip(ipv4(&entry.netmask));
        Seen {
            interface: entry.interface_name.clone(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            net: net.and_then(|(address, mask)| Ipv4Net::with_netmask(address, mask).ok()),
        }
    }
}

fn choose(name: &str, wanted: Option<Ipv4Addr>, seen: &[Seen]) -> anyhow::Result<Ipv4Net> {
    let ours: Vec<_> = seen.iter().filter(|entry| entry.interface == name).collect();
    let failure =
        |what: String, next: String| Err(Failure::new(Code::Failed, what).next(next).into());
    if ours.is_empty() {
        let mut names: Vec<_> = seen.iter().map(|entry| entry.interface.as_str()).collect();
        names.dedup();
        names.sort_unstable();
        names.dedup();
        return failure(
            format!("there is no network interface {name:?}"),
            format!("set [boot] interface to one of: {}", names.join(", ")),
        );
    }
    if !ours.iter().any(|entry| entry.up) {
        return failure(
            format!("the network interface {name} is down"),
            format!("bring it up: ip link set {name} up"),
        );
    }
    let addresses: Vec<_> = ours.iter().filter_map(|entry| entry.net).collect();
    match (wanted, addresses.first()) {
        (None, Some(first)) => Ok(*first),
        (None, None) => failure(
            format!("the network interface {name} has no IPv4 address"),
            format!("give it one: ip address add 10.0.0.1/24 dev {name}"),
        ),
        (Some(wanted), _) => match addresses.iter().find(|net| net.addr() == wanted) {
            Some(net) => Ok(*net),
            None => failure(
                format!("the network interface {name} does not have the address {wanted}"),
                match addresses.as_slice() {
                    [] => format!("give it that address: ip address add {wanted}/24 dev {name}"),
                    some => {
                        let list: Vec<_> = some.iter().map(|net| net.addr().to_string()).collect();
                        format!("set [boot] address to one of: {}", list.join(", "))
                    }
                },
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::next_of;

    fn seen() -> Vec<Seen> {
        let seen = |interface: &str, up, net: Option<&str>| Seen {
            interface: interface.to_owned(),
            up,
            net: net.map(|net| net.parse().unwrap()),
        };
        vec![
            seen("lo", true, Some("127.0.0.1/8")),
            seen("eth0", true, None),
            seen("eth0", true, Some("10.0.0.5/24")),
            seen("eth0", true, Some("10.0.1.5/24")),
            seen("eth1", false, None),
            seen("eth2", true, None),
        ]
    }

    #[test]
    fn the_first_or_the_wanted_address_is_taken() {
        let net = |wanted| choose("eth0", wanted, &seen()).unwrap().to_string();
        assert_eq!(net(None), "10.0.0.5/24");
        assert_eq!(net(Some(Ipv4Addr::new(10, 0, 1, 5))), "10.0.1.5/24");
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_out() {
        let wanted = Some(Ipv4Addr::new(10, 9, 9, 9));
        for (name, wanted, next) in [
            ("eth9", None, "one of: eth0, eth1, eth2, lo"),
            ("eth1", None, "ip link set eth1 up"),
            ("eth2", None, "ip address add"),
            ("eth0", wanted, "one of: 10.0.0.5, 10.0.1.5"),
        ] {
            let error = choose(name, wanted, &seen()).unwrap_err();
            assert!(next_of(&error).is_some_and(|n| n.contains(next)), "{name}: {error:?}");
        }
    }
}
