//! Disks that a script changed, as images in a store.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::store::Store;
use crate::support::system::{self, ROOT, debugfs};
use crate::support::{client_of, report};
use agent::make::capture::{Capture, CaptureError};
use agent::receipt;
use store_format::Envelope;
use store_remote::Pushed;
use wire::{Configuration, Digest, FactValue};

/// A store with a base, and a disk that has it, larger than it, with a receipt.
struct Lab {
    folder: tempfile::TempDir,
    store: Store,
    base: Envelope,
    disk: PathBuf,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        system::disk(folder.path(), &image);
        let store = Store::start();
        let base = store.envelope(&store.import(&image, system::options()));
        let disk = folder.path().join("disk");
        fs::copy(&image, &disk).unwrap();
        let lab = Lab { folder, store, base, disk };
        lab.patch(receipt::START, &[0x77; receipt::BYTES]);
        lab.patch(system::BYTES, &[0x5a; 1 << 20]);
        lab
    }

    fn patch(&self, offset: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        let disk = fs::File::options().write(true).open(&self.disk).unwrap();
        disk.write_all_at(bytes, offset).unwrap();
    }

    fn capture(&self) -> Result<(Envelope, Pushed), CaptureError> {
        let console = self.folder.path().join("console");
        let configuration = configuration();
        let capture = Capture {
            disk: &self.disk,
            base: &self.base,
            configuration: &configuration,
            client: &client_of(&self.store.base),
            report: &report(&console),
        };
        capture.run()
    }
}

pub fn configuration() -> Configuration {
    let facts = [("pci.modalias", Some(FactValue::Text("pci:v1".into()))), ("label.role", None)];
    let facts = facts.map(|(path, value)| (path.to_owned(), value)).into();
    Configuration { key: Digest([0xab; 32]), recipe: "gpu".into(), facts }
}

fn read_file(disk: &Path, number: u32, path: &str) -> String {
    debugfs(disk, number, &format!("cat {path}"))
}

#[test]
fn a_changed_disk_becomes_an_image_of_which_only_the_change_travels() {
    let lab = Lab::new();
    // Nothing changed: all that is sent is that it is another image.
    let (same, pushed) = lab.capture().unwrap();
    assert_eq!((pushed.sent_chunks, &same.regions), (0, &lab.base.regions));
    assert_eq!((&same.boot, same.grow), (&lab.base.boot, lab.base.grow));
    // The controller names it.
    assert_eq!(lab.store.images()[&same.digest()], None);
    let notes: Vec<_> = same.configuration.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let key = configuration().key.to_string();
    let expected =
        [("arch", "amd64"), ("fact.pci.modalias", "\"pci:v1\""), ("key", &key), ("recipe", "gpu")];
    assert_eq!(notes, expected);
    let from = same.provenance.get("base").cloned();
    assert_eq!(from, Some(lab.base.digest().to_string()));
    assert_eq!(same.provenance.get("builder").map(String::as_str), Some("ingot"));

    let file = lab.folder.path().join("driver");
    fs::write(&file, "made here").unwrap();
    debugfs(&lab.disk, ROOT, &format!("write {} /etc/driver", file.display()));
    let (whole, pushed) = lab.capture().unwrap();
    assert_ne!(whole.digest(), same.digest());
    assert!(pushed.sent_chunks > 0 && pushed.sent_bytes < 300_000, "{pushed:?}");
    assert_eq!(lab.store.images()[&whole.digest()], None);
    let exported = lab.folder.path().join("exported");
    lab.store.export(&whole.digest(), &exported);
    assert_eq!(read_file(&exported, ROOT, "/etc/driver"), "made here");
    let bytes = fs::read(&exported).unwrap();
    assert_eq!(bytes.len() as u64, system::BYTES, "no more than the base");
    let slot = usize::try_from(receipt::START).unwrap()..usize::try_from(receipt::END).unwrap();
    assert!(bytes[slot].iter().all(|byte| *byte == 0), "the receipt is this machine's");
}

#[test]
fn a_partition_that_the_kernel_sees_elsewhere_is_not_mounted() {
    use crate::whole::{add_disk, roots};
    use agent::make::root::{MountError, Root};
    let lab = Lab::new();
    let root = lab.folder.path();
    add_disk(root, "vda", "S-1", &[0; 4096]);
    let roots = roots(root);
    let disks = agent::inventory::disks(&roots);
    let mount = |base: &Envelope| {
        let folder = root.join("mounted");
        Root::mount(&roots, &disks[0], base, &folder, &|_| {}).unwrap_err()
    };
    // Not shown at all, then with the size that an older table had, then at another place.
    assert!(matches!(mount(&lab.base), MountError::NoPartition { number: ROOT, .. }));
    let (start, bytes) = system::PARTITIONS[1];
    let shown = root.join("sys/block/vda/vda2");
    fs::create_dir(&shown).unwrap();
    fs::write(shown.join("partition"), "2").unwrap();
    for (start, bytes) in [(start, bytes + 512), (start + 512, bytes)] {
        fs::write(shown.join("start"), (start / 512).to_string()).unwrap();
        fs::write(shown.join("size"), (bytes / 512).to_string()).unwrap();
        let text = mount(&lab.base).to_string();
        assert!(text.contains("an older partition table"), "{text}");
    }
    let base = Envelope { boot: None, ..lab.base.clone() };
    assert!(matches!(mount(&base), MountError::NoRoot));
}

#[test]
fn what_could_not_be_installed_or_started_is_not_sent() {
    let lab = Lab::new();
    debugfs(&lab.disk, ROOT, "rm /vmlinuz");
    let error = lab.capture().unwrap_err();
    assert!(matches!(error, CaptureError::Boot(_)), "{error:?}");
    let said = wire::chain(&error);
    assert!(said.contains("could not be started: /vmlinuz cannot be read"), "{said}");

    let lab = Lab::new();
    let mut sfdisk = std::process::Command::new("sfdisk");
    system::run(sfdisk.args(["-q", "--delete"]).arg(&lab.disk).arg("3"));
    let error = lab.capture().unwrap_err().to_string();
    assert!(error.contains("changed where the partitions are"), "{error}");
    lab.patch(512, &[0; 8]);
    assert!(matches!(lab.capture(), Err(CaptureError::Layout(_))));
    assert!(lab.store.images().into_keys().eq([lab.base.digest()]));
}
