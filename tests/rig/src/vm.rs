//! Virtual machines with real firmware.

mod arguments;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::accel::{OVMF_VARS, QEMU};
use crate::namespace::{Tap, command_in};
use crate::{Console, DiskIo, Process, acceleration, qmp, target_dir};

/// How the machine boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS; the network card carries iPXE.
    Bios,
    /// OVMF with its own network stack; PXE over IPv4 is tried first, then HTTP.
    UefiPxe,
    /// OVMF with its own network stack; only HTTP boot.
    UefiHttp,
}

/// The bus of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// `/dev/vda`.
    Virtio,
    /// `/dev/nvme0n1`.
    Nvme,
    /// On a virtio SCSI controller, `/dev/sda`.
    Scsi,
    /// On an AHCI controller, `/dev/sda`; sectors of 512 bytes only.
    Ata,
    /// A USB stick, `/dev/sda`.
    Usb,
}

/// What the firmware may boot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The first network card.
    Network,
    /// The disk with this index.
    Disk(usize),
}

/// A disk of a machine: a raw file.
#[derive(Clone, Debug)]
pub struct Disk {
    path: PathBuf,
    size: Option<u64>,
    serial: Option<String>,
    sector_bytes: u32,
    bus: Bus,
}

impl Disk {
    /// A virtio disk with sectors of 512 bytes in the raw file `path`.
    pub fn new(path: &Path) -> Disk {
        Disk {
            path: path.to_owned(),
            size: None,
            serial: None,
            sector_bytes: 512,
            bus: Bus::Virtio,
        }
    }

    /// Makes the file, empty and sparse, when the machine starts and it does not exist.
    pub fn size(mut self, bytes: u64) -> Disk {
        self.size = Some(bytes);
        self
    }

    /// The serial number that the guest sees.
    pub fn serial(mut self, serial: &str) -> Disk {
        self.serial = Some(serial.to_owned());
        self
    }

    /// Logical and physical sector size, 512 or 4096.
    pub fn sector_bytes(mut self, bytes: u32) -> Disk {
        self.sector_bytes = bytes;
        self
    }

    /// How it is connected.
    pub fn bus(mut self, bus: Bus) -> Disk {
        self.bus = bus;
        self
    }

    fn create(&self) -> Result<()> {
        let Some(bytes) = self.size else { return Ok(()) };
        if self.path.exists() {
            return Ok(());
        }
        std::fs::File::create_new(&self.path)
            .and_then(|file| file.set_len(bytes))
            .with_context(|| format!("create disk {}", self.path.display()))
    }
}

/// A machine, switched off. It can be started any number of times; only its disks remember.
#[derive(Clone, Debug)]
pub struct Vm {
    name: String,
    firmware: Firmware,
    memory_mib: u32,
    log: Option<PathBuf>,
    smbios: Vec<(String, String)>,
    disks: Vec<Disk>,
    networks: Vec<(Tap, String)>,
    nic_model: String,
    boot: Option<Vec<Boot>>,
    no_reboot: bool,
    kernel: Option<(PathBuf, PathBuf, String)>,
    extra: Vec<String>,
}

impl Vm {
    /// A machine with 512 MiB of memory, a random number source and nothing else. The name is for people and for the log file.
    pub fn new(name: &str, firmware: Firmware) -> Vm {
        Vm {
            name: name.to_owned(),
            firmware,
            memory_mib: 512,
            log: None,
            smbios: Vec::new(),
            disks: Vec::new(),
            networks: Vec::new(),
            nic_model: "virtio-net-pci".to_owned(),
            boot: None,
            no_reboot: false,
            kernel: None,
            extra: Vec::new(),
        }
    }

    /// Memory size.
    pub fn memory_mib(mut self, mib: u32) -> Vm {
        self.memory_mib = mib;
        self
    }

    /// Where the console goes; by default `target/rig/logs/NAME.log`. Overwritten by each start.
    pub fn log(mut self, path: &Path) -> Vm {
        self.log = Some(path.to_owned());
        self
    }

