//! Machines with real firmware: they start, show their banner, and leave nothing behind.

use std::path::Path;
use std::time::Duration;

use tests_rig::{Bus, Disk, Firmware, Namespace, Vm};

const LONG: Duration = Duration::from_secs(300);
const MAC: &str = "52:54:00:00:00:01";

#[test]
fn bios_reaches_ipxe_with_every_kind_of_disk() {
    let dir = tempfile::tempdir().unwrap();
    let wire = Namespace::with_bridge("10.77.0.1/24").unwrap();
    let mut machine = Vm::new("rig-bios", Firmware::Bios)
        .memory_mib(256)
        .smbios("serial", "SN, with comma")
        .log(&dir.path().join("console.log"))
        .network(&wire.tap().unwrap(), MAC);
    let buses = [Bus::Virtio, Bus::Nvme, Bus::Scsi, Bus::Ata, Bus::Ata, Bus::Usb];
    for (index, bus) in buses.into_iter().enumerate() {
        let path = dir.path().join(format!("disk-{index}"));
        machine = machine.disk(Disk::new(&path).size(16 << 20).bus(bus).serial("S"));
    }
    let run = machine.start().unwrap();
    run.console().wait_for("iPXE", LONG).unwrap();
    run.console().wait_for(MAC, LONG).unwrap();
    let io = run.disk_io().unwrap();
    assert_eq!(io.len(), buses.len());
    assert!(io.iter().all(|disk| disk.written_bytes == 0));
    run.reset().unwrap();
    run.console().wait_for("SeaBIOS", LONG).unwrap();
    run.power_off().unwrap();
}

#[test]
fn uefi_tries_only_http_and_dies_with_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let pid = std::thread::spawn(move || {
        let wire = Namespace::with_bridge("10.77.0.1/24").unwrap();
        let run = Vm::new("rig-uefi", Firmware::UefiHttp)
            .log(&dir.path().join("console.log"))
            .disk(Disk::new(&dir.path().join("disk")).size(16 << 20))
            .network(&wire.tap().unwrap(), MAC)
            .start()
            .unwrap();
        let text = run.console().wait_for("Start HTTP Boot over IPv4", LONG).unwrap();
        assert!(!text.contains("Start PXE"), "{text}");
        std::panic::panic_any(run.pid());
    });
    let pid = *pid.join().unwrap_err().downcast::<u32>().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}
