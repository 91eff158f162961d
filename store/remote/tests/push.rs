//! What a push makes of servers that break every rule.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use server::{Fault, Sample, Server};
use store_format::upload::{decode_commit, decode_ids, encode_ids};
use store_format::{digest_of, frame};
use store_remote::{Backoff, Client, FetchError, Options, PushError, PushProgress, Pushed, Timing};
use wire::Digest;
use wire::upload::{Begun, Received, State, Stored};

/// A clock that only waiting moves.
#[derive(Default)]
struct Clock(AtomicU64);

impl Timing for Clock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
    fn sleep(&self, duration: Duration) {
        let millis = u64::try_from(duration.as_millis()).unwrap();
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
    fn random(&self) -> u64 {
        0
    }
}

/// What a store that takes images has.
#[derive(Default)]
struct Taken {
    chunks: BTreeSet<Digest>,
    begun: usize,
    /// Chunks that came, again and again.
    came: usize,
    images: Vec<(String, Digest)>,
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn stored(digest: Digest) -> State {
    let (disk_bytes, data_bytes, chunks) = (1, 2, 3);
    State::Stored(Stored { digest, disk_bytes, data_bytes, chunks, stored_bytes: 4, new_bytes: 5 })
}

impl Taken {
    fn post(&mut self, path: &str, body: &[u8]) -> Vec<u8> {
        if path == "/v1/uploads" {
            self.begun += 1;
            return json(&Begun { upload: format!("u{}", self.begun), silence_secs: 600 });
        }
        let (_, what) = path.strip_prefix("/v1/uploads/").unwrap().split_once('/').unwrap();
        match what.split('?').next().unwrap() {
            "missing" => {
                let ids = decode_ids(body).unwrap();
                encode_ids(ids.iter().filter(|id| !self.chunks.contains(id)))
            }
            "frames" => {
                let opened = frame::open(body).unwrap();
                let ids: Vec<_> = opened.chunks().map(|(id, _)| id).collect();
                self.came += ids.len();
                self.chunks.extend(&ids);
                json(&Received { chunks: ids.len() as u64, new_chunks: 0 })
            }
            _ => {
                let (envelope, table) = decode_commit(body).unwrap();
                assert!(table.ids().iter().all(|id| self.chunks.contains(id)));
                self.images.push((what.to_owned(), envelope.digest()));
                json(&stored(envelope.digest()))
            }
        }
    }
}

/// 400 chunks of noise, in two frames.
fn sample() -> Sample {
    let mut disk = vec![0; 4_000_000];
    blake3::Hasher::new().finalize_xof().fill(&mut disk);
    Sample::whole(disk)
}

struct Lab {
    server: Server,
    taken: Arc<Mutex<Taken>>,
    client: Client,
    clock: Arc<Clock>,
    sample: Sample,
}

impl Lab {
    fn new() -> Lab {
        let server = Server::start(&[]);
        let taken = Arc::new(Mutex::new(Taken::default()));
        let shared = Arc::clone(&taken);
        server.on_post(Box::new(move |path, body| shared.lock().unwrap().post(path, body)));
        let clock = Arc::new(Clock::default());
        let options = Options {
            idle: Duration::from_millis(1500),
            tries: 5,
            tries_damaged: 3,
            backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(9) },
            ..Options::default()
        };
        let client = Client::new(&server.base, options, Arc::clone(&clock) as _).unwrap();
        Lab { server, taken, client, clock, sample: sample() }
    }

    /// Answers posts to a path in another way.
    fn on(&self, path: &'static str, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
        let shared = Arc::clone(&self.taken);
        self.server.on_post(Box::new(move |asked, body| {
            let usual = shared.lock().unwrap().post(asked, body);
            if asked.ends_with(path) { answer(body) } else { usual }
        }));
    }

    fn chunk(&self, number: usize) -> &[u8] {
        self.sample.disk.chunks(10_000).nth(number).unwrap()
    }

    fn push(&self) -> Result<Pushed, PushError<Infallible>> {
        let reference = "lab/web:1".parse().unwrap();
        let Sample { envelope, table, .. } = &self.sample;
        let source = |number| Ok(self.chunk(number));
        self.client.push(envelope, table, Some(&reference), source, |_| {})
    }

