//! What was done, in numbers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counts since the start. Cheap to count and to read.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) dhcp: DhcpCounters,
    pub(crate) tftp_failed: AtomicU64,
    pub(crate) advertisements: AtomicU64,
    tftp: Mutex<BTreeMap<String, FileCounts>>,
    http: Mutex<BTreeMap<String, FileCounts>>,
}

#[derive(Debug, Default)]
pub(crate) struct DhcpCounters {
    pub received: AtomicU64,
    pub offers: AtomicU64,
    pub acks: AtomicU64,
    pub naks: AtomicU64,
    pub unanswered: AtomicU64,
    pub broken: AtomicU64,
    pub dropped: AtomicU64,
}

/// [`Counters`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// DHCP.
    pub dhcp: DhcpCounts,
    /// Files over TFTP, by name.
    pub tftp: BTreeMap<String, FileCounts>,
    /// Files over HTTP, by name.
    pub http: BTreeMap<String, FileCounts>,
    /// TFTP transfers that broke off.
    pub tftp_failed: u64,
    /// Router advertisements sent.
    pub advertisements: u64,
}

/// Counts of DHCP messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DhcpCounts {
    /// Datagrams received.
    pub received: u64,
    /// Offers sent.
    pub offers: u64,
    /// Acknowledgements sent.
    pub acks: u64,
    /// Refusals sent.
    pub naks: u64,
    /// Requests that needed or got no answer.
    pub unanswered: u64,
    /// Datagrams that were no DHCP requests.
    pub broken: u64,
    /// Requests dropped because too many were in work.
    pub dropped: u64,
}

/// Counts of one file over one protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileCounts {
    /// Transfers, for TFTP those that came to their end.
    pub requests: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl Counters {
    /// The counts now.
    pub fn read(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let files = |map: &Mutex<BTreeMap<_, _>>| {
            map.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        Counts {
            dhcp: DhcpCounts {
                received: get(&self.dhcp.received),
                offers: get(&self.dhcp.offers),
                acks: get(&self.dhcp.acks),
                naks: get(&self.dhcp.naks),
                unanswered: get(&self.dhcp.unanswered),
                broken: get(&self.dhcp.broken),
                dropped: get(&self.dhcp.dropped),
            },
            tftp: files(&self.tftp),
            http: files(&self.http),
            tftp_failed: get(&self.tftp_failed),
            advertisements: get(&self.advertisements),
        }
    }

    pub(crate) fn tftp(&self, name: &str, bytes: u64) {
        add(&self.tftp, name, bytes);
    }

    pub(crate) fn http(&self, name: &str, bytes: u64) {
        add(&self.http, name, bytes);
    }
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Only names of files that exist get here, so the map stays small.
fn add(map: &Mutex<BTreeMap<String, FileCounts>>, name: &str, bytes: u64) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = map.entry(name.to_owned()).or_default();
    counts.requests += 1;
    counts.bytes += bytes;
}
