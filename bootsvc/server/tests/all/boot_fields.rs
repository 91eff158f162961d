//! A stock client that says it is firmware gets what that firmware needs.
//! Needs root and the Debian package `udhcpc`.
use crate::support::*;
use bootsvc_server::Intent;

const OPTIONS: &[&str] = &["-O", "bootfile", "-O", "60", "-O", "43", "-O", "175"];

fn ask(lan: &Lan, class: &str, more: &[&str]) -> Told {
    let machine = lan.machine("52:54:00:00:00:01");
    machine.udhcpc(&[&["-V", class], OPTIONS, more].concat()).unwrap()
}

fn field<'a>(told: &'a Told, name: &str) -> &'a str {
    told.get(name).map_or("", String::as_str)
}

#[test]
fn uefi_pxe_is_sent_to_the_loader_by_tftp() {
    let lan = Lan::new();
    let told = ask(&lan, "PXEClient:Arch:00007:UNDI:003000", &["-x", "0x5d:0007"]);
    assert_eq!(field(&told, "boot_file"), "ingot.efi");
    assert_eq!(field(&told, "bootfile"), "ingot.efi");
    assert_eq!(field(&told, "siaddr"), "10.77.0.1");
    assert_eq!(field(&told, "vendor"), "PXEClient");
    assert_eq!(field(&told, "opt43"), "060108ff");
}

#[test]
fn uefi_http_is_sent_to_the_loader_by_http() {
    let lan = Lan::new();
    let told = ask(&lan, "HTTPClient:Arch:00016:UNDI:003000", &["-x", "0x5d:0010"]);
    assert_eq!(field(&told, "bootfile"), "http://10.77.0.1:8080/boot/ingot.efi");
    assert_eq!(field(&told, "vendor"), "HTTPClient");
    assert_eq!(field(&told, "opt43"), "");
}

#[test]
fn bios_gets_the_program_that_becomes_ipxe_and_ipxe_the_script() {
    let lan = Lan::new();
    let class = "PXEClient:Arch:00000:UNDI:002001";
    let rom = ask(&lan, class, &["-x", "0x5d:0000"]);
    assert_eq!(field(&rom, "boot_file"), "undionly.kpxe");
    let ipxe = ask(&lan, class, &["-x", "0x5d:0000", "-x", "0x4d:69505845"]);
    let script = "http://10.77.0.1:8080/boot/script.ipxe?mac=52:54:00:00:00:01";
    assert_eq!(field(&ipxe, "boot_file"), script);
    assert_eq!(field(&ipxe, "opt175"), "b00101");
    let machine = lan.machine_at("52:54:00:00:00:02", "10.77.0.9/24");
    let text = machine.run(&["curl", "-sS", "--fail", script]);
    assert!(text.starts_with("#!ipxe\n"), "{text}");
    assert!(text.contains("kernel http://10.77.0.1:8080/boot/vmlinuz"), "{text}");
    assert!(text.contains("BOOTIF=01-52-54-00-00-00-01"), "{text}");
}

#[test]
fn an_operating_system_gets_an_address_only() {
    let plain = ask(&Lan::new(), "MSFT 5.0", &[]);
    assert_eq!((field(&plain, "boot_file"), field(&plain, "vendor")), ("", ""));
    assert!(!field(&plain, "ip").is_empty());
}

#[test]
fn a_machine_for_its_disk_is_sent_to_a_file_that_is_missing() {
    let lan = Lan::with(&[], Intent::Disk);
    let told = ask(&lan, "PXEClient:Arch:00007:UNDI:003000", &["-x", "0x5d:0007"]);
    assert_eq!(field(&told, "boot_file"), "start-from-disk.efi");
    let machine = lan.machine_at("52:54:00:00:00:02", "10.77.0.9/24");
    let curl = ["curl", "-sS", "-m", "10", "tftp://10.77.0.1/start-from-disk.efi"];
    assert!(machine.namespace.run(&curl).err().unwrap().to_string().contains("status: 68"));
}