    /// What becomes of a push that does not go well.
    fn fails(&self) -> FetchError {
        match self.push().unwrap_err() {
            PushError::Fetch(error) => error,
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_server_gets_what_it_lacks_and_no_more() {
    let lab = Lab::new();
    lab.taken.lock().unwrap().chunks.extend((100..200).map(|n| digest_of(lab.chunk(n))));
    let (mut asked, mut heard) = (Vec::new(), Vec::new());
    let source = |number| {
        asked.push(number);
        Ok::<_, Infallible>(lab.chunk(number))
    };
    let Sample { envelope, table, .. } = &lab.sample;
    let pushed = lab.client.push(envelope, table, None, source, |p| heard.push(p)).unwrap();
    assert_eq!(asked, (0..100).chain(200..400).collect::<Vec<_>>());
    assert_eq!(State::Stored(pushed.stored), stored(lab.sample.digest()));
    assert!(pushed.sent_chunks == 300 && pushed.sent_bytes > 3_000_000, "{pushed:?}");
    let total_bytes = 4_000_000;
    let last = PushProgress::Sending { done_bytes: total_bytes, total_bytes };
    assert_eq!((heard.len(), heard.last()), (400, Some(&last)));
    let taken = lab.taken.lock().unwrap();
    assert_eq!((taken.begun, taken.came), (1, 300));
    assert_eq!(taken.images, [("commit".to_owned(), lab.sample.digest())]);
    assert_eq!(lab.clock.now(), Duration::ZERO);
}

#[test]
fn what_breaks_is_sent_again() {
    for path in ["/v1/uploads", "/missing", "/frames", "/commit"] {
        for fault in [Fault::Hang, Fault::Silence, Fault::Garbage, Fault::Status(503)] {
            let lab = Lab::new();
            lab.server.fault(path, fault);
            lab.server.fault(path, Fault::Status(429));
            lab.push().unwrap_or_else(|e| panic!("{path} {fault:?}: {e}"));
            assert_eq!(lab.server.faults_left(), 0);
            assert!(lab.clock.now() > Duration::ZERO, "{path} {fault:?}");
            let taken = lab.taken.lock().unwrap();
            assert_eq!((taken.begun, taken.came), (1, 400), "{path} {fault:?}");
            let name = "commit?reference=lab/web:1".to_owned();
            assert_eq!(taken.images, [(name, lab.sample.digest())]);
        }
    }
}

#[test]
fn a_lost_upload_is_begun_again_and_sends_what_is_missing_still() {
    for path in ["/missing", "/frames", "/commit"] {
        for status in [404, 409, 410] {
            let lab = Lab::new();
            lab.server.fault(path, Fault::Status(status));
            let pushed = lab.push().unwrap_or_else(|e| panic!("{path} {status}: {e}"));
            let taken = lab.taken.lock().unwrap();
            assert_eq!((taken.begun, taken.came), (2, 400), "{path} {status}");
            assert_eq!(pushed.sent_chunks, 400);
        }
    }
}

#[test]
fn a_server_that_loses_every_upload_is_given_up() {
    let lab = Lab::new();
    for _ in 0..9 {
        lab.server.fault("/commit", Fault::Status(409));
    }
    let FetchError::GaveUp { source, .. } = lab.fails() else { panic!("not given up") };
    assert!(matches!(*source, FetchError::Lost { .. }), "{source}");
    // The first sent everything, and two more found nothing to send.
    let taken = lab.taken.lock().unwrap();
    assert_eq!((taken.begun, taken.came), (3, 400));
}

#[test]
fn a_refusal_is_final_and_says_what_the_server_said() {
    for (path, status) in [
        ("/v1/uploads", 403),
        ("/v1/uploads", 404),
        ("/missing", 400),
        ("/frames", 413),
        ("/commit", 422),
        ("/commit", 413),
    ] {
        let lab = Lab::new();
        lab.server.fault(path, Fault::Status(status));
        let error = lab.fails();
        let text = error.to_string();
        assert!(matches!(error, FetchError::Status { .. }), "{path} {status}: {text}");
        assert!(text.contains("scripted") && text.contains(&status.to_string()), "{text}");
        assert_eq!(lab.clock.now(), Duration::ZERO, "{path} {status}");
        assert_eq!(lab.taken.lock().unwrap().images, []);
    }
}

#[test]
fn a_frame_that_was_damaged_on_the_way_is_sent_again_a_few_times() {
    let lab = Lab::new();
    lab.server.fault("/frames", Fault::Status(422));
    lab.push().unwrap();
    let lab = Lab::new();
    for _ in 0..3 {
        lab.server.fault("/frames", Fault::Status(422));
    }
    let FetchError::GaveUp { tries: 3, source } = lab.fails() else { panic!("not given up") };
    assert!(matches!(*source, FetchError::Damaged { .. }), "{source}");
}

#[test]
fn answers_to_something_else_are_refused() {
    let strange = digest_of(b"never asked for");
    let other = json(&Received { chunks: 1, new_chunks: 1 });
    let slash = json(&Begun { upload: "../images".to_owned(), silence_secs: 1 });
    let answers: [(&str, Vec<u8>); 8] = [
        ("/v1/uploads", b"[]".to_vec()),
        ("/v1/uploads", slash),
        ("/missing", encode_ids([&strange])),
        ("/missing", vec![0; 31]),
        ("/frames", other),
        ("/frames", b"\xff".to_vec()),
        ("/commit?reference=lab/web:1", json(&State::Open)),
        ("/commit?reference=lab/web:1", br#"{"state":"newer"}"#.to_vec()),
    ];
    for (path, answer) in answers {
        let lab = Lab::new();
        let text = format!("{path} {answer:?}");
        lab.on(path, move |_| answer.clone());
        assert!(matches!(lab.fails(), FetchError::Answer { .. }), "{text}");
    }
    // In another order, and more than was asked for.
    let lab = Lab::new();
    lab.on("/missing", |body| encode_ids(decode_ids(body).unwrap().iter().rev()));
    assert!(matches!(lab.fails(), FetchError::Answer { .. }));
    let lab = Lab::new();
    lab.on("/missing", |body| [body, body].concat());
    assert!(matches!(lab.fails(), FetchError::TooLong { .. }));
}

#[test]
fn a_source_that_fails_or_changed_ends_it() {
    let lab = Lab::new();
    let Sample { envelope, table, .. } = &lab.sample;
    let failing = |number: usize| match number {
        250.. => Err(std::io::Error::other("unplugged")),
        _ => Ok(lab.chunk(number)),
    };
    let error = lab.client.push(envelope, table, None, failing, |_| {}).unwrap_err();
    assert!(matches!(error, PushError::Source(_)), "{error}");
    let changed = |number: usize| Ok::<_, Infallible>(lab.chunk(number.min(300)));
    let error = lab.client.push(envelope, table, None, changed, |_| {}).unwrap_err();
    let PushError::Changed { id } = error else { panic!("{error}") };
    assert_eq!(id, digest_of(lab.chunk(301)));
    assert_eq!(lab.taken.lock().unwrap().images, []);
}

#[test]
fn a_server_that_reads_back_is_waited_for_but_not_for_ever() {
    let lab = Lab::new();
    let verifying = json(&State::Verifying { done_bytes: 7, total_bytes: 9 });
    lab.on("/commit?reference=lab/web:1", move |_| verifying.clone());
    lab.server.file("/v1/uploads/u1", json(&stored(lab.sample.digest())));
    lab.server.fault("/v1/uploads/u1", Fault::Status(503));
    assert_eq!(lab.push().unwrap().stored.digest, lab.sample.digest());

    let verifying = json(&State::Verifying { done_bytes: 7, total_bytes: 9 });
    lab.server.file("/v1/uploads/u2", verifying);
    let before = lab.clock.now();
    let error = lab.fails();
    assert!(matches!(error, FetchError::Stalled { .. }), "{error}");
    let waited = lab.clock.now() - before;
    assert!((3600..3700).contains(&waited.as_secs()), "{waited:?}");

    // What goes back and forth gets no further either.
    let (Sample { envelope, table, .. }, reference) = (&lab.sample, "lab/web:1".parse().unwrap());
    let source = |number| Ok::<_, Infallible>(lab.chunk(number));
    let error = lab.client.push(envelope, table, Some(&reference), source, |progress| {
        if let PushProgress::Verifying { done_bytes, total_bytes } = progress {
            let done_bytes = 15 - done_bytes;
            lab.server.file("/v1/uploads/u3", json(&State::Verifying { done_bytes, total_bytes }));
        }
    });
    let error = error.unwrap_err();
    assert!(matches!(error, PushError::Fetch(FetchError::Stalled { .. })), "{error}");
}
