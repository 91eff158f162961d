//! Exported qcow2 files, as QEMU's own tools see them.
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Lab, MIB, gpt_disk, noise, options, sparse};
use store_repo::{ExportError, ExportFormat, ExportOptions, Exported, ImportOptions, Source};

/// Offsets and what stands there.
type Parts<'a> = &'a [(u64, &'a [u8])];

fn qemu_img(args: &[&str], files: &[&Path]) -> String {
    let output = Command::new("qemu-img").args(args).args(files).output().unwrap();
    let said = format!("{args:?}: {output:?}");
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Imports a disk and exports it as qcow2, which must be sound and have the
/// same bytes.
async fn exported(lab: &Lab, disk: &Path, options: ImportOptions) -> (PathBuf, Exported) {
    let source = Source::Path(disk.to_owned());
    let image = lab.repo.import(source, options, |_| {}).await.unwrap().digest;
    let to = lab.path("disk.qcow2");
    let qcow2 = ExportOptions { format: ExportFormat::Qcow2, ..ExportOptions::default() };
    let exported = lab.repo.export_as(&image, &to, qcow2, |_| {}).await.unwrap();
    // Leaked clusters are told by its exit code too.
    qemu_img(&["check", "-q", "-f", "qcow2"], &[&to]);
    qemu_img(&["compare", "-q", "-f", "qcow2", "-F", "raw"], &[&to, disk]);
    let info = qemu_img(&["info", "--output=json", "-f", "qcow2"], &[&to]);
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], exported.disk_bytes + exported.added_bytes);
    assert_eq!(info["cluster-size"], 64 << 10);
    (to, exported)
}

#[tokio::test]
async fn disks_of_all_shapes_are_the_same_for_qemu() {
    let lab = Lab::new().await;
    let full = noise(1, 5 << 20);
    let shapes: [(u64, Parts<'_>); 7] = [
        (0, &[]),
        (100 * MIB, &[]),
        (5 * MIB, &[(0, &full)]),
        (5 * MIB + 512, &[(0, &full)]),
        (64 * MIB, &[(1, &full[..1]), (MIB - 7, &full[..MIB as usize]), (64 * MIB - 1, &[9])]),
        // More than one table of the second level, and the last one cut short.
        (1600 * MIB + 1024, &[(512 * MIB - 1000, &full[..5000]), (1600 * MIB, &full[..1024])]),
        (3 << 40, &[(0, &full[..4096]), ((2 << 40) + 77, &full), ((3 << 40) - 1, &[1])]),
    ];
    for (len, parts) in shapes {
        let disk = sparse(&lab.path("disk"), len, parts);
        let (to, done) = exported(&lab, &disk, options("x")).await;
        assert_eq!((done.disk_bytes, done.added_bytes), (len, 0));
        let file = to.metadata().unwrap().len();
        // Header, tables and the clusters that data begins and ends in.
        assert!(file < done.data_bytes + 64 * MIB, "{file} bytes for {len}");
    }
}

#[tokio::test]
async fn an_image_that_ends_within_a_sector_gets_zeros() {
    let lab = Lab::new().await;
    for (len, added) in [(1, 511), (513, 511), (3 * MIB + 77, 435)] {
        let disk = sparse(&lab.path("disk"), len, &[(0, b"x"), (len - 1, b"y")]);
        // Shorter than the other, and the rest zeros: the same for qemu-img.
        let (to, done) = exported(&lab, &disk, options("x")).await;
        assert_eq!((done.disk_bytes, done.added_bytes), (len, added));
        let raw = lab.path("raw");
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw"], &[&to, &raw]);
        let mut expected = std::fs::read(&disk).unwrap();
        expected.resize((len + added) as usize, 0);
        assert!(std::fs::read(raw).unwrap() == expected, "{len}");
    }
}

#[tokio::test]
async fn a_disk_with_large_sectors_and_a_part_of_it() {
    let lab = Lab::new().await;
    let disk = gpt_disk(&lab.path("disk"), 4096, 1);
    exported(&lab, &disk, options("x")).await;
    let image = lab.repo.resolve(&"x".parse().unwrap()).await.unwrap();
    let (to, raw) = (lab.path("part.qcow2"), lab.path("part.raw"));
    let part = ExportOptions { range: Some(MIB..9 * MIB), format: ExportFormat::Qcow2 };
    lab.repo.export_as(&image, &to, part, |_| {}).await.unwrap();
    qemu_img(&["check", "-q"], &[&to]);
    qemu_img(&["convert", "-O", "raw"], &[&to, &raw]);
    let whole = std::fs::read(&disk).unwrap();
    assert!(std::fs::read(raw).unwrap() == whole[1 << 20..9 << 20]);
}

#[tokio::test]
async fn a_file_that_is_not_whole_has_no_name() {
    let lab = Lab::new().await;
    let disk = sparse(&lab.path("disk"), 4 * MIB, &[(0, &noise(1, 3 << 20))]);
    let image = lab.import(&disk, "x").await.digest;
    let pack = lab.files("packs").remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let qcow2 = ExportOptions { format: ExportFormat::Qcow2, ..ExportOptions::default() };
    let to = lab.path("disk.qcow2");
    let error = lab.repo.export_as(&image, &to, qcow2, |_| {}).await.unwrap_err();
    assert!(matches!(error, ExportError::Read(_)), "{error:?}");
    let mut names: Vec<_> = std::fs::read_dir(lab.folder.path()).unwrap().collect();
    names.retain(|entry| entry.as_ref().unwrap().path() != lab.store());
    assert_eq!(names.len(), 1, "only the disk: {names:?}");
}
