//! A machine as QEMU's command line.

use std::path::Path;

use super::{Boot, Bus, Disk, Firmware, Vm};
use crate::accel::OVMF_CODE;

impl Vm {
    /// All arguments but those of the accelerator; `dir` holds the socket and the firmware's variables.
    pub(super) fn qemu_arguments(&self, dir: &Path) -> Vec<String> {
        let mut all = Arguments::default();
        all.flag("-nodefaults");
        all.flag("-no-user-config");
        all.add("-name", escape(&self.name));
        all.add("-display", "none");
        all.add("-m", format!("{}M", self.memory_mib));
        all.add("-boot", "strict=on");
        all.add("-chardev", "stdio,id=console,signal=off");
        all.add("-serial", "chardev:console");
        all.add("-qmp", format!("unix:{},server=on,wait=off", path(&dir.join("qmp"))));
        all.add("-object", "rng-random,id=rng,filename=/dev/urandom");
        all.add("-device", "virtio-rng-pci,rng=rng");
        if self.no_reboot {
            all.flag("-no-reboot");
        }
        self.firmware(&mut all, dir);
        self.smbios_record(&mut all);
        self.disks(&mut all);
        self.networks(&mut all);
        if let Some((kernel, initrd, cmdline)) = &self.kernel {
            all.add("-kernel", kernel.display().to_string());
            all.add("-initrd", initrd.display().to_string());
            all.add("-append", cmdline);
        }
        all.0.extend(self.extra.iter().cloned());
        all.0
    }

    fn firmware(&self, all: &mut Arguments, dir: &Path) {
        if self.firmware == Firmware::Bios {
            // Without graphics SeaBIOS and iPXE talk to the serial port.
            all.add("-machine", "pc,graphics=off");
            return;
        }
        all.add("-machine", "q35,smm=off,graphics=off");
        all.add("-drive", format!("if=pflash,format=raw,unit=0,readonly=on,file={OVMF_CODE}"));
        let vars = path(&dir.join("vars.fd"));
        all.add("-drive", format!("if=pflash,format=raw,unit=1,file={vars}"));
        // What is not wanted would be waited out for a minute each.
        all.add("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no");
        if self.firmware == Firmware::UefiHttp {
            all.add("-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no");
        }
    }

    fn smbios_record(&self, all: &mut Arguments) {
        if self.smbios.is_empty() {
            return;
        }
        let fields = self.smbios.iter().map(|(key, value)| format!(",{key}={}", escape(value)));
        all.add("-smbios", format!("type=1{}", fields.collect::<String>()));
    }

    fn disks(&self, all: &mut Arguments) {
        let has = |bus: Bus| self.disks.iter().any(|disk| disk.bus == bus);
        if has(Bus::Scsi) {
            all.add("-device", "virtio-scsi-pci,id=scsi");
        }
        if has(Bus::Ata) {
            all.add("-device", "ich9-ahci,id=ahci");
        }
        if has(Bus::Usb) {
            all.add("-device", "qemu-xhci,id=usb");
        }
        let mut ata_ports = 0..;
        for (index, disk) in self.disks.iter().enumerate() {
            let file = path(&disk.path);
            // The page cache of the host survives every power cut that a test can make.
            let drive = format!("if=none,id=disk{index},format=raw,cache=unsafe,discard=unmap");
            all.add("-drive", format!("{drive},file={file}"));
            let port = if disk.bus == Bus::Ata { ata_ports.next() } else { None };
            let mut device = device(disk, port.unwrap_or(0));
            device += &format!(",drive=disk{index}{}", self.boot_index(Boot::Disk(index)));
            all.add("-device", device);
        }
    }

    fn networks(&self, all: &mut Arguments) {
        for (index, (tap, mac)) in self.networks.iter().enumerate() {
            let name = &tap.name;
            all.add(
                "-netdev",
                format!("tap,id=net{index},ifname={name},script=no,downscript=no,vhost=off"),
            );
            let mut device = format!("{},netdev=net{index},mac={mac}", self.nic_model);
            if self.firmware != Firmware::Bios {
                // Without the ROM it is OVMF's own stack that boots, not iPXE.
                device += ",romfile=";
            }
            if index == 0 {
                device += &self.boot_index(Boot::Network);
            }
            all.add("-device", device);
        }
    }

    fn boot_index(&self, boot: Boot) -> String {
        if self.kernel.is_some() {
            // QEMU itself gives the kernel the first place.
            return String::new();
        }
        let disks = (0..self.disks.len()).map(Boot::Disk);
        let default = || std::iter::once(Boot::Network).chain(disks).collect();
        let order = self.boot.clone().unwrap_or_else(default);
        let place = order.iter().position(|&entry| entry == boot);
        place.map(|place| format!(",bootindex={place}")).unwrap_or_default()
    }
}

fn device(disk: &Disk, ata_port: u32) -> String {
    let mut device = match disk.bus {
        Bus::Virtio => "virtio-blk-pci".to_owned(),
        Bus::Nvme => "nvme".to_owned(),
        Bus::Scsi => "scsi-hd,bus=scsi.0".to_owned(),
        Bus::Ata => format!("ide-hd,bus=ahci.{ata_port}"),
        Bus::Usb => "usb-storage,bus=usb.0".to_owned(),
    };
    match (&disk.serial, disk.bus) {
        (Some(serial), _) => device += &format!(",serial={}", escape(serial)),
        // NVMe must have one.
        (None, Bus::Nvme) => device += ",serial=none",
        (None, _) => {}
    }
    let bytes = disk.sector_bytes;
    device + &format!(",logical_block_size={bytes},physical_block_size={bytes}")
}

/// In QEMU's option lists a comma is written twice.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

fn path(path: &Path) -> String {
    escape(&path.display().to_string())
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.to_owned(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(vm: &Vm) -> String {
        vm.qemu_arguments(Path::new("/d")).join(" ")
    }

    #[test]
    fn boot_order_is_network_then_disks_unless_told() {
        let vm = Vm::new("m", Firmware::Bios)
            .disk(Disk::new(Path::new("a,b")).serial("S,1"))
            .disk(Disk::new(Path::new("c")).bus(Bus::Nvme).sector_bytes(4096));
        let default = line(&vm);
        assert!(default.contains("file=a,,b"), "{default}");
        assert!(default.contains("serial=S,,1"), "{default}");
        assert!(default.contains("drive=disk1,bootindex=2"), "{default}");
        let told = line(&vm.boot(&[Boot::Disk(1)]));
        assert!(told.contains("drive=disk1,bootindex=0"), "{told}");
        assert!(told.ends_with("drive=disk1,bootindex=0"), "{told}");
        assert_eq!(told.matches("bootindex").count(), 1);
        let direct = line(&Vm::new("m", Firmware::Bios).disk(Disk::new(Path::new("a"))).kernel(
            Path::new("k"),
            Path::new("i"),
            "quiet",
        ));
        assert!(!direct.contains("bootindex") && direct.contains("-append quiet"), "{direct}");
    }

    #[test]
    fn only_http_boot_turns_pxe_off() {
        let pxe = line(&Vm::new("m", Firmware::UefiPxe));
        let http = line(&Vm::new("m", Firmware::UefiHttp));
        assert!(!pxe.contains("IPv4PXESupport") && pxe.contains("IPv6PXESupport"));
        assert!(http.contains("IPv4PXESupport"));
    }
}
