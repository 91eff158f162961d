//! What the server looks after, counted when somebody asks.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bootsvc_server::BootServer;
use controller::{Controller, ControllerError};
use serde::Serialize;
use wire::admin::LIST_MAX;

/// Counts at one moment, by the words that states have in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Machines by state.
    pub machines: BTreeMap<String, u64>,
    /// Runs by state, of the newest [`LIST_MAX`].
    pub runs: BTreeMap<String, u64>,
    /// DHCP leases that have not ended.
    pub leases: u64,
}

/// Counts.
pub async fn take(
    controller: &Controller,
    boot: Option<&BootServer>,
) -> Result<Census, ControllerError> {
    let mut census = Census { leases: boot.map_or(0, leases), ..Census::default() };
    let mut after = None;
    loop {
        let page = controller.machines(after.as_ref(), LIST_MAX, None).await?;
        page.machines.iter().for_each(|machine| count(&mut census.machines, &machine.state));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    for run in controller.runs(None, LIST_MAX).await?.runs {
        count(&mut census.runs, &run.state);
    }
    Ok(census)
}

fn count(counts: &mut BTreeMap<String, u64>, state: &impl Serialize) {
    if let Ok(serde_json::Value::String(word)) = serde_json::to_value(state) {
        *counts.entry(word).or_default() += 1;
    }
}

fn leases(boot: &BootServer) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    boot.leases().iter().filter(|lease| lease.ends > now).count() as u64
}
