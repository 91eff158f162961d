//! What the DHCP server is told, and what of that cannot be.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::{Mac, Offers, OffersError};

/// Settings of a [`Server`](super::Server).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Our address: server identifier, and where boot files are.
    pub server: Ipv4Addr,
    /// The networks served: our own, and those behind relays.
    pub scopes: Vec<Scope>,
    /// Addresses of known machines; they may lie in a pool, which then skips them.
    pub machines: BTreeMap<Mac, Ipv4Addr>,
    /// How long an address is given for.
    pub lease: Duration,
    /// What there is to boot.
    pub offers: Offers,
}

/// One network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// Addresses for machines without one of their own; `None` serves known
    /// machines only.
    pub pool: Option<RangeInclusive<Ipv4Addr>>,
    /// Its router.
    pub router: Option<Ipv4Addr>,
    /// Its name servers, at most [`Config::NAME_SERVERS_MAX`].
    pub name_servers: Vec<Ipv4Addr>,
}

/// Why a [`Config`] cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No network.
    #[error("no subnet is configured: add the one that {server} is in")]
    NoScope {
        /// Our address.
        server: Ipv4Addr,
    },
    /// Two networks share addresses.
    #[error("subnets {0} and {1} overlap: keep one, or make them smaller")]
    Overlap(Ipv4Net, Ipv4Net),
    /// Too small or too large.
    #[error("subnet {0} cannot be served: use a prefix length from 8 to 30")]
    Prefix(Ipv4Net),
    /// The pool is not in its subnet, or is empty.
    #[error(
        "pool {first}-{last} is not a range of machine addresses in {subnet}: \
         it must run from low to high within {low}-{high}"
    )]
    Pool {
        /// Its first address.
        first: Ipv4Addr,
        /// Its last address.
        last: Ipv4Addr,
        /// The subnet.
        subnet: Ipv4Net,
        /// First usable address of the subnet.
        low: Ipv4Addr,
        /// Last usable address of the subnet.
        high: Ipv4Addr,
    },
    /// The pool has too many addresses.
    #[error(
        "pool {first}-{last} has {count} addresses, at most {} are handled: choose a smaller range",
        Config::POOL_MAX
    )]
    PoolSize {
        /// Its first address.
        first: Ipv4Addr,
        /// Its last address.
        last: Ipv4Addr,
        /// How many they are.
        count: u64,
    },
    /// The pool holds an address that is in use.
    #[error("pool {first}-{last} contains {address}, the address of the {owner}: leave it out")]
    PoolTaken {
        /// Its first address.
        first: Ipv4Addr,
        /// Its last address.
        last: Ipv4Addr,
        /// The address.
        address: Ipv4Addr,
        /// Whose it is.
        owner: &'static str,
    },
    /// A machine's address is not one that can be given.
    #[error("machine {mac} cannot have the address {address}: {why}")]
    Machine {
        /// The machine.
        mac: Mac,
        /// Its address.
        address: Ipv4Addr,
        /// Why not.
        why: &'static str,
    },
    /// Too many name servers for one reply.
    #[error("subnet {0} has more than {max} name servers", max = Config::NAME_SERVERS_MAX)]
    NameServers(Ipv4Net),
    /// The lease time is out of range.
    #[error("a lease of {0:?} is not possible: use one minute to one year")]
    Lease(Duration),
    /// The boot files cannot be named in a reply.
    #[error(transparent)]
    Offers(#[from] OffersError),
}

impl Config {
    /// Most addresses in one pool: a /16.
    pub const POOL_MAX: u64 = 65_536;

    /// Most name servers of one network.
    pub const NAME_SERVERS_MAX: usize = 4;

    /// Says what cannot be served, and what to do about it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        if self.scopes.is_empty() {
            return Err(ConfigError::NoScope { server: self.server });
        }
        if !(Duration::from_secs(60)..=YEAR).contains(&self.lease) {
            return Err(ConfigError::Lease(self.lease));
        }
        for (index, scope) in self.scopes.iter().enumerate() {
            scope.validate(self.server)?;
            let others = self.scopes[..index].iter();
            for other in others.map(|other| other.subnet) {
                if other.contains(&scope.subnet) || scope.subnet.contains(&other) {
                    return Err(ConfigError::Overlap(other, scope.subnet));
                }
            }
        }
        self.validate_machines()?;
        Ok(self.offers.validate()?)
    }

    /// The network whose machines `address` may belong to.
    pub(super) fn scope_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.scopes.iter().position(|scope| scope.subnet.contains(&address))
    }

    fn validate_machines(&self) -> Result<(), ConfigError> {
        let mut owners = BTreeMap::new();
        for (&mac, &address) in &self.machines {
            let wrong = |why| Err(ConfigError::Machine { mac, address, why });
            let Some(scope) = self.scope_of(address).map(|index| &self.scopes[index]) else {
                return wrong("it is in none of the configured subnets");
            };
            if !scope.usable().contains(&address) {
                return wrong("it is the network or broadcast address of its subnet");
            }
            if address == self.server || Some(address) == scope.router {
                return wrong("the server or the router has it");
            }
            if owners.insert(address, mac).is_some() {
                return wrong("another machine has it");
            }
        }
        Ok(())
    }
}

impl Scope {
    /// The addresses between the network's own and its broadcast address.
    pub(super) fn usable(&self) -> RangeInclusive<Ipv4Addr> {
        let first = self.subnet.network().to_bits().saturating_add(1);
        let last = self.subnet.broadcast().to_bits().saturating_sub(1);
        Ipv4Addr::from_bits(first)..=Ipv4Addr::from_bits(last)
    }

    fn validate(&self, server: Ipv4Addr) -> Result<(), ConfigError> {
        if !(8..=30).contains(&self.subnet.prefix_len()) {
            return Err(ConfigError::Prefix(self.subnet));
        }
        if self.name_servers.len() > Config::NAME_SERVERS_MAX {
            return Err(ConfigError::NameServers(self.subnet));
        }
        let Some(pool) = &self.pool else { return Ok(()) };
        let (first, last) = (*pool.start(), *pool.end());
        let usable = self.usable();
        if first > last || !usable.contains(&first) || !usable.contains(&last) {
            let (low, high) = usable.into_inner();
            return Err(ConfigError::Pool { first, last, subnet: self.subnet, low, high });
        }
        let count = u64::from(last.to_bits() - first.to_bits()) + 1;
        if count > Config::POOL_MAX {
            return Err(ConfigError::PoolSize { first, last, count });
        }
        let taken = [(Some(server), "server"), (self.router, "router")];
        for (address, owner) in taken {
            if let Some(address) = address.filter(|address| pool.contains(address)) {
                return Err(ConfigError::PoolTaken { first, last, address, owner });
            }
        }
        Ok(())
    }
}
