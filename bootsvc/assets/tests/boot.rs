//! Prepared assets boot: a real Debian kernel with a small test init, under both firmwares.
//!
//! Needs the network for the first download of a kernel, and the Debian packages of the rig,
//! systemd-boot-efi, dosfstools, mtools and libc6-dev.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bootsvc_assets::{
    AssetOptions, AssetsDir, CMDLINE, Kernel, Progress, Served, assemble, prepare,
};
use tests_rig::{Boot, Disk, Firmware, Namespace, Vm, cached, target_dir};

const LONG: Duration = Duration::from_secs(400);
const MAC: &str = "52:54:00:00:00:07";
const CONFIG: &[u8] = br#"{"server":"http://10.77.0.1:8080"}"#;
/// The size that a loader must not exceed, in bytes. Debian 12's kernel gives
/// 16 MB, that of Debian 13 21 MB.
const LOADER_MAX: usize = 22_000_000;

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The test init, compiled once.
fn init() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/init.rs");
    let version = Command::new("rustc").arg("--version").output().unwrap().stdout;
    let content = fs::read(&source).unwrap();
    let key = blake3::hash(&[content, version].concat()).to_hex();
    cached(&format!("assets-init-{}", &key[..16]), |path| {
        let options = ["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"];
        let target = ["--target", "x86_64-unknown-linux-gnu", "-o"];
        run(Command::new("rustc").args(options).args(target).arg(path).arg(&source));
        Ok(())
    })
    .unwrap()
}

fn options(dir: &Path, package: &str) -> AssetOptions {
    let cache = target_dir().join("rig/kernels");
    let mut options = AssetOptions::new(dir, &cache, &init());
    options.kernel = Kernel::Package(package.to_owned());
    options
}

/// Assets of this kernel, prepared once for all tests.
fn prepared(package: &str) -> AssetsDir {
    let dir = target_dir().join("rig/assets-test").join(package);
    prepare(&options(&dir, package), &mut |step| println!("{step}")).unwrap()
}

fn served(package: &str) -> Served {
    let assets = prepared(package);
    let begin = Instant::now();
    let served = assemble(&assets, CONFIG).unwrap();
    println!(
        "{package}: {} modules, vmlinuz {}, initramfs {}, ingot.efi {} bytes, assembled in {:?}",
        assets.manifest().modules,
        served.vmlinuz.len(),
        served.initramfs.len(),
        served.ingot_efi.len(),
        begin.elapsed()
    );
    assert_eq!(served, assemble(&assets, CONFIG).unwrap(), "the same bytes each time");
    assert!(served.vmlinuz.len() + served.initramfs.len() <= LOADER_MAX);
    assert!(served.ingot_efi.len() <= LOADER_MAX);
    served
}

