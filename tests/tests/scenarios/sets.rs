//! A machine with two disks, and a person in front of it: what is answered at
//! the console decides that each disk gets an image of its own.

use anyhow::{Context as _, Result, ensure};
use tests::BOOT_PATIENCE;
use tests_rig::{Disk, Firmware};

use crate::support::{self, Scene, same_as_image};

const DISK_BYTES: u64 = 2 << 30;
const MAC: &str = "52:54:00:1a:60:90";

/// Without the answer the machine is refused: nobody's default is taken for it.
fn policy(start: &str) -> String {
    format!(
        r#"
[[question]]
name = "role"
text = "What is this machine for?"
choices = ["nothing", "both"]
wait = "30 min"

[[rule]]
name = "both"
when = 'answer.role == "both"'
set = [
  {{ image = "demo:latest", disk = {{ serial = "DISK-pair" }} }},
  {{ image = "web:latest", disk = {{ serial = "DATA-pair" }} }},
]
start = "{start}"

[[rule]]
name = "nothing"
fail = "this machine is for nothing"
"#
    )
}

#[test]
fn an_answer_at_the_console_gives_two_disks_an_image_each() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.site.policy(&policy("power-off"))?;
    scene.site.serve()?;
    let data = scene.site.path("data.raw");
    let second_disk = Disk::new(&data).size(DISK_BYTES).serial("DATA-pair");
    let machine = scene.site.machine("pair", Firmware::Bios, MAC, DISK_BYTES)?.disk(second_disk);

    let first = machine.start()?;
    first.console().wait_for("What is this machine for?", BOOT_PATIENCE)?;
    ensure!(scene.site.runs()?.is_empty(), "it did not wait for the answer");
    first.console().send("both\n")?;
    let ended = first.wait(BOOT_PATIENCE);
    ended.with_context(|| format!("the installation:\n{}", first.console().tail()))?;
    let run = scene.only_run()?;
    ensure!(run["state"] == "succeeded" && run["rule"] == "both", "{run:#}");
    ensure!(run["reference"] == "demo:latest", "{run:#}");
    ensure!(run["others"][0]["reference"] == "web:latest", "{run:#}");
    same_as_image(&scene, "demo:latest", &scene.site.disk("pair"))?;
    same_as_image(&scene, "web:latest", &data)?;

    // Both are there: it is asked nothing, nothing moves, and the first of the two starts.
    scene.site.policy(&policy("kexec"))?;
    let sent = scene.site.sent_bytes(support::PACKS_ROUTE)?;
    let second = machine.start()?;
    second.console().wait_for("demo login:", BOOT_PATIENCE)?;
    let said = second.console().text();
    ensure!(!said.contains("What is this machine for?"), "it asked again:\n{said}");
    ensure!(scene.site.sent_bytes(support::PACKS_ROUTE)? == sent, "the second boot fetched");
    ensure!(second.disk_io()?[1].written_bytes == 0, "the second boot wrote to the data disk");
    let run = scene.latest_run()?;
    ensure!(run["state"] == "already-installed", "{run:#}");
    Ok(())
}
