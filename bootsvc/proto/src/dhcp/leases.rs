//! Which machine has which address of the pools.
//!
//! The table is bounded by the pools: one entry per address. An entry outlives
//! its lease, so that a machine gets its old address again, and is evicted when
//! an address is needed and none is unused: longest ended first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::Mac;

/// An address that was committed to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
    /// When it ends, in seconds since the Unix epoch.
    pub ends: u64,
}

/// What is to be recorded before the reply that comes with it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// This is the lease of its address now, and the only one of its machine.
    Set(Lease),
    /// The address has no lease any more.
    Drop(Ipv4Addr),
}

/// How long an offered address is kept for its machine, in seconds: EDK2
/// collects offers for several seconds before it takes one.
const OFFER_SECS: u64 = 60;

/// How long a declined address is given to nobody, in seconds.
const DECLINED_SECS: u64 = 600;

#[derive(Debug, Clone, Copy)]
struct Entry {
    mac: Mac,
    /// Seconds since the Unix epoch.
    ends: u64,
    /// Recorded by the shell; an offer is not.
    committed: bool,
}

/// Addresses of all pools. `now` is in seconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Table {
    entries: BTreeMap<Ipv4Addr, Entry>,
    machines: BTreeMap<Mac, Ipv4Addr>,
    /// Ends of all entries, the longest ended first.
    ends: BTreeSet<(u64, Ipv4Addr)>,
    declined: BTreeMap<Ipv4Addr, u64>,
    /// Addresses without entry and quarantine.
    unused: BTreeSet<Ipv4Addr>,
}

