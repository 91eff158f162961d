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
