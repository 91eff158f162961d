//! What the server looks after, counted when somebody asks.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bootsvc_server::BootServer;
use controller::{Controller, ControllerError};

/// Counts at one moment, by the words that states have in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Machines by state.
    pub machines: BTreeMap<String, u64>,
    /// Runs by state, of the newest [`wire::admin::LIST_MAX`].
    pub runs: BTreeMap<String, u64>,
    /// DHCP leases that have not ended.
    pub leases: u64,
}

/// Counts.
pub async fn take(
    controller: &Controller,
    boot: Option<&BootServer>,
) -> Result<Census, ControllerError> {
    let [machines, runs] = controller.states().await?;
    Ok(Census { machines, runs, leases: boot.map_or(0, leases) })
}

fn leases(boot: &BootServer) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    boot.leases().iter().filter(|lease| lease.ends > now).count() as u64
}
