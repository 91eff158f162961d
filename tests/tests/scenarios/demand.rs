//! An image that nobody built yet: a machine needs it, the server makes it, and
//! the next machine just gets it.

use anyhow::{Context as _, Result, ensure};
use tests::{BOOT_PATIENCE, recipe};
use tests_rig::{Firmware, VmRun};

use crate::support::Scene;

const DISK_BYTES: u64 = 2 << 30;

/// On the base of the demo recipe and without packages of its own: a site has
/// no way to a mirror.
const RECIPE: &str = r#"
recipe = "fitted"
uses = ["system.manufacturer"]
script = 'echo "fitted for $INGOT_SYSTEM_MANUFACTURER" > /etc/issue'

[base]
distro = "debian/bookworm"
packages = ["linux-image-cloud-amd64"]
"#;

const POLICY: &str = "[[rule]]\nname = \"any\"\nrecipe = \"fitted.toml\"\nstart = \"kexec\"\n";

/// A site whose server can build the recipe from what is in the build cache.
fn site() -> Result<Scene> {
    let scene = Scene::on_own_store()?;
    let (demo, store) = (recipe("demo"), scene.folder.path().join("store"));
    let (demo, store) = (demo.to_string_lossy(), store.to_string_lossy());
    scene.product.run(&["build", &demo, "-t", "demo:latest", "--store", &store])?;
    std::fs::write(scene.site.path("fitted.toml"), RECIPE)?;
    scene.site.policy(POLICY)?;
    Ok(scene)
}

/// Waits for the login prompt of what was built for these machines.
fn boots_what_was_built(machine: &VmRun) -> Result<()> {
    machine.console().wait_for("fitted for Ingot Test", BOOT_PATIENCE)?;
    machine.console().wait_for("fitted login:", BOOT_PATIENCE)?;
    Ok(())
}

#[test]
fn an_unknown_configuration_is_built_installed_and_booted_and_the_next_machine_gets_it()
-> Result<()> {
    let mut scene = site()?;
    scene.site.serve()?;
    let first = "52:54:00:1a:60:80";
    let machine = scene.site.machine("first", Firmware::Bios, first, DISK_BYTES)?.start()?;
    machine.console().wait_for("wants built/fitted:", BOOT_PATIENCE)?;
    boots_what_was_built(&machine)?;
    drop(machine);
    let run = scene.only_run()?;
    ensure!(run["state"] == "succeeded", "{run:#}");
    let reference = run["reference"].as_str().context("no reference")?.to_owned();
    ensure!(reference.starts_with("built/fitted:"), "{run:#}");

    // It has a name, so it stays, and says what it was made for.
    let store = scene.folder.path().join("store").to_string_lossy().into_owned();
    scene.product.run(&["gc", "--store", &store])?;
    let shown = scene.product.run(&["show", &reference, "--json", "--store", &store])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let configuration = &shown["envelope"]["configuration"];
    ensure!(configuration["fact.system.manufacturer"] == "\"Ingot Test\"", "{configuration:#}");
    let id = run["machine"].as_str().context("no machine")?;
    let why = scene.site.ingot_json(&["policy", "why", id])?;
    let build = &why["rules"][0]["builds"][0];
    ensure!(build["image"] == run["image"] && build["key"] == configuration["key"], "{why:#}");

    let second = "52:54:00:1a:60:81";
    let machine = scene.site.machine("second", Firmware::Bios, second, DISK_BYTES)?.start()?;
    boots_what_was_built(&machine)?;
    let runs = scene.site.runs()?;
    ensure!(runs.len() == 2 && runs[0]["image"] == runs[1]["image"], "{runs:#?}");
    let said = scene.site.server_said();
    ensure!(said.matches("build begins").count() == 1, "it was built again:\n{said}");
    let waited = machine.console().text().contains("This machine waits");
    ensure!(!waited, "the second machine waited for what was there");
    Ok(())
}

/// What the server makes of it is the base; the rest is up to the machine.
const ON_TARGET: &str = r#"
recipe = "grown"
uses = ["system.manufacturer"]
script = 'echo "the base" > /etc/issue'

[base]
distro = "debian/bookworm"
packages = ["linux-image-cloud-amd64"]

[target]
script = """
product=$(cat /sys/class/dmi/id/product_name)
echo "grown on $product of $INGOT_SYSTEM_MANUFACTURER" > /etc/issue
grep -q ' / ext4 ' /proc/mounts
grep -q ' /boot/efi vfat ' /proc/mounts
echo "<4>firmware of the card is old" > /dev/kmsg
echo "this is $product"
"""
"#;

const ON_TARGET_POLICY: &str = "[[rule]]\nname = \"any\"\nrecipe = \"grown.toml\"\n\
                                missing = \"on-target\"\nstart = \"kexec\"\n";

/// Bytes that the upload of the captured image may have at most: the script
/// changed a file, and of its base, with hundreds of megabytes, nothing travels again.
const UPLOAD_MAX: u64 = 16 << 20;

#[test]
fn an_image_is_made_on_a_machine_captured_and_the_next_machine_gets_it() -> Result<()> {
    let mut scene = site()?;
    scene.site.takes_uploads()?;
    std::fs::write(scene.site.path("grown.toml"), ON_TARGET)?;
    scene.site.policy(ON_TARGET_POLICY)?;
    scene.site.serve()?;
    let login = |machine: &VmRun| -> Result<()> {
        machine.console().wait_for("grown on maker of Ingot Test", BOOT_PATIENCE)?;
        machine.console().wait_for("grown login:", BOOT_PATIENCE)?;
        Ok(())
    };
    let mac = "52:54:00:1a:60:82";
    let maker = scene.site.machine("maker", Firmware::Bios, mac, DISK_BYTES)?.start()?;
    maker.console().wait_for("this is maker", BOOT_PATIENCE)?;
    login(&maker)?;
    drop(maker);
    let runs = scene.site.runs()?;
    ensure!(runs.len() == 2, "one that makes it, one that installs it: {runs:#?}");
    ensure!(runs.iter().all(|run| run["state"] == "succeeded"), "{runs:#?}");
    let making = runs[1]["id"].as_str().context("no id")?;
    let log = scene.site.ingot(&["run", "logs", making])?;
    let warned = |line: &str| line.contains("kernel: [") && line.contains("card is old");
    ensure!(log.lines().any(warned), "no warning of the kernel in {log}");
    let made = &runs[0];
    let reference = made["reference"].as_str().context("no reference")?;
    ensure!(reference.starts_with("built/grown:"), "{made:#}");
    let sent = scene.site.metric("ingot_store_upload_bytes_total")?;
    ensure!((1..UPLOAD_MAX).contains(&sent), "{sent} bytes were uploaded");

    let mac = "52:54:00:1a:60:83";
    let next = scene.site.machine("next", Firmware::Bios, mac, DISK_BYTES)?.start()?;
    login(&next)?;
    let after = scene.site.runs()?;
    ensure!(after.len() == 3 && after[0]["image"] == made["image"], "{after:#?}");
    ensure!(scene.site.metric("ingot_store_upload_bytes_total")? == sent, "it was made again");
    Ok(())
}
