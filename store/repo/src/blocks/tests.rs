//! A backend that counts what it is asked, and answers when it is let.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, Error, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::*;

const BLOCK: u64 = 1000;
const PACK: u64 = 10_500;
const READERS: usize = 100;

#[derive(Debug)]
struct Gated {
    inner: InMemory,
    reads: AtomicUsize,
    gate: Semaphore,
    refuses: AtomicBool,
}

impl fmt::Display for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gated")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Gated {
    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        if self.refuses.load(Ordering::SeqCst) {
            let source = "a read that is refused on purpose".into();
            return Err(Error::PermissionDenied { path: location.to_string(), source });
        }
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, at: &Key, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Key>>,
    ) -> BoxStream<'static, Result<Key>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Blocks before a backend that has one pack.
struct Bench {
    backend: Arc<Gated>,
    objects: Arc<dyn ObjectStore>,
    blocks: Arc<Blocks>,
    key: Key,
    bytes: Vec<u8>,
}

impl Bench {
    /// `permits` reads are answered at once.
    async fn new(permits: usize, kept_bytes: u64) -> Bench {
        let backend = Arc::new(Gated {
            inner: InMemory::new(),
            reads: AtomicUsize::new(0),
            gate: Semaphore::new(permits),
            refuses: AtomicBool::new(false),
        });
        let bytes: Vec<u8> = (0..PACK).map(|n| (n % 251) as u8).collect();
        let key = Key::from("packs/ab/abcd");
        backend.put(&key, bytes.clone().into()).await.unwrap();
        let objects = Arc::clone(&backend) as Arc<dyn ObjectStore>;
        Bench { backend, objects, blocks: Blocks::with_sizes(BLOCK, kept_bytes), key, bytes }
    }

    fn read(&self, range: Range<u64>) -> BoxFuture<'_, std::result::Result<Bytes, StorageError>> {
        self.blocks.read(&self.objects, &self.key, range).boxed()
    }

    fn reads(&self) -> usize {
        self.backend.reads.load(Ordering::SeqCst)
    }
}

/// Starts all of them, none of which can end yet.
fn start<F: Future + Unpin>(mut all: F) -> F {
    assert!((&mut all).now_or_never().is_none(), "nothing was asked of the backend");
    all
}

#[tokio::test]
async fn many_readers_of_a_cold_block_cause_one_read() {
    let bench = Bench::new(0, 1 << 20).await;
    let ranges = (0..READERS as u64).map(|n| 3000 + n..3500 + n);
    let all = start(join_all(ranges.clone().map(|range| bench.read(range))));
    bench.backend.gate.add_permits(1);
    for (range, bytes) in ranges.zip(all.await) {
        let range = range.start as usize..range.end as usize;
        assert_eq!(bytes.unwrap(), bench.bytes[range]);
    }
    assert_eq!(bench.reads(), 1);
    // It is warm now.
    assert_eq!(bench.read(3999..4000).await.unwrap(), bench.bytes[3999..4000]);
    assert_eq!(bench.reads(), 1);
}

#[tokio::test]
async fn an_error_reaches_all_who_wait_and_the_next_reads_again() {
    let bench = Bench::new(0, 1 << 20).await;
    bench.backend.refuses.store(true, Ordering::SeqCst);
    let all = start(join_all((0..READERS).map(|_| bench.read(0..10))));
    bench.backend.gate.add_permits(1);
    for read in all.await {
        let error = read.unwrap_err();
        assert!(matches!(error, StorageError::Denied { .. }), "{error:?}");
        assert!(wire::chain(&error).contains("on purpose"), "{error:?}");
    }
    assert_eq!(bench.reads(), 1);
    bench.backend.refuses.store(false, Ordering::SeqCst);
    bench.backend.gate.add_permits(1);
    assert_eq!(bench.read(0..10).await.unwrap(), bench.bytes[..10]);
    assert_eq!(bench.reads(), 2);
}

#[tokio::test]
async fn readers_that_go_away_take_nothing_from_the_others() {
    let bench = Bench::new(0, 1 << 20).await;
    let (first, second) = (start(bench.read(0..10)), start(bench.read(5..10)));
    drop(first);
    bench.backend.gate.add_permits(1);
    assert_eq!(second.await.unwrap(), bench.bytes[5..10]);
    // What all have left alone is read to its end all the same.
    drop(start(bench.read(1000..1010)));
    let next = start(bench.read(1000..1010));
    bench.backend.gate.add_permits(1);
    assert_eq!(next.await.unwrap(), bench.bytes[1000..1010]);
    assert_eq!(bench.reads(), 2);
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let bench = Bench::new(1000, 4 * BLOCK).await;
    for _ in 0..3 {
        for number in 0..PACK / BLOCK {
            let start = number * BLOCK;
            bench.read(start..start + BLOCK).await.unwrap();
            let kept = bench.blocks.kept.weight();
            assert!(0 < kept && kept <= 4 * BLOCK, "{kept}");
        }
    }
    assert!(bench.blocks.reading.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_written_anew_is_read_anew() {
    let bench = Bench::new(2, 1 << 20).await;
    bench.read(0..10).await.unwrap();
    bench.backend.put(&bench.key, vec![7; PACK as usize].into()).await.unwrap();
    bench.blocks.forget(&bench.key);
    assert_eq!(bench.read(0..3).await.unwrap(), [7, 7, 7][..]);
}

#[tokio::test]
async fn a_range_past_the_end_is_an_error_and_not_fewer_bytes() {
    let bench = Bench::new(1000, 1 << 20).await;
    for range in [PACK - 1..PACK + 1, PACK..PACK + 1, 0..PACK + 1, 2 * PACK..3 * PACK] {
        assert!(bench.read(range.clone()).await.is_err(), "{range:?}");
    }
    assert_eq!(bench.read(PACK..PACK).await.unwrap(), Bytes::new());
}

#[tokio::test]
async fn a_whole_pack_comes_without_its_length_being_asked() {
    let bench = Bench::new(1000, 1 << 20).await;
    let open = bench.blocks.open(&bench.objects, &bench.key, None).await.unwrap();
    assert_eq!((open.pack_len, open.range), (PACK, 0..PACK));
    let parts: Vec<Bytes> = open.bytes.try_collect().await.unwrap();
    assert!(parts.concat() == bench.bytes);
    assert_eq!(bench.reads() as u64, PACK.div_ceil(BLOCK));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_range_is_what_the_pack_has(ranges in prop::collection::vec((0..PACK, 0..PACK), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new(1000, 3 * BLOCK).await;
            for (start, len) in ranges {
                let range = start..(start + len).min(PACK);
                let expected = &bench.bytes[range.start as usize..range.end as usize];
                assert_eq!(bench.read(range).await.unwrap(), expected);
            }
        });
    }
}
