//! One small, valid value of each format.
use store_format::frame::Sealer;
use store_format::pack::Builder;
use store_format::{
    BootSpec, ChunkTable, Envelope, Extent, GptPartition, Location, Locations, PackName,
    PartitionTable, Region, digest_of, envelope as format,
};

/// The bytes of a pack, with two chunks to a frame.
pub fn pack(chunks: &[Vec<u8>]) -> Vec<u8> {
    let (mut builder, mut bytes) = (Builder::default(), Builder::header().to_vec());
    let mut sealer = Sealer::new(3).unwrap();
    for pair in chunks.chunks(2) {
        let lens: Vec<u32> = pair.iter().map(|chunk| chunk.len() as u32).collect();
        let ids: Vec<_> = pair.iter().map(|chunk| digest_of(chunk)).collect();
        let header = sealer.seal(&lens, &pair.concat(), &mut bytes).unwrap();
        builder.push(&header, &ids);
    }
    assert_eq!(builder.frames_end(), bytes.len() as u64);
    bytes.extend(builder.finish());
    bytes
}

pub fn chunks() -> Vec<Vec<u8>> {
    vec![b"one".to_vec(), vec![1; 5000], b"three".repeat(99), vec![0; 4096]]
}

/// A disk of 4 MiB: 1 MiB before the partition, 2 MiB of it, 1 MiB after.
pub fn envelope() -> Envelope {
    const MIB: u64 = 1 << 20;
    let region = |name: &str, start: u64, bytes: u64, partition| Region {
        name: name.to_owned(),
        start,
        bytes,
        partition,
        digest: digest_of(name.as_bytes()),
    };
    Envelope {
        format: format::FORMAT.to_owned(),
        disk_bytes: 4 * MIB,
        sector_bytes: 512,
        table: Some(PartitionTable::Gpt {
            disk_guid: "6c4bd9bf-0f3b-4a39-8a92-a4e70c1fb4a2".to_owned(),
            partitions: vec![GptPartition {
                number: 1,
                type_guid: "0fc63daf-8483-4772-8e79-3d69d8477de4".to_owned(),
                guid: "6c4bd9bf-0f3b-4a39-8a92-a4e70c1fb4a3".to_owned(),
                name: "root".to_owned(),
                flags: 1 << 59,
                first_lba: 2048,
                last_lba: 6143,
            }],
        }),
        regions: vec![
            region("head", 0, MIB, None),
            region("partition-1", MIB, 2 * MIB, Some(1)),
            region("tail", 3 * MIB, MIB, None),
        ],
        grow: Some(1),
        boot: Some(BootSpec {
            partition: 1,
            kernel: "/boot/vmlinuz".to_owned(),
            initrd: Some("/boot/initrd.img".to_owned()),
            cmdline: "root=LABEL=root ro".to_owned(),
        }),
        configuration: [("role".to_owned(), "web".to_owned())].into(),
        provenance: [("recipe".to_owned(), "blake3:…".to_owned())].into(),
    }
}

/// The chunk table of [`envelope`].
pub fn table() -> ChunkTable {
    let chunk = |text: &[u8], bytes| Extent::Chunk { id: digest_of(text), bytes };
    ChunkTable {
        image: envelope().digest(),
        regions: vec![
            vec![chunk(b"a", 512), Extent::Hole { bytes: (1 << 20) - 512 }],
            vec![chunk(b"b", 1 << 20), Extent::Hole { bytes: (1 << 20) - 512 }, chunk(b"a", 512)],
            vec![Extent::Hole { bytes: 1 << 20 }],
        ],
    }
}

/// Places for the chunks of [`table`].
pub fn locations() -> Locations {
    Locations {
        packs: vec![PackName([1; 32]), PackName([2; 32])],
        chunks: vec![
            Location { pack: 1, offset: 16, frame_len: 560, plain_offset: 0 },
            Location { pack: 0, offset: 70_000, frame_len: 57, plain_offset: 4096 },
        ],
    }
}