    /// A field of the SMBIOS system record: `manufacturer`, `product`, `version`, `serial`,
    /// `uuid`, `sku` or `family`.
    pub fn smbios(mut self, field: &str, value: &str) -> Vm {
        self.smbios.push((field.to_owned(), value.to_owned()));
        self
    }

    /// Adds a disk; the first has index 0.
    pub fn disk(mut self, disk: Disk) -> Vm {
        self.disks.push(disk);
        self
    }

    /// Adds a network card. The machine runs in the namespace of its last TAP.
    pub fn network(mut self, tap: &Tap, mac: &str) -> Vm {
        self.networks.push((tap.clone(), mac.to_owned()));
        self
    }

    /// QEMU's name of the network cards' model; `virtio-net-pci` by default, or `e1000`,
    /// `e1000e`, `vmxnet3`.
    pub fn nic_model(mut self, model: &str) -> Vm {
        model.clone_into(&mut self.nic_model);
        self
    }

    /// What to boot from, in this order and nothing else; by default the network, then the
    /// disks.
    pub fn boot(mut self, order: &[Boot]) -> Vm {
        self.boot = Some(order.to_vec());
        self
    }

    /// A reboot by the guest switches the machine off.
    pub fn no_reboot(mut self) -> Vm {
        self.no_reboot = true;
        self
    }

    /// Starts this kernel, past the boot order.
    pub fn kernel(mut self, kernel: &Path, initrd: &Path, cmdline: &str) -> Vm {
        self.kernel = Some((kernel.to_owned(), initrd.to_owned(), cmdline.to_owned()));
        self
    }

    /// Further arguments of QEMU, as they are.
    pub fn arguments(mut self, arguments: &[&str]) -> Vm {
        self.extra.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Switches it on.
    pub fn start(&self) -> Result<VmRun> {
        let accel = acceleration()?;
        let dir = tempfile::Builder::new().prefix("ingot-vm-").tempdir()?;
        for disk in &self.disks {
            disk.create()?;
        }
        if self.firmware != Firmware::Bios {
            std::fs::copy(OVMF_VARS, dir.path().join("vars.fd"))
                .with_context(|| format!("copy {OVMF_VARS} (Debian package ovmf)"))?;
        }
        let mut command = match self.networks.last() {
            Some((tap, _)) => command_in(&tap.namespace, QEMU),
            None => Command::new(QEMU),
        };
        command.args(accel.arguments()).args(self.qemu_arguments(dir.path()));
        let default_log = || target_dir().join("rig/logs").join(format!("{}.log", self.name));
        let log = self.log.clone().unwrap_or_else(default_log);
        let process = Process::spawn(command, &log)
            .with_context(|| format!("machine {} (Debian package qemu-system-x86)", self.name))?;
        Ok(VmRun { process, dir, disks: self.disks.len() })
    }
}

/// A machine that is switched on; dropping it cuts the power.
pub struct VmRun {
    // Dropped first: the folder goes after the process that uses it.
    process: Process,
    dir: TempDir,
    disks: usize,
}

impl VmRun {
    /// The serial console, with what QEMU itself has to say.
    pub fn console(&self) -> &Console {
        self.process.console()
    }

    /// The process id of QEMU.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What the guest did to each disk since power-on.
    pub fn disk_io(&self) -> Result<Vec<DiskIo>> {
        qmp::disk_io(&self.socket(), self.disks)
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<()> {
        qmp::execute(&self.socket(), "system_reset").map(drop)
    }

    /// Presses the power button; the guest may shut down.
    pub fn press_power(&self) -> Result<()> {
        qmp::execute(&self.socket(), "system_powerdown").map(drop)
    }

    /// Switches it off at once. What the guest has written is in the disk files.
    pub fn power_off(self) -> Result<()> {
        qmp::execute(&self.socket(), "quit")?;
        self.wait(Duration::from_secs(60)).map(drop)
    }

    /// Waits until it switches itself off.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.wait(timeout)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("qmp")
    }
}
