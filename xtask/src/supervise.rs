//! Work whose traces go away however it ends.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tests_rig::Namespace;

/// Set for the process that does the work.
const CHILD: &str = "INGOT_XTASK_CHILD";

/// Whether this process is the one that does the work.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs this program's command again in a child that has a folder below `cache`
/// for everything temporary. When the child is gone, by Ctrl-C for example,
/// its folder, network namespaces and what still runs in them go too.
pub fn supervise(cache: &Path) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("tmp-").tempdir_in(cache)?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(CHILD, "1")
        .env("TMPDIR", scratch.path())
        .spawn()
        .context("cannot start the child")?;
    let pid = Pid::from_child(&child);
    // Ctrl-C reaches the child by itself too; a SIGTERM only us.
    ctrlc::set_handler(move || {
        // A child that is gone needs no telling.
        let _ = kill_process(pid, Signal::TERM);
    })?;
    let status = child.wait()?;
    // Making a namespace removes those of dead owners.
    drop(Namespace::new()?);
    ensure!(status.success(), "it ended before it was done ({status})");
    Ok(())
}