impl Table {
    /// All addresses of `pools` but the `reserved` ones.
    pub fn new<'a>(
        pools: impl Iterator<Item = &'a RangeInclusive<Ipv4Addr>>,
        reserved: &BTreeSet<Ipv4Addr>,
    ) -> Table {
        let addresses = |pool: &RangeInclusive<Ipv4Addr>| {
            (pool.start().to_bits()..=pool.end().to_bits()).map(Ipv4Addr::from_bits)
        };
        Table {
            unused: pools.flat_map(addresses).filter(|a| !reserved.contains(a)).collect(),
            entries: BTreeMap::new(),
            machines: BTreeMap::new(),
            ends: BTreeSet::new(),
            declined: BTreeMap::new(),
        }
    }

    /// Takes over a recorded lease; `false` where its address is in no pool
    /// any more or its machine has another one.
    pub fn load(&mut self, lease: Lease) -> bool {
        let fits = self.unused.contains(&lease.address) && !self.machines.contains_key(&lease.mac);
        if fits {
            self.set(lease.mac, lease.address, lease.ends, true);
        }
        fits
    }

    /// The machine that holds `address`.
    pub fn machine(&self, address: Ipv4Addr) -> Option<Mac> {
        self.entries.get(&address).map(|entry| entry.mac)
    }

    /// All committed leases, by address.
    pub fn leases(&self) -> impl Iterator<Item = Lease> {
        self.entries.iter().filter(|(_, entry)| entry.committed).map(|(address, entry)| Lease {
            mac: entry.mac,
            address: *address,
            ends: entry.ends,
        })
    }

    /// Sets an address of `pool` aside for `mac`: the one it had, else the one
    /// it wants, else any. `None` when all are taken.
    pub fn offer(
        &mut self,
        now: u64,
        mac: Mac,
        pool: &RangeInclusive<Ipv4Addr>,
        wanted: Option<Ipv4Addr>,
        changes: &mut Vec<Change>,
    ) -> Option<Ipv4Addr> {
        self.end_quarantines(now);
        let had = self.machines.get(&mac).copied().filter(|a| pool.contains(a));
        if let Some(address) = had {
            let entry = self.entries.get(&address)?;
            let (ends, committed) = (entry.ends.max(now + OFFER_SECS), entry.committed);
            // A running lease stays what it is; one that ended is offered anew.
            self.set(mac, address, ends, committed);
            return Some(address);
        }
        let wanted = wanted.filter(|a| pool.contains(a) && self.is_free(now, mac, *a));
        let address = wanted
            .or_else(|| self.any_unused(mac, pool))
            .or_else(|| self.longest_ended(now, pool))?;
        self.clear(address, changes);
        self.leave(mac, changes);
        self.set(mac, address, now + OFFER_SECS, false);
        Some(address)
    }

    /// Whether `mac` may have `address` of a pool.
    pub fn is_free(&self, now: u64, mac: Mac, address: Ipv4Addr) -> bool {
        let usable = |entry: &Entry| entry.mac == mac || entry.ends <= now;
        self.unused.contains(&address) || self.entries.get(&address).is_some_and(usable)
    }

    /// Commits `address`, which must be free for `mac`, until `ends`.
    pub fn commit(&mut self, mac: Mac, address: Ipv4Addr, ends: u64, changes: &mut Vec<Change>) {
        if self.machines.get(&mac) != Some(&address) {
            self.clear(address, changes);
            self.leave(mac, changes);
        }
        self.set(mac, address, ends, true);
        changes.push(Change::Set(Lease { mac, address, ends }));
    }

    /// `mac` gives its address back, or takes another server's. The entry
    /// stays, so that it gets the same again while nobody else needs it.
    pub fn release(&mut self, now: u64, mac: Mac, changes: &mut Vec<Change>) -> Option<Ipv4Addr> {
        let address = *self.machines.get(&mac)?;
        let entry = *self.entries.get(&address)?;
        let ends = entry.ends.min(now);
        self.set(mac, address, ends, entry.committed);
        if entry.committed {
            changes.push(Change::Set(Lease { mac, address, ends }));
        }
        Some(address)
    }

    /// `mac` found its `address` in use: nobody gets it for a while.
    pub fn decline(&mut self, now: u64, mac: Mac, address: Ipv4Addr, changes: &mut Vec<Change>) {
        if self.machines.get(&mac) == Some(&address) {
            self.clear(address, changes);
            self.unused.remove(&address);
            self.declined.insert(address, now + DECLINED_SECS);
        }
    }

    fn set(&mut self, mac: Mac, address: Ipv4Addr, ends: u64, committed: bool) {
        self.unused.remove(&address);
        if let Some(old) = self.entries.insert(address, Entry { mac, ends, committed }) {
            self.ends.remove(&(old.ends, address));
        }
        self.ends.insert((ends, address));
        self.machines.insert(mac, address);
    }

    /// Makes `address` unused.
    fn clear(&mut self, address: Ipv4Addr, changes: &mut Vec<Change>) {
        let Some(old) = self.entries.remove(&address) else { return };
        self.ends.remove(&(old.ends, address));
        self.machines.remove(&old.mac);
        self.unused.insert(address);
        if old.committed {
            changes.push(Change::Drop(address));
        }
    }

    /// Takes from `mac` the address that it has, if any.
    fn leave(&mut self, mac: Mac, changes: &mut Vec<Change>) {
        if let Some(address) = self.machines.get(&mac).copied() {
            self.clear(address, changes);
        }
    }

    /// Starts searching at a place that depends on the machine, so that it
    /// tends to get the same address even when all records are lost.
    fn any_unused(&self, mac: Mac, pool: &RangeInclusive<Ipv4Addr>) -> Option<Ipv4Addr> {
        let (first, last) = (pool.start().to_bits(), pool.end().to_bits());
        let size = u64::from(last - first) + 1;
        let hash = mac.0.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let offset = u32::try_from(hash % size).unwrap_or(0);
        let start = Ipv4Addr::from_bits(first + offset);
        let mut above = self.unused.range(start..=*pool.end());
        above.next().or_else(|| self.unused.range(pool.clone()).next()).copied()
    }

    fn longest_ended(&self, now: u64, pool: &RangeInclusive<Ipv4Addr>) -> Option<Ipv4Addr> {
        let ended = self.ends.iter().take_while(|(ends, _)| *ends <= now);
        ended.map(|(_, address)| *address).find(|address| pool.contains(address))
    }

    fn end_quarantines(&mut self, now: u64) {
        let unused = &mut self.unused;
        self.declined.retain(|address, ends| {
            let over = *ends <= now;
            if over {
                unused.insert(*address);
            }
            !over
        });
    }
}
