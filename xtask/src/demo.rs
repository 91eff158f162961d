//! The main job, for real and live on the terminal: build an image, boot a bare
//! virtual machine over the network, install it, see it boot; then switch it on
//! again and see that nothing is transferred.

mod live;
mod summary;

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use tests::{BOOT_PATIENCE, Product, Site, recipe};
use tests_rig::{Firmware, Vm, VmRun, target_dir};

use crate::build;
use crate::supervise::{is_child, supervise};
use live::Live;
use summary::{PowerOn, Summary};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// How the machine boots
    #[arg(long, value_enum, default_value = "uefi")]
    firmware: FirmwareArg,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FirmwareArg {
    /// SeaBIOS and the iPXE of its network card
    Bios,
    /// UEFI, PXE over TFTP
    Uefi,
    /// UEFI HTTP boot
    Http,
}

impl From<FirmwareArg> for Firmware {
    fn from(arg: FirmwareArg) -> Firmware {
        match arg {
            FirmwareArg::Bios => Firmware::Bios,
            FirmwareArg::Uefi => Firmware::UefiPxe,
            FirmwareArg::Http => Firmware::UefiHttp,
        }
    }
}

const MAC: &str = "52:54:00:1a:60:01";
const DISK_BYTES: u64 = 4 << 30;
const POLICY: &str = r#"
[[rule]]
name = "machines of the demo"
when = "system.manufacturer == 'Ingot Test' and memory.usable >= 256MiB"
image = "demo:latest"
"#;

/// Runs it, and leaves nothing but its cache however it ends.
pub fn run(args: &Args) -> Result<()> {
    let cache = target_dir().join("demo");
    std::fs::create_dir_all(&cache)?;
    if is_child() { show_all(args, &cache) } else { supervise(&cache) }
}

fn show_all(args: &Args, cache: &Path) -> Result<()> {
    let begun = Instant::now();

    title("build ingot");
    let binaries = build::run(&build::Args { release: true })?;
    let product = Product { ingot: binaries.ingot, agent: binaries.agent };

    let path = |path: &Path| path.to_string_lossy().into_owned();
    let (store, assets) = (cache.join("store"), cache.join("boot"));
    let kept = path(&cache.join("cache"));
    let ingot = |arguments: &[&str]| show(&product, &[arguments, &["--cache", &kept]].concat());

    title("build the image that the machine will get");
    let recipe = path(&recipe("demo"));
    ingot(&["build", &recipe, "-t", "demo:latest", "--store", &path(&store)])?;
    ingot(&["show", "demo:latest", "--store", &path(&store)])?;

    title("pack the loader: a Debian kernel, its drivers, the agent");
    ingot(&["boot", "assets", "--agent", &path(&product.agent), "--out", &path(&assets)])?;

    title("start the server in a network of its own");
    let folder = tempfile::tempdir()?;
    let mut site = Site::new(&product, &store, &assets, folder.path())?;
    site.policy(POLICY)?;
    println!("the policy:{POLICY}");
    site.serve()?;
    let server = Live::follow("server ", &site.server_log());

    let firmware = Firmware::from(args.firmware);
    let machine = site.machine("bare", firmware, MAC, DISK_BYTES)?;
    title("power on: a bare machine, its disk empty");
    let first = power_on(&site, &machine)?;
    title("power on again: the same machine, its disk as it was left");
    let second = power_on(&site, &machine)?;

    title("on record");
    print!("{}", site.ingot(&["machine", "ls"])?);
    print!("{}", site.ingot(&["run", "ls"])?);
    drop(server);
    site.stop_server()?;
    title("summary");
    let summary = Summary { first, second, total: begun.elapsed() };
    summary.print();
    summary.check()
}

/// Switches the machine on, shows its console until the login prompt, and off again.
fn power_on(site: &Site, machine: &Vm) -> Result<PowerOn> {
    let sent_before = site.sent_bytes("/v1/packs/{pack}")?;
    let begun = Instant::now();
    let run: VmRun = machine.start()?;
    let live = Live::follow("machine", run.console().log());
    let reached = |text: &str, what: &str| {
        let waited = run.console().wait_for(text, BOOT_PATIENCE);
        waited.map(|_| begun.elapsed()).with_context(|| format!("the machine came to no {what}"))
    };
    let to_agent = reached("ingot agent", "agent")?;
    let to_start = reached("starting the installed OS", "installed OS")?;
    let to_login = reached("login:", "login prompt")?;
    let disk = run.disk_io()?.first().map_or(0, |io| io.written_bytes);
    let sent = site.sent_bytes("/v1/packs/{pack}")? - sent_before;
    drop(live);
    run.power_off()?;
    let latest = site.runs()?.first().cloned().context("the server has no run on record")?;
    let id = latest["id"].as_str().unwrap_or_default().to_owned();
    let detail = site.run(&id)?;
    Ok(PowerOn {
        to_agent,
        to_start,
        to_login,
        image_bytes_sent: sent,
        disk_bytes_written: disk,
        detail,
    })
}

/// Runs `ingot` with its output on the terminal, the command line shown first.
fn show(product: &Product, arguments: &[&str]) -> Result<()> {
    println!("$ ingot {}", arguments.join(" "));
    crate::shell::run(&mut product.command(arguments))
}

fn title(text: &str) {
    println!("\n== {text}");
}
