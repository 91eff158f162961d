//! A store of many chunks that takes little room: frames are holes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use store_format::frame::{Encoding, Header};
use store_format::pack::Builder;
use store_format::{ChunkTable, Envelope, Extent, PackName, Region, digest_of, envelope};
use store_repo::Repo;
use wire::{Digest, Reference};

/// Chunks of a pack; with those of 64 KiB it has its usual 64 MiB.
const PACK_CHUNKS: u64 = 1000;
/// Bytes of a chunk: from half the average to one and a half.
const CHUNK_BYTES: u64 = 64 << 10;
/// An image has this part of the one before, too.
const SHARED_PARTS: u64 = 5;
/// Images, unless there are fewer packs.
const IMAGES: u64 = 60;

/// What the store has: each pack wholly of one image.
pub struct Plan {
    /// Images, each named after its number.
    pub images: u64,
    packs_per_image: u64,
}

/// The `n`-th chunk there is; those from [`Plan::chunks`] on are not stored.
pub fn chunk_id(n: u64) -> Digest {
    digest_of(&n.to_le_bytes())
}

fn chunk_bytes(id: &Digest) -> u32 {
    let spread = u64::from(u16::from_le_bytes([id.0[0], id.0[1]]));
    u32::try_from(CHUNK_BYTES / 2 + spread).unwrap()
}

impl Plan {
    /// About so many chunks.
    pub fn new(chunks: u64) -> Plan {
        let packs = chunks.div_ceil(PACK_CHUNKS);
        let images = packs.min(IMAGES);
        Plan { images, packs_per_image: packs.div_ceil(images.max(1)) }
    }

    pub fn packs(&self) -> u64 {
        self.images * self.packs_per_image
    }

    pub fn chunks(&self) -> u64 {
        self.packs() * PACK_CHUNKS
    }

    pub fn reference(&self, image: u64) -> Reference {
        format!("image-{image}:latest").parse().unwrap()
    }

    /// Makes the store, and has it opened after each image, so that its index
    /// grows as it does with imports.
    pub async fn generate(&self, folder: &Path) {
        drop(Repo::open_or_create(&folder.display().to_string()).await.unwrap());
        let records = SqliteConnectOptions::new().filename(folder.join("store.db"));
        let records = SqlitePool::connect_with(records).await.unwrap();
        for image in 0..self.images {
            let own = image * self.packs_per_image..(image + 1) * self.packs_per_image;
            for pack in own.clone() {
                write_pack(folder, pack);
                let row = sqlx::query("INSERT INTO packs (name, created_ms) VALUES ($1, 0)");
                row.bind(pack_name(pack).to_string()).execute(&records).await.unwrap();
            }
            let shared = own.start.saturating_sub(self.packs_per_image / SHARED_PARTS);
            write_image(folder, &records, image, shared * PACK_CHUNKS..own.end * PACK_CHUNKS).await;
            drop(Repo::open(&folder.display().to_string()).await.unwrap());
        }
        records.close().await;
    }
}

/// Not the digest of the bytes: whoever opens a store does not read packs.
fn pack_name(pack: u64) -> PackName {
    PackName(digest_of(format!("pack {pack}").as_bytes()).0)
}

/// Where a file of the store is.
fn path_of(folder: &Path, kind: &str, name: &str) -> PathBuf {
    let path = folder.join(kind).join(&name[..2]).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

fn write_pack(folder: &Path, pack: u64) {
    let mut builder = Builder::default();
    for n in pack * PACK_CHUNKS..(pack + 1) * PACK_CHUNKS {
        let id = chunk_id(n);
        let bytes = chunk_bytes(&id);
        let header = Header { encoding: Encoding::Raw, stored_len: bytes, chunks: vec![bytes] };
        builder.push(&header, &[id]);
    }
    let path = path_of(folder, "packs", &pack_name(pack).to_string());
    let file = File::create(path).unwrap();
    file.write_all_at(&Builder::header(), 0).unwrap();
    file.write_all_at(&builder.finish(), builder.frames_end()).unwrap();
}

/// Writes an image's envelope and chunk table, and records and names it.
async fn write_image(
    folder: &Path,
    records: &SqlitePool,
    image: u64,
    chunks: std::ops::Range<u64>,
) {
    let chunk = |n| {
        let id = chunk_id(n);
        Extent::Chunk { id, bytes: chunk_bytes(&id) }
    };
    let extents: Vec<Extent> = chunks.map(chunk).collect();
    let data_bytes: u64 = extents.iter().map(Extent::bytes).sum();
    // A disk is whole sectors.
    let disk_bytes = data_bytes.next_multiple_of(512);
    let gap = (disk_bytes > data_bytes).then_some(Extent::Hole { bytes: disk_bytes - data_bytes });
    let name = format!("image-{image}");
    let envelope = Envelope {
        format: envelope::FORMAT.to_owned(),
        disk_bytes,
        sector_bytes: 512,
        table: None,
        regions: vec![Region {
            name: "disk".to_owned(),
            start: 0,
            bytes: disk_bytes,
            partition: None,
            digest: digest_of(name.as_bytes()),
        }],
        grow: None,
        boot: None,
        configuration: [("name".to_owned(), name.clone())].into(),
        provenance: Default::default(),
    };
    envelope.validate().unwrap();
    let regions = vec![extents.into_iter().chain(gap).collect()];
    let table = ChunkTable { image: envelope.digest(), regions };
    table.check(&envelope).unwrap();
    let blobs = [envelope.to_bytes(), table.encode()];
    let [digest, table] = blobs.map(|bytes| {
        let name = digest_of(&bytes).hex();
        fs::write(path_of(folder, "blobs", &name), bytes).unwrap();
        name
    });
    sqlx::query(
        "INSERT INTO images (digest, chunk_table, disk_bytes, data_bytes, stored_bytes, \
         new_bytes, created_ms) VALUES ($1, $2, $3, $4, $4, $4, $5)",
    )
    .bind(&digest)
    .bind(table)
    .bind(i64::try_from(disk_bytes).unwrap())
    .bind(i64::try_from(data_bytes).unwrap())
    .bind(i64::try_from(image).unwrap())
    .execute(records)
    .await
    .unwrap();
    sqlx::query("INSERT INTO names (name, tag, image, updated_ms) VALUES ($1, 'latest', $2, 0)")
        .bind(name)
        .bind(digest)
        .execute(records)
        .await
        .unwrap();
}
