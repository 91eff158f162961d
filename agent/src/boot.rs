//! The first seconds as PID 1: file systems, drivers, devices.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use store_remote::Timing;

use crate::inventory::{Roots, disks, links};
use crate::modules::{Modules, modaliases};
use crate::uevent::Uevents;

/// Mounts what the kernel offers. What is mounted already stays.
pub fn mount_all() {
    let plain = MountFlags::NOSUID | MountFlags::NOEXEC;
    let mounts = [
        ("proc", "/proc", plain | MountFlags::NODEV),
        ("sysfs", "/sys", plain | MountFlags::NODEV),
        ("devtmpfs", "/dev", plain),
        ("tmpfs", "/run", plain | MountFlags::NODEV),
    ];
    for (kind, target, flags) in mounts {
        let _ = fs::create_dir_all(target);
        // Where it does not work, whoever needs it says so: here is no console yet.
        let _ = mount(kind, target, kind, flags, None);
    }
    // Messages of the kernel would tear the lines on the console apart; warnings stay.
    let _ = fs::write("/proc/sys/kernel/printk", "4");
}

/// Mounts the firmware's variables, on a machine that has them.
pub fn mount_efivars(modules: Option<&mut Modules>) {
    let target = "/sys/firmware/efi/efivars";
    if Path::new(target).exists() {
        if let Some(modules) = modules {
            modules.load("efivarfs");
        }
        let flags =
            MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV | MountFlags::RDONLY;
        let _ = mount("efivarfs", target, "efivarfs", flags, None);
    }
}

/// The modules of the running kernel, where the boot artifact has any.
pub fn modules() -> Option<Modules> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Modules::open(&Path::new("/lib/modules").join(release.trim())).ok()
}

/// Silence after which no more devices are expected.
const QUIET: Duration = Duration::from_millis(300);
/// Longest wait for silence.
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// Longest wait for a first disk and a first network card.
const DEVICES_MAX: Duration = Duration::from_secs(30);

/// Loads what the hardware asks for, until the kernel has been quiet for a
/// moment and there is at least a disk and a network card, or it takes too long.
pub fn load_drivers(
    roots: &Roots,
    modules: Option<&mut Modules>,
    uevents: Option<&Uevents>,
    timing: &dyn Timing,
    say: &dyn Fn(&str),
) {
    let started = timing.now();
    let mut drivers = Drivers { modules, loaded: BTreeMap::new() };
    let devices = roots.sys.join("devices");
    drivers.load_for(modaliases(&devices).into_keys());
    loop {
        let waited = timing.now().saturating_sub(started);
        let event = match uevents {
            Some(uevents) => uevents.next(QUIET),
            None => {
                timing.sleep(QUIET);
                None
            }
        };
        if let Some(alias) = event {
            drivers.load_for([alias].into_iter());
            if waited < SETTLE_MAX {
                continue;
            }
        } else {
            // Some devices appear without an event of their own being heard.
            drivers.load_for(modaliases(&devices).into_keys());
        }
        let complete = !disks(roots).is_empty() && !links(&roots.sys).is_empty();
        if complete || waited >= DEVICES_MAX {
            break;
        }
    }
    drivers.tell(say);
}

struct Drivers<'a> {
    modules: Option<&'a mut Modules>,
    /// Module to why it did not load.
    loaded: BTreeMap<String, Option<String>>,
}

impl Drivers<'_> {
    fn load_for(&mut self, aliases: impl Iterator<Item = String>) {
        let Some(modules) = self.modules.as_deref_mut() else { return };
        for alias in aliases.filter(|alias| !alias.is_empty()) {
            for loaded in modules.load(&alias) {
                self.loaded.insert(loaded.name, loaded.error.map(|error| error.to_string()));
            }
        }
    }

    fn tell(&self, say: &dyn Fn(&str)) {
        let ok: Vec<&str> = self
            .loaded
            .iter()
            .filter(|(_, error)| error.is_none())
            .map(|(name, _)| name.as_str())
            .collect();
        say(&format!(
            "drivers: {}",
            if ok.is_empty() { "all built in".into() } else { ok.join(" ") }
        ));
        for (name, error) in &self.loaded {
            if let Some(error) = error {
                say(&format!("driver {name} did not load: {error}"));
            }
        }
    }
}
