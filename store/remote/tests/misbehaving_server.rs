//! What the client makes of servers that break every rule.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use server::{Fault, Sample, Server};
use store_format::plan::{PlanLimits, ranges};
use store_format::{Location, envelope};
use store_remote::{Backoff, Client, FetchError, Image, Options, PullError, Timing};

/// Does not wait; counts how often it was asked to.
#[derive(Default)]
struct NoWait(AtomicU64);

impl Timing for NoWait {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn random(&self) -> u64 {
        0
    }
}

fn sample() -> Sample {
    // 100 chunks of noise, then a hole, then the first chunks again.
    let mut disk = vec![0; 1_040_000];
    let mut noise = blake3::Hasher::new().finalize_xof();
    noise.fill(&mut disk[..1_000_000]);
    disk.copy_within(..20_000, 1_020_000);
    Sample::whole(disk)
}

fn client(server: &Server) -> (Client, Arc<NoWait>) {
    let timing = Arc::new(NoWait::default());
    let options = Options {
        // Long enough for a busy machine, short enough for the test of silence.
        idle: Duration::from_millis(1500),
        tries: 5,
        tries_damaged: 3,
        backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(9) },
        ..Options::default()
    };
    (Client::new(&server.base, options, Arc::clone(&timing) as _).unwrap(), timing)
}

fn image(client: &Client, sample: &Sample) -> Result<Image, FetchError> {
    client.image(client.envelope(&sample.digest())?)
}

/// Pulls everything and checks each chunk; gives the number of chunks.
fn pull(client: &Client, image: &Image) -> Result<usize, PullError<Infallible>> {
    let mut seen = Vec::new();
    for request in ranges(0..image.chunks.len(), &image.locations, PlanLimits::default()).unwrap() {
        client.pull(image, &request, |index, plain| {
            assert_eq!(store_format::digest_of(plain), image.chunks[index].0);
            seen.push(index);
            Ok(())
        })?;
    }
    assert!(
        seen.is_sorted()
            && seen.iter().collect::<std::collections::HashSet<_>>().len() == seen.len()
    );
    Ok(seen.len())
}

#[test]
fn an_honest_server_needs_one_request_for_each_range() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, timing) = client(&server);
    let image = image(&client, &sample).unwrap();
    assert_eq!(
        (image.envelope.clone(), image.table.clone()),
        (sample.envelope.clone(), sample.table.clone())
    );
    let before = client.received_bytes();
    assert_eq!(pull(&client, &image).unwrap(), 100);
    assert_eq!(server.state.pack_requests.load(Ordering::SeqCst), sample.packs.len());
    assert_eq!(client.received_bytes() - before, server.take_pack_bytes());
    assert_eq!(timing.0.load(Ordering::SeqCst), 0);
}

#[test]
fn what_breaks_is_asked_for_again_from_the_first_missing_chunk() {
    let sample = sample();
    for fault in [
        Fault::Hang,
        Fault::Silence,
        Fault::Garbage,
        Fault::Status(503),
        Fault::Status(429),
        Fault::Cut(0),
        Fault::Cut(30_000),
        Fault::Damage(0),
        Fault::Damage(25_000),
        Fault::OtherRange,
    ] {
        let server = Server::start(&[&sample]);
        let (client, timing) = client(&server);
        let image = image(&client, &sample).unwrap();
        server.fault("/packs/", fault);
        assert_eq!(pull(&client, &image).unwrap(), 100, "{fault:?}");
        assert_eq!(timing.0.load(Ordering::SeqCst), 1, "{fault:?}");
        let whole: u64 = sample.locations.chunks.iter().map(|c| u64::from(c.frame_len)).sum();
        // A cut or damage after two chunks must not cost those two again.
        let waste = server.take_pack_bytes().saturating_sub(whole);
        assert!(waste <= sample.packs[0].1.len() as u64, "{fault:?}: {waste}");
        if matches!(fault, Fault::Cut(_)) {
            assert!(waste <= 30_000 % 10_048 + 40, "{fault:?}: {waste}");
        }
    }
}

#[test]
fn documents_are_asked_for_again_too() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, _) = client(&server);
    for path in ["/images/", "/table", "/locations"] {
        for fault in
            [Fault::Hang, Fault::Status(500), Fault::Cut(20), Fault::Damage(60), Fault::Garbage]
        {
            server.fault(path, fault);
        }
    }
    // Five faults for each are more than the client tries, so it gives up in between.
    let mut tries = 0;
    while image(&client, &sample).is_err() {
        tries += 1;
        assert!(tries < 10);
    }
    assert_eq!(server.faults_left(), 0);
}