/// Starts the machine with a network card and an empty disk more, and checks what init says.
fn boots(name: &str, machine: Vm, dir: &Path) {
    let wire = Namespace::with_bridge("10.77.0.1/24").unwrap();
    let machine = machine
        .network(&wire.tap().unwrap(), MAC)
        .log(&target_dir().join("rig/logs").join(format!("{name}.log")))
        .disk(Disk::new(&dir.join("empty")).size(64 << 20).serial("EMPTY"));
    let begin = Instant::now();
    let run = machine.start().unwrap();
    run.console().wait_for("init: up", LONG).unwrap();
    println!("{name}: init after {:?}", begin.elapsed());
    let text = run.console().wait_for("init: done", LONG).unwrap();
    println!("{name}: done after {:?}\n{text}", begin.elapsed());
    assert!(text.contains(r#"init: config {"server":"http://10.77.0.1:8080"}"#), "{text}");
    assert!(text.contains(&format!("init: cmdline {CMDLINE}")), "{text}");
    assert!(!text.contains("cannot load"), "{text}");
    let line = |start: &str| {
        text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default().to_owned()
    };
    assert!(line("init: disks").contains(" vda"), "{text}");
    assert!(line("init: links").contains(" eth0"), "{text}");
    run.wait(LONG).unwrap();
}

fn direct(package: &str) {
    let dir = tempfile::tempdir().unwrap();
    let served = served(package);
    let (kernel, initrd) = (dir.path().join("vmlinuz"), dir.path().join("initramfs.img"));
    fs::write(&kernel, &served.vmlinuz).unwrap();
    fs::write(&initrd, &served.initramfs).unwrap();
    let name = format!("assets-bios-{package}");
    let machine = Vm::new(&name, Firmware::Bios).kernel(&kernel, &initrd, CMDLINE);
    boots(&name, machine, dir.path());
}

#[test]
fn generic_kernel_boots_with_its_ramdisk() {
    direct("linux-image-amd64");
}

#[test]
fn cloud_kernel_boots_with_its_ramdisk() {
    direct("linux-image-cloud-amd64");
}

#[test]
fn efi_program_boots_from_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let served = served("linux-image-amd64");
    let (esp, efi) = (dir.path().join("esp.img"), dir.path().join("ingot.efi"));
    fs::write(&efi, &served.ingot_efi).unwrap();
    run(Command::new("mkfs.vfat").args(["-C", "-F", "32"]).arg(&esp).arg("65536"));
    run(Command::new("mmd").arg("-i").arg(&esp).args(["::EFI", "::EFI/BOOT"]));
    run(Command::new("mcopy").arg("-i").arg(&esp).arg(&efi).arg("::EFI/BOOT/BOOTX64.EFI"));
    let machine = Vm::new("assets-efi", Firmware::UefiPxe)
        .disk(Disk::new(&esp).serial("ESP"))
        .boot(&[Boot::Disk(0)]);
    boots("assets-efi", machine, dir.path());
}

#[test]
fn second_time_there_is_nothing_to_do() {
    let first = prepared("linux-image-cloud-amd64");
    let mut steps = Vec::new();
    let options = options(first.path(), "linux-image-cloud-amd64");
    let begin = Instant::now();
    let second = prepare(&options, &mut |step| steps.push(step)).unwrap();
    println!("nothing to do: {:?}", begin.elapsed());
    assert_eq!(steps, [Progress::Unchanged]);
    assert_eq!(first.manifest(), second.manifest());
}

#[test]
fn damaged_assets_are_refused_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let good = prepared("linux-image-cloud-amd64");
    for name in ["vmlinuz", "initramfs.img", "stub.efi", "assets.json"] {
        fs::copy(good.path().join(name), dir.path().join(name)).unwrap();
    }
    AssetsDir::open(dir.path()).unwrap();
    let path = dir.path().join("initramfs.img");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = AssetsDir::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("initramfs.img is not the file"), "{error}");
    let again = prepare(&options(dir.path(), "linux-image-cloud-amd64"), &mut |_| {}).unwrap();
    assert_eq!(again.manifest(), good.manifest(), "another run gives the same bytes");
}

#[test]
fn explicit_files_must_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let vmlinuz = prepared("linux-image-cloud-amd64").path().join("vmlinuz");
    let modules = dir.path().join("6.0.0-other");
    fs::create_dir_all(modules.join("kernel")).unwrap();
    fs::write(modules.join("modules.builtin"), "").unwrap();
    let mut options = options(&dir.path().join("out"), "");
    options.kernel = Kernel::Files { vmlinuz, modules };
    let error = prepare(&options, &mut |_| {}).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("but the modules are for 6.0.0-other"), "{cause}");

    options.stub = dir.path().join("no-stub");
    let error = prepare(&options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("install the Debian package systemd-boot-efi"), "{error}");
    options.agent = dir.path().join("no-agent");
    options.stub = AssetOptions::new(dir.path(), dir.path(), dir.path()).stub;
    let error = prepare(&options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("cannot read the agent"), "{error}");
}
