//! The lease that the server is reached with: kept by one thread, asked for by others.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wire::Network;

use super::dhcp::Lease;

/// The lease as it is now; none without DHCP.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Option<Lease>>>);

impl Held {
    /// This lease, until there is another.
    pub fn of(lease: Lease) -> Held {
        Held(Arc::new(Mutex::new(Some(lease))))
    }

    /// Notes the lease that there is from now on.
    pub fn set(&self, lease: Lease) {
        *self.lock() = Some(lease);
    }

    /// Where in the network a machine with it is.
    pub fn network(&self) -> Network {
        self.lock().as_ref().map(Lease::network).unwrap_or_default()
    }

    /// Name servers, as DHCP tells them.
    pub fn resolvers(&self) -> Vec<Ipv4Addr> {
        self.lock().as_ref().map(|lease| lease.resolvers.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Lease>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