#[test]
fn a_server_that_never_recovers_is_given_up_on() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, timing) = client(&server);
    let image = image(&client, &sample).unwrap();
    (0..9).for_each(|_| server.fault("/packs/", Fault::Hang));
    match pull(&client, &image) {
        Err(PullError::Fetch(FetchError::GaveUp { tries: 5, source })) => {
            assert!(matches!(*source, FetchError::Transport { .. }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(timing.0.load(Ordering::SeqCst), 4);
}

#[test]
fn a_chunk_that_stays_damaged_is_named() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, _) = client(&server);
    let image = image(&client, &sample).unwrap();
    let (name, mut bytes) = sample.packs[1].clone();
    let Location { offset: at, plain_offset, .. } = image.locations.chunks[45];
    // Behind the header of a frame of two chunks, which is raw.
    bytes[usize::try_from(at).unwrap() + 60 + plain_offset as usize + 100] ^= 1;
    server.replace(&name.to_string(), bytes);
    match pull(&client, &image) {
        Err(PullError::Fetch(FetchError::GaveUp { tries: 3, source })) => match *source {
            FetchError::Chunk { offset, id, .. } => {
                assert_eq!((offset, id), (at, image.chunks[45].0))
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn hopeless_answers_are_not_asked_for_again() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, timing) = client(&server);
    let image = image(&client, &sample).unwrap();
    server.fault("/packs/", Fault::NoRange);
    let refused = pull(&client, &image);
    assert!(
        matches!(refused, Err(PullError::Fetch(FetchError::RangeIgnored { .. }))),
        "{refused:?}"
    );
    server.fault("/packs/", Fault::Status(404));
    match pull(&client, &image) {
        Err(PullError::Fetch(FetchError::Status { status: 404, said, .. })) => {
            assert_eq!(said, "scripted")
        }
        other => panic!("{other:?}"),
    }
    server.replace(&sample.packs[0].0.to_string(), vec![0; 9]);
    let refused = pull(&client, &image);
    assert!(
        matches!(refused, Err(PullError::Fetch(FetchError::RangeOutside { .. }))),
        "{refused:?}"
    );
    assert_eq!(timing.0.load(Ordering::SeqCst), 0);
}

#[test]
fn other_content_than_asked_for_is_never_accepted() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, _) = client(&server);
    let image_path = format!("/images/{}", sample.digest());
    let mut other = sample.envelope.clone();
    other.provenance.insert("by".into(), "somebody else".into());
    server.replace(&image_path, other.to_bytes());
    match client.envelope(&sample.digest()) {
        Err(FetchError::GaveUp { source, .. }) => {
            assert!(matches!(*source, FetchError::OtherImage { .. }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    // A sound table of another image.
    let mut table = sample.table.clone();
    table.image = other.digest();
    server.replace("/table", table.encode());
    match client.image(sample.envelope.clone()) {
        Err(FetchError::GaveUp { source, .. }) => {
            assert!(matches!(*source, FetchError::Chunks { .. }), "{source:?}");
        }
        other => panic!("{other:?}"),
    }
    // Sound locations, but not for every chunk.
    server.replace("/table", sample.table.encode());
    let mut locations = sample.locations.clone();
    locations.chunks.pop();
    server.replace("/locations", locations.encode());
    let refused = client.image(sample.envelope.clone());
    assert!(
        matches!(refused, Err(FetchError::Locations { chunks: 100, locations: 99, .. })),
        "{refused:?}"
    );
}

#[test]
fn lengths_are_limited_before_memory_is_taken() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, _) = client(&server);
    server.fault("/images/", Fault::Announce(u64::MAX / 2));
    let refused = client.envelope(&sample.digest());
    assert!(matches!(refused, Err(FetchError::TooLong { .. })), "{refused:?}");
    server.replace("/images/", vec![b' '; envelope::BYTES_MAX + 1]);
    let refused = client.envelope(&sample.digest());
    assert!(matches!(refused, Err(FetchError::TooLong { .. })), "{refused:?}");
}

#[test]
fn a_receiver_may_refuse() {
    let sample = sample();
    let server = Server::start(&[&sample]);
    let (client, _) = client(&server);
    let image = image(&client, &sample).unwrap();
    let request = &ranges(0..3, &image.locations, PlanLimits::default()).unwrap()[0];
    let full = |_: usize, _: &[u8]| Err(std::io::Error::other("disk full"));
    let refused = client.pull(&image, request, full);
    assert!(matches!(refused, Err(PullError::Sink(_))), "{refused:?}");
}

#[test]
fn only_addresses_of_servers_are_taken() {
    for base in ["", "ftp://x", "https://x", "http://", "http://a/b", "http://a b"] {
        let refused = Client::new(base, Options::default(), Arc::new(NoWait::default()));
        assert!(matches!(refused, Err(FetchError::Address { .. })), "{base}");
    }
}
