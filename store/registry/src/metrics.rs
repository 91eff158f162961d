//! What was served.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Metrics {
    pack_bytes: AtomicU64,
    pack_requests: AtomicU64,
    image_requests: AtomicU64,
    failed_requests: AtomicU64,
    upload_bytes: AtomicU64,
}

/// [`Metrics`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MetricsSnapshot {
    /// Bytes of packs that were handed to connections.
    pub pack_bytes: u64,
    /// Requests for packs that were answered with bytes.
    pub pack_requests: u64,
    /// Requests for envelopes, tables and locations that were answered.
    pub image_requests: u64,
    /// Requests that were answered with an error.
    pub failed_requests: u64,
    /// Bytes of frames that uploads brought.
    pub upload_bytes: u64,
}

impl Metrics {
    /// Reads all counters.
    pub fn snapshot(&self) -> MetricsSnapshot {
        MetricsSnapshot {
            pack_bytes: self.pack_bytes.load(Ordering::Relaxed),
            pack_requests: self.pack_requests.load(Ordering::Relaxed),
            image_requests: self.image_requests.load(Ordering::Relaxed),
            failed_requests: self.failed_requests.load(Ordering::Relaxed),
            upload_bytes: self.upload_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn add_pack_bytes(&self, bytes: u64) {
        self.pack_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn pack_request(&self) {
        self.pack_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn image_request(&self) {
        self.image_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed_request(&self) {
        self.failed_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_upload_bytes(&self, bytes: u64) {
        self.upload_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
