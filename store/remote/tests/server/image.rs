//! Small images as a store would hold them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use store_format::frame::Sealer;
use store_format::{
    ChunkTable, Envelope, Extent, Location, Locations, PackName, Region, digest_of, envelope, pack,
    region,
};
use wire::Digest;

/// Bytes of the chunks that the samples are cut into.
const CHUNK: usize = 10_000;
/// Zero runs of at least this many bytes become holes.
const HOLE: usize = 4096;
/// Frames per pack: few, so that a sample has several.
const FRAMES: usize = 40;

/// An image and the packs that hold it.
#[derive(Debug, Clone)]
pub struct Sample {
    pub envelope: Envelope,
    pub table: ChunkTable,
    pub locations: Locations,
    pub packs: Vec<(PackName, Vec<u8>)>,
    /// The plain bytes of the whole disk.
    pub disk: Vec<u8>,
}

impl Sample {
    /// Cuts a disk without partitions.
    pub fn whole(disk: Vec<u8>) -> Sample {
        let disk_bytes = disk.len() as u64;
        let (name, digest) = ("all".into(), Digest([0; 32]));
        let region = Region { name, start: 0, bytes: disk_bytes, partition: None, digest };
        let envelope = Envelope {
            format: envelope::FORMAT.into(),
            disk_bytes,
            sector_bytes: 512,
            table: None,
            regions: vec![region],
            grow: None,
            boot: None,
            configuration: BTreeMap::new(),
            provenance: BTreeMap::new(),
        };
        Sample::cut(disk, envelope)
    }

    /// Cuts a disk. The envelope comes without the regions' digests.
    pub fn cut(disk: Vec<u8>, mut envelope: Envelope) -> Sample {
        let mut regions = Vec::new();
        for part in &mut envelope.regions {
            let start = usize::try_from(part.start).unwrap();
            let bytes = &disk[start..start + usize::try_from(part.bytes).unwrap()];
            part.digest = region::digest(bytes);
            regions.push(extents(bytes));
        }
        envelope.validate().unwrap();
        let table = ChunkTable { image: envelope.digest(), regions };
        let (locations, packs) = packed(&disk, &envelope, &table);
        Sample { envelope, table, locations, packs, disk }
    }

    pub fn digest(&self) -> Digest {
        self.envelope.digest()
    }

    /// By the paths of the store's interface.
    pub fn files(&self) -> BTreeMap<String, Arc<Vec<u8>>> {
        let image = format!("/v1/images/{}", self.digest());
        let packs =
            self.packs.iter().map(|(name, bytes)| (format!("/v1/packs/{name}"), bytes.clone()));
        let documents = [
            (image.clone(), self.envelope.to_bytes()),
            (format!("{image}/table"), self.table.encode()),
            (format!("{image}/locations"), self.locations.encode()),
        ];
        documents.into_iter().chain(packs).map(|(path, bytes)| (path, Arc::new(bytes))).collect()
    }
}

/// Holes for long zero runs, chunks of a fixed length between them.
fn extents(bytes: &[u8]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    let (mut at, mut from) = (0, 0);
    let chunks = |extents: &mut Vec<Extent>, bytes: &[u8]| {
        extents.extend(bytes.chunks(CHUNK).map(|chunk| Extent::Chunk {
            id: digest_of(chunk),
            bytes: u32::try_from(chunk.len()).unwrap(),
        }));
    };
    while at < bytes.len() {
        let zeros = bytes[at..].iter().take_while(|&&byte| byte == 0).count();
        if zeros >= HOLE || zeros > 0 && at + zeros == bytes.len() && at == from {
            chunks(&mut extents, &bytes[from..at]);
            extents.push(Extent::Hole { bytes: zeros as u64 });
            from = at + zeros;
        }
        at += zeros.max(1);
    }
    chunks(&mut extents, &bytes[from..]);
    extents
}

fn packed(
    disk: &[u8],
    envelope: &Envelope,
    table: &ChunkTable,
) -> (Locations, Vec<(PackName, Vec<u8>)>) {
    let mut plain = Vec::new();
    let mut seen = HashSet::new();
    for (region, extents) in envelope.regions.iter().zip(&table.regions) {
        let mut at = usize::try_from(region.start).unwrap();
        for extent in extents {
            let bytes = usize::try_from(extent.bytes()).unwrap();
            if let Extent::Chunk { id, .. } = extent
                && seen.insert(*id)
            {
                plain.push((*id, &disk[at..at + bytes]));
            }
            at += bytes;
        }
    }
    let mut sealer = Sealer::new(1).unwrap();
    let (mut locations, mut packs) = (Locations::default(), Vec::new());
    for group in plain.chunks(FRAMES) {
        let mut builder = pack::Builder::default();
        let mut bytes = pack::Builder::header().to_vec();
        // Two chunks to a frame.
        for pair in group.chunks(2) {
            let offset = bytes.len() as u64;
            let ids: Vec<Digest> = pair.iter().map(|(id, _)| *id).collect();
            let lens: Vec<u32> = pair.iter().map(|(_, plain)| plain.len() as u32).collect();
            let plain: Vec<u8> = pair.iter().flat_map(|(_, plain)| plain.to_vec()).collect();
            let header = sealer.seal(&lens, &plain, &mut bytes).unwrap();
            builder.push(&header, &ids);
            let pack = u32::try_from(packs.len()).unwrap();
            let frame_len = header.frame_len();
            let mut plain_offset = 0;
            for len in lens {
                locations.chunks.push(Location { pack, offset, frame_len, plain_offset });
                plain_offset += len;
            }
        }
        bytes.extend(builder.finish());
        // Any unique name does for a test that does not compute SHA-256.
        let name = PackName(digest_of(&bytes).0);
        locations.packs.push(name);
        packs.push((name, bytes));
    }
    (locations, packs)
}
