//! Policy at work on real machines: who gets what, who waits, and what happens
//! when the server dies.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tests::BOOT_PATIENCE;
use tests_rig::Firmware;

use crate::support::{self, Scene};

const DISK_BYTES: u64 = 2 << 30;

/// Asks again and again until there is an answer.
fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    while begun.elapsed() < BOOT_PATIENCE {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    anyhow::bail!("{what}: not within {BOOT_PATIENCE:?}")
}

#[test]
fn two_machines_at_once_get_the_images_that_policy_gives_them() -> Result<()> {
    let mut scene = Scene::new()?;
    let web = support::rule("web", "system.product == 'blade'", "web:latest", "kexec");
    scene.site.policy(&(web + &support::rule("rest", "", "demo:latest", "kexec")))?;
    scene.site.serve()?;
    let blade =
        scene.site.machine("blade", Firmware::Bios, "52:54:00:1a:60:20", DISK_BYTES)?.start()?;
    let tower = scene
        .site
        .machine("tower", Firmware::UefiHttp, "52:54:00:1a:60:21", DISK_BYTES)?
        .start()?;
    blade.console().wait_for("web login:", BOOT_PATIENCE)?;
    tower.console().wait_for("demo login:", BOOT_PATIENCE)?;
    let mut got: Vec<_> = Vec::new();
    for run in scene.site.runs()? {
        ensure!(run["state"] == "succeeded", "{run:#}");
        got.push(format!("{} {}", run["rule"], run["reference"]));
    }
    got.sort();
    ensure!(got == ["\"rest\" \"demo:latest\"", "\"web\" \"web:latest\""], "{got:?}");
    Ok(())
}

#[test]
fn a_machine_that_no_rule_matches_holds_with_its_disk_untouched() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.site.policy(&support::rule("other", "cpu.count > 64", "demo:latest", "kexec"))?;
    scene.site.serve()?;
    let mac = "52:54:00:1a:60:30";
    let machine = scene.site.machine("stranger", Firmware::Bios, mac, DISK_BYTES)?.start()?;
    let record = until("check-in", || scene.site.machine_with(mac))?;
    ensure!(record["state"] == "held", "{record:#}");
    let reason = record["reason"].as_str().context("no reason")?;
    machine.console().wait_for(reason, BOOT_PATIENCE)?;
    let id = record["id"].as_str().context("no id")?;
    let why = scene.site.ingot(&["policy", "why", id])?;
    ensure!(why.contains("cpu.count"), "{why}");
    ensure!(scene.site.runs()?.is_empty());
    let io = machine.disk_io()?;
    ensure!(io[0].written_bytes == 0 && io[0].discarded_bytes == 0, "{io:?}");

    // The person adds the rule; the machine needs no hand.
    scene.site.policy(&support::rule("any", "", "demo:latest", "kexec"))?;
    machine.console().wait_for("demo login:", BOOT_PATIENCE)?;
    Ok(())
}

fn restarts_into_its_disk(name: &str, firmware: Firmware, mac: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    scene.site.policy(&support::rule("any", "", "demo:latest", "reboot"))?;
    scene.site.serve()?;
    let machine = scene.site.machine(name, firmware, mac, DISK_BYTES)?.start()?;
    machine.console().wait_for("demo login:", BOOT_PATIENCE)?;
    let said = scene.site.server_said();
    ensure!(said.contains("decision=disk"), "the firmware never asked again:\n{said}");
    let run = scene.only_run()?;
    ensure!(run["state"] == "succeeded", "{run:#}");
    Ok(())
}

#[test]
fn a_rule_that_says_reboot_lets_the_bios_start_the_disk() -> Result<()> {
    restarts_into_its_disk("rebios", Firmware::Bios, "52:54:00:1a:60:70")
}

#[test]
fn a_rule_that_says_reboot_lets_uefi_start_the_disk() -> Result<()> {
    restarts_into_its_disk("reuefi", Firmware::UefiPxe, "52:54:00:1a:60:71")
}

#[test]
fn a_server_killed_while_a_machine_writes_loses_nothing() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.site.policy(&support::rule("any", "", "demo:latest", "kexec"))?;
    scene.site.serve()?;
    let mac = "52:54:00:1a:60:40";
    let machine = scene.site.machine("patient", Firmware::Bios, mac, DISK_BYTES)?.start()?;
    until("first image bytes", || {
        Ok((scene.site.sent_bytes(support::PACKS_ROUTE)? > 1 << 20).then_some(()))
    })?;
    scene.site.kill_server();
    ensure!(
        !machine.console().text().contains("login:"),
        "it was killed too late to show anything"
    );
    // Long enough for transfers and reports to fail and be tried again.
    std::thread::sleep(Duration::from_secs(5));
    scene.site.serve()?;
    machine.console().wait_for("demo login:", BOOT_PATIENCE)?;
    let run = scene.only_run()?;
    ensure!(run["state"] == "succeeded", "{run:#}");
    ensure!(run["attempt"] == 1, "a dead server is no failed attempt: {run:#}");
    Ok(())
}

#[test]
fn an_image_larger_than_the_disk_is_refused_before_the_first_write() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.site.policy(&support::rule("any", "", "demo:latest", "kexec"))?;
    scene.site.serve()?;
    let mac = "52:54:00:1a:60:50";
    let machine = scene.site.machine("small", Firmware::Bios, mac, 256 << 20)?.start()?;
    let run = until("a failed run", || {
        Ok(scene.site.runs()?.into_iter().find(|run| run["state"] == "failed"))
    })?;
    let cause = run["cause"].as_str().context("no cause")?;
    ensure!(cause.contains(&(256u64 << 20).to_string()), "no numbers in: {cause}");
    let record = scene.site.machine_with(mac)?.context("no machine")?;
    ensure!(record["state"] == "held", "three failures hold it: {record:#}");
    let io = machine.disk_io()?;
    ensure!(io[0].written_bytes == 0, "{io:?}");
    Ok(())
}

#[test]
fn a_corrupt_chunk_never_becomes_a_bootable_disk() -> Result<()> {
    let mut scene = Scene::on_own_store()?;
    support::corrupt_a_pack(&scene.folder.path().join("store"))?;
    scene.site.policy(&support::rule("any", "", "demo:latest", "kexec"))?;
    scene.site.serve()?;
    let mac = "52:54:00:1a:60:60";
    let machine = scene.site.machine("bitrot", Firmware::Bios, mac, DISK_BYTES)?.start()?;
    let run = until("a failed run", || {
        Ok(scene.site.runs()?.into_iter().find(|run| run["state"] == "failed"))
    })?;
    let cause = run["cause"].as_str().context("no cause")?;
    ensure!(cause.contains("chunk"), "it names no chunk: {cause}");
    ensure!(!machine.console().text().contains("login:"));
    machine.power_off()?;
    support::nothing_bootable(&scene.site.disk("bitrot"))
}
