//! A partition alone, which has a file system and no partition table.
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::{Lab, MIB, import, noise, options, sparse};
use store_format::Envelope;

fn tool(name: &str, args: &[&str], file: &Path) {
    let output = Command::new(name).args(args).arg(file).output().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
}

/// Makes a file system with some content in a file.
fn file_system(lab: &Lab, kind: &str, mib: u64) -> std::path::PathBuf {
    let file = sparse(&lab.path(kind), mib * MIB, &[]);
    let content = lab.path("content");
    fs::create_dir_all(&content).unwrap();
    fs::write(content.join("noise"), noise(1, 1 << 20)).unwrap();
    match kind {
        "ext4" => tool("mke2fs", &["-q", "-t", "ext4", "-d", content.to_str().unwrap()], &file),
        bits => {
            tool("mkfs.fat", &["-F", bits], &file);
            let copied = Command::new("mcopy")
                .arg("-i")
                .arg(&file)
                .arg(content.join("noise"))
                .arg("::")
                .output();
            assert!(copied.unwrap().status.success());
        }
    }
    file
}

/// Imports it, and expects it to be one region and to come back as it was.
async fn comes_back(lab: &Lab, partition: &Path) -> Envelope {
    let image = import(&lab.repo, partition, options("part")).await.unwrap().digest;
    let to = lab.path("exported");
    lab.repo.export(&image, &to).await.unwrap();
    assert!(fs::read(&to).unwrap() == fs::read(partition).unwrap(), "{}", partition.display());
    let envelope = lab.repo.envelope(&image).await.unwrap();
    let regions: Vec<_> = envelope.regions.iter().map(|region| region.name.as_str()).collect();
    assert_eq!((&envelope.table, &regions[..]), (&None, &["disk"][..]));
    envelope
}

#[tokio::test]
async fn a_file_with_a_bare_file_system_is_an_image_without_a_table() {
    let lab = Lab::new().await;
    for (kind, mib) in [("ext4", 16), ("12", 4), ("16", 16), ("32", 64)] {
        let envelope = comes_back(&lab, &file_system(&lab, kind, mib)).await;
        assert_eq!(envelope.disk_bytes, mib * MIB, "{kind}");
    }
}

/// Needs root.
mod as_root {
    use super::*;

    /// A block device over a part of a file; gone when it is dropped.
    struct Loop(String);

    impl Loop {
        fn over(disk: &Path, offset: u64, bytes: u64) -> Loop {
            let (offset, bytes) = (offset.to_string(), bytes.to_string());
            let args = ["--find", "--show", "--offset", &offset, "--sizelimit", &bytes];
            let made = Command::new("losetup").args(args).arg(disk).output().unwrap();
            assert!(made.status.success(), "{made:?}");
            Loop(String::from_utf8(made.stdout).unwrap().trim().to_owned())
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }

    #[tokio::test]
    async fn a_partition_as_a_device_is_the_image_that_its_file_is() {
        let lab = Lab::new().await;
        let partition = file_system(&lab, "ext4", 16);
        let content = fs::read(&partition).unwrap();
        let disk =
            sparse(&lab.path("disk"), 20 * MIB, &[(MIB, &content), (18 * MIB, &content[..9])]);
        let device = Loop::over(&disk, MIB, 16 * MIB);
        let as_device = comes_back(&lab, Path::new(&device.0)).await;
        assert_eq!(as_device, comes_back(&lab, &partition).await);
    }
}
