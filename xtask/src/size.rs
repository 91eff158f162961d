//! Sizes that machines pay for, against their budgets.

use anyhow::{Context as _, Result, bail};

use crate::build;

/// Largest agent, in bytes: it travels to every machine at every boot. It also makes
/// images, so that it compresses, cuts, knows file systems and pushes.
const AGENT_BYTES_MAX: u64 = 4 << 20;

/// Prints the sizes; fails where one is over its budget.
pub fn run() -> Result<()> {
    let binaries = build::run(&build::Args { release: true })?;
    let mut over = false;
    for (what, path, limit) in
        [("agent", &binaries.agent, Some(AGENT_BYTES_MAX)), ("ingot", &binaries.ingot, None)]
    {
        let meta = path.metadata().with_context(|| format!("no {}", path.display()))?;
        let budget = limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
        println!("{what:8} {:>10} bytes{budget}", meta.len());
        over |= limit.is_some_and(|limit| meta.len() > limit);
    }
    if over {
        bail!("the agent is over its budget: find what made it grow with `cargo tree -p agent`");
    }
    Ok(())
}
