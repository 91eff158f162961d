//! What an envelope must be.
use crate::samples::{envelope, table};
use store_format::{Envelope, EnvelopeError, MbrPartition, PartitionTable, Region};

/// Applies a change and tells at which part the envelope is refused then.
fn refused(change: impl FnOnce(&mut Envelope)) -> String {
    let mut changed = envelope();
    change(&mut changed);
    let by_value = changed.validate().unwrap_err();
    let by_bytes = Envelope::from_bytes(&changed.to_bytes()).unwrap_err();
    assert_eq!(by_value.to_string(), by_bytes.to_string());
    match by_value {
        EnvelopeError::Invalid { at, .. } => at,
        other => other.to_string(),
    }
}

fn gpt(envelope: &mut Envelope) -> &mut store_format::GptPartition {
    match &mut envelope.table {
        Some(PartitionTable::Gpt { partitions, .. }) => &mut partitions[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn regions_must_cover_the_disk_once() {
    assert_eq!(refused(|e| e.disk_bytes += 512), "regions");
    assert_eq!(refused(|e| e.disk_bytes -= 512), "region \"tail\"");
    assert_eq!(refused(|e| e.regions[1].start += 512), "region \"partition-1\"");
    assert_eq!(refused(|e| e.regions[0].bytes = 0), "region \"head\"");
    assert_eq!(refused(|e| e.regions[2].bytes = u64::MAX), "region \"tail\"");
    assert_eq!(refused(|e| e.regions[2].name = "head".to_owned()), "region \"head\"");
    assert_eq!(refused(|e| e.regions[2].name = "../x".to_owned()), "region \"../x\"");
    assert_eq!(refused(|e| e.regions.truncate(2)), "regions");
    assert_eq!(refused(|e| e.regions[1].partition = None), "regions");
    assert_eq!(refused(|e| e.regions[2].partition = Some(1)), "region \"tail\"");
    assert_eq!(refused(|e| e.regions[2].partition = Some(7)), "region \"tail\"");
    assert_eq!(refused(|e| e.regions = vec![e.regions[0].clone(); 1025]), "regions");
}

#[test]
fn partitions_must_be_possible() {
    assert_eq!(refused(|e| gpt(e).last_lba = 99_999), "partition 1");
    assert_eq!(refused(|e| gpt(e).last_lba = 0), "partition 1");
    assert_eq!(refused(|e| gpt(e).last_lba = u64::MAX), "partition 1");
    assert_eq!(refused(|e| (gpt(e).first_lba, gpt(e).last_lba) = (0, u64::MAX)), "partition 1");
    assert_eq!(refused(|e| gpt(e).guid = gpt(e).guid.to_uppercase()), "partition 1");
    assert_eq!(refused(|e| gpt(e).type_guid.clear()), "partition 1");
    assert_eq!(refused(|e| gpt(e).name = "x".repeat(37)), "partition 1");
    assert_eq!(refused(|e| gpt(e).number = 0), "table.partitions");
    assert_eq!(refused(|e| gpt(e).number = u32::MAX), "table.partitions");
    assert_eq!(refused(|e| e.sector_bytes = 520), "sector_bytes");
    assert_eq!(refused(|e| e.sector_bytes = 1024), "sector_bytes");
    assert_eq!(refused(|e| e.disk_bytes = u64::MAX), "disk_bytes");
    assert_eq!(refused(|e| e.disk_bytes += 1), "disk_bytes");
}

#[test]
fn boot_and_growth_must_name_partitions() {
    assert_eq!(refused(|e| e.grow = Some(2)), "grow");
    assert_eq!(refused(|e| e.boot.as_mut().unwrap().partition = 2), "boot.partition");
    for path in ["", "vmlinuz", "/", "/../vmlinuz", "/boot//vmlinuz", "/boot/./x", "/x\n"] {
        let change = |e: &mut Envelope| e.boot.as_mut().unwrap().kernel = path.to_owned();
        assert_eq!(refused(change), "boot.kernel", "{path:?}");
    }
    let long = "/x".repeat(600);
    assert_eq!(refused(|e| e.boot.as_mut().unwrap().initrd = Some(long)), "boot.initrd");
    assert_eq!(refused(|e| e.boot.as_mut().unwrap().cmdline.push('\0')), "boot.cmdline");
    assert_eq!(refused(|e| e.boot.as_mut().unwrap().cmdline = "x".repeat(2048)), "boot.cmdline");
}

#[test]
fn notes_have_limits() {
    let note = |key: String| move |e: &mut Envelope| drop(e.provenance.insert(key, String::new()));
    assert_eq!(refused(note(String::new())), "provenance");
    assert_eq!(refused(note("x".repeat(129))), "provenance");
    let many = (0..1025).map(|n| (n.to_string(), String::new())).collect();
    assert_eq!(refused(|e| e.configuration = many), "configuration");
    let large = refused(|e| drop(e.provenance.insert("x".to_owned(), "y".repeat(1 << 20))));
    assert!(large.contains("more than the limit"), "{large}");
}

#[test]
fn only_the_canonical_form_is_an_envelope() {
    let text = String::from_utf8(envelope().to_bytes()).unwrap();
    let spaced = text.replacen(':', ": ", 1);
    let more = text.replacen('{', "{\"extra\":1,", 1);
    let last = format!("{}, \"extra\":1}}", &text[..text.len() - 1]);
    let twice = text.replacen(
        "{\"format\":\"ingot.image/1\",",
        "{\"format\":\"ingot.image/1\",\"format\":\"ingot.image/1\",",
        1,
    );
    for other in
        [spaced, more, last, twice, format!("{text}\n"), text.replace("4194304", "4194304.0")]
    {
        assert_ne!(other, text);
        assert!(Envelope::from_bytes(other.as_bytes()).is_err(), "{other}");
    }
    for bad in ["", "null", "{}", "[]", "{\"format\":1}", "\u{0}"] {
        let error = Envelope::from_bytes(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, EnvelopeError::Json(_)), "{bad}");
    }
    for bad in ["ingot.image/0", "ingot.image/01", "ingot.image/", "ingot.image/-1", "x"] {
        let error = Envelope::from_bytes(format!("{{\"format\":\"{bad}\"}}").as_bytes());
        assert!(matches!(error, Err(EnvelopeError::Format { .. })), "{bad}");
    }
}

#[test]
fn disks_without_a_table_and_without_bytes_are_images() {
    let region =
        Region { name: "disk".into(), start: 0, partition: None, ..envelope().regions[0].clone() };
    let plain = Envelope {
        table: None,
        regions: vec![Region { bytes: 4097, ..region.clone() }],
        disk_bytes: 4097,
        grow: None,
        boot: None,
        ..envelope()
    };
    plain.validate().unwrap();
    let empty = Envelope { regions: Vec::new(), disk_bytes: 0, ..plain.clone() };
    empty.validate().unwrap();
    let mut partition = plain;
    partition.regions[0].partition = Some(1);
    assert!(partition.validate().is_err());
}

#[test]
fn a_pc_table_has_containers_without_regions() {
    let partition = |number, kind, first_lba, sectors| MbrPartition {
        number,
        kind,
        active: false,
        first_lba,
        sectors,
    };
    let mut mbr = envelope();
    mbr.boot.as_mut().unwrap().partition = 5;
    mbr.grow = Some(5);
    mbr.regions[1].partition = Some(5);
    mbr.table = Some(PartitionTable::Mbr {
        signature: "00c0ffee".to_owned(),
        partitions: vec![partition(2, 0x0f, 1024, 5120), partition(5, 0x83, 2048, 4096)],
    });
    mbr.validate().unwrap();
    assert_eq!(Envelope::from_bytes(&mbr.to_bytes()).unwrap(), mbr);
    for signature in ["", "00C0FFEE", "00c0ffee0"] {
        if let Some(PartitionTable::Mbr { signature: old, .. }) = &mut mbr.table {
            *old = signature.to_owned();
        }
        assert!(mbr.validate().is_err(), "{signature}");
    }
}

#[test]
fn a_table_must_fit_its_image() {
    table().check(&envelope()).unwrap();
    let mut other = envelope();
    other.grow = None;
    assert!(table().check(&other).is_err());
    let mut short = table();
    short.regions[2].clear();
    assert!(short.check(&envelope()).is_err());
    short.regions.pop();
    assert!(short.check(&envelope()).is_err());
    let names: Vec<_> = table().distinct().map(|(_, bytes)| bytes).collect();
    assert_eq!(names, [512, 1 << 20]);
}
