//! From power-on to the login prompt, by each kind of firmware: a bare machine
//! is installed, its disk is the image, and its next boot transfers nothing.

use anyhow::{Context as _, Result, ensure};
use tests::BOOT_PATIENCE;
use tests_rig::Firmware;

use crate::support::{self, Scene, same_as_image};

/// Larger than the image, so that the partition table has to move and grow.
const DISK_BYTES: u64 = 3 << 30;
const MAC: &str = "52:54:00:1a:60:10";

fn installs_once(name: &str, firmware: Firmware) -> Result<()> {
    let mut scene = Scene::new()?;
    scene.site.policy(&support::rule("any", "", "demo:latest", "power-off"))?;
    scene.site.serve()?;
    let machine = scene.site.machine(name, firmware, MAC, DISK_BYTES)?;

    let first = machine.start()?;
    let ended = first.wait(BOOT_PATIENCE);
    ended.with_context(|| format!("the installation:\n{}", first.console().tail()))?;
    let run = scene.only_run()?;
    ensure!(run["state"] == "succeeded", "{run:#}");
    same_as_image(&scene, "demo:latest", &scene.site.disk(name))?;

    scene.site.policy(&support::rule("any", "", "demo:latest", "kexec"))?;
    let sent = scene.site.sent_bytes(support::PACKS_ROUTE)?;
    ensure!(sent > 0, "the metric counts nothing");
    let second = machine.start()?;
    second.console().wait_for("demo login:", BOOT_PATIENCE)?;
    ensure!(scene.site.sent_bytes(support::PACKS_ROUTE)? == sent, "the second boot fetched");
    let run = scene.latest_run()?;
    ensure!(run["state"] == "already-installed", "{run:#}");
    let written = run["steps"].as_array().into_iter().flatten().map(|s| &s["written_bytes"]);
    ensure!(written.clone().all(|bytes| bytes == 0), "the second boot wrote: {run:#}");
    Ok(())
}

#[test]
fn bios_with_ipxe_in_the_network_card() -> Result<()> {
    installs_once("bios", Firmware::Bios)
}

#[test]
fn uefi_pxe() -> Result<()> {
    installs_once("uefi-pxe", Firmware::UefiPxe)
}

#[test]
fn uefi_http() -> Result<()> {
    installs_once("uefi-http", Firmware::UefiHttp)
}
