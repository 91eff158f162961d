use std::process::Command;

use object::{Object, ObjectSection};
use proptest::prelude::*;

use super::*;
use crate::prepare::STUB;

fn stub() -> Vec<u8> {
    std::fs::read(STUB).expect("Debian package systemd-boot-efi")
}

fn sections<'a>(kernel: &'a [u8], initrd: &'a [u8]) -> [Section<'a>; 3] {
    [
        Section { name: ".cmdline", content: b"quiet" },
        Section { name: ".initrd", content: initrd },
        Section { name: ".linux", content: kernel },
    ]
}

#[test]
fn objdump_finds_the_sections() {
    let (kernel, initrd) = (vec![0x4d; 70_001], vec![0x30; 8192]);
    let image = append_sections(&stub(), &sections(&kernel, &initrd)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.efi");
    std::fs::write(&path, &image).unwrap();
    let dump = Command::new("objdump").arg("-h").arg(&path).output().unwrap();
    let text = String::from_utf8(dump.stdout).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|words| words.len() == 7 && words[1].starts_with('.'))
        .collect();
    let added: Vec<_> = rows[rows.len() - 3..].iter().map(|row| (row[1], row[2])).collect();
    assert_eq!(added, [(".cmdline", "00000005"), (".initrd", "00002000"), (".linux", "00011171")]);
    let addresses: Vec<u64> =
        rows.iter().map(|row| u64::from_str_radix(row[3], 16).unwrap()).collect();
    assert!(addresses.is_sorted());
    assert!(addresses[rows.len() - 3..].iter().all(|address| address % 4096 == 0));
}

#[test]
fn contents_come_back_and_sizes_fit() {
    let (kernel, initrd) = (vec![1; 5000], vec![2; 123]);
    let image = append_sections(&stub(), &sections(&kernel, &initrd)).unwrap();
    assert_eq!(image, append_sections(&stub(), &sections(&kernel, &initrd)).unwrap());
    let layout = Layout::of(&image).unwrap();
    assert_eq!(layout.headers.optional_header.size_of_image.get(LE) % 512, 0);
    assert!(layout.headers.optional_header.size_of_image.get(LE) >= layout.address_end - 4096);
    let file = object::File::parse(&*image).unwrap();
    for section in sections(&kernel, &initrd) {
        let found = file.section_by_name(section.name).unwrap();
        assert_eq!(&found.data().unwrap()[..section.content.len()], section.content);
    }
}

/// The example is what objcopy computes: not every release's stub has one.
#[test]
fn checksum_is_the_usual_one() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.efi");
    assert!(Command::new("objcopy").arg(STUB).arg(&copy).status().unwrap().success());
    let mut image = std::fs::read(copy).unwrap();
    let layout = Layout::of(&image).unwrap();
    let mut headers = layout.headers;
    let theirs = headers.optional_header.check_sum.get(LE);
    assert_ne!(theirs, 0);
    headers.optional_header.check_sum.set(LE, 0);
    put(&mut image, layout.headers_at, &headers);
    assert_eq!(checksum(&image).unwrap(), theirs);
}

#[test]
fn refuses_with_a_reason() {
    let stub = stub();
    let one = |name| [Section { name, content: b"" }];
    assert_eq!(append_sections(&stub, &one(".text")), Err(UkiError::Duplicate(".text".into())));
    assert_eq!(append_sections(&stub, &one(".too-long")), Err(UkiError::Name(".too-long".into())));
    assert_eq!(append_sections(&stub, &one("")), Err(UkiError::Name(String::new())));
    assert!(matches!(append_sections(b"MZ", &[]), Err(UkiError::NotStub(_))));
    let names: Vec<String> = (0..60).map(|number| format!(".s{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| Section { name, content: b"" }).collect();
    let room = Layout::of(&stub).unwrap().room;
    assert!(room >= 5, "room for {room}");
    assert_eq!(append_sections(&stub, &many), Err(UkiError::HeaderRoom { room, wanted: 60 }));
    let uki = append_sections(&stub, &one(".linux")).unwrap();
    assert_eq!(append_sections(&uki, &one(".linux")), Err(UkiError::Duplicate(".linux".into())));
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = append_sections(&bytes, &sections(b"k", b"i"));
    }

    /// The interesting bytes are the headers.
    #[test]
    fn a_damaged_stub_never_panics(at in 0usize..1024, value: u8, length in 0usize..80_000) {
        let mut bytes = stub();
        bytes[at] = value;
        bytes.truncate(length);
        let _ = append_sections(&bytes, &sections(b"k", b"i"));
    }
}
