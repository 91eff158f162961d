//! Which accelerator runs guests here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::{Process, cached};

pub(crate) const QEMU: &str = "qemu-system-x86_64";
pub(crate) const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
pub(crate) const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// A healthy host is done in 2 seconds.
const PROBE_TIME: Duration = Duration::from_secs(20);

/// How QEMU executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// In hardware.
    Kvm,
    /// By translation, 10 to 30 times slower.
    Tcg,
}

impl Accel {
    /// The arguments of QEMU, processors included.
    ///
    /// Translated guests have one: with two, QEMU 7.2 now and then keeps running a breakpoint
    /// that Linux had put into its own code for a moment (`text_poke`) and has since taken
    /// out, and the guest hangs for good with both processors in `hrtimer_interrupt`.
    pub(crate) fn arguments(self) -> [&'static str; 6] {
        match self {
            Accel::Kvm => ["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "1"],
        }
    }
}

/// KVM where it really runs guests, else TCG; `RIG_ACCEL=kvm|tcg` overrides.
///
/// A device node that opens proves nothing: on some nested hosts guests hang or die, so
/// firmware is run to its boot menu once per boot of the host, and the answer is kept.
pub fn acceleration() -> Result<Accel> {
    match std::env::var("RIG_ACCEL").as_deref() {
        Ok("kvm") => return Ok(Accel::Kvm),
        Ok("tcg") => return Ok(Accel::Tcg),
        Ok(other) => anyhow::bail!("RIG_ACCEL={other:?}: expected \"kvm\" or \"tcg\""),
        Err(_) => {}
    }
    if fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accel::Tcg);
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read boot_id")?;
    let answer = cached(&format!("kvm-{}", boot_id.trim()), |path| {
        let works = runs_firmware(&path.with_extension("log"));
        Ok(fs::write(path, if works { "kvm" } else { "tcg" })?)
    })?;
    let works = fs::read_to_string(&answer)? == "kvm";
    Ok(if works { Accel::Kvm } else { Accel::Tcg })
}

fn runs_firmware(log: &Path) -> bool {
    let mut command = Command::new(QEMU);
    command.args(Accel::Kvm.arguments()).args(["-nodefaults", "-no-user-config", "-m", "256"]);
    command.args(["-machine", "q35,smm=off,graphics=off", "-display", "none"]);
    command.args(["-serial", "stdio", "-drive"]);
    command.arg(format!("if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"));
    let Ok(probe) = Process::spawn(command, log) else { return false };
    probe.console().wait_for("BdsDxe", PROBE_TIME).is_ok()
}
