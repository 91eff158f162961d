//! Whole documents: envelope, chunk table, locations.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use store_format::{ChunkTable, Envelope, Locations, digest_of, envelope, locations, table};
use ureq::Body;
use ureq::http::Response;
use wire::Digest;
use wire::api::{ErrorBody, IMAGES};

use crate::error::{FetchError, Hope};
use crate::retry::{Backoff, Timing};

/// How patient a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest silence of an open connection.
    pub idle: Duration,
    /// Tries in a row without a single new chunk while the server is away.
    pub tries: u32,
    /// Tries in a row where what comes is wrong.
    pub tries_damaged: u32,
    /// Waits between tries.
    pub backoff: Backoff,
}

impl Default for Options {
    /// Bridges a server that is away for about four minutes.
    fn default() -> Options {
        Options {
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(20),
            tries: 30,
            tries_damaged: 3,
            backoff: Backoff { first: Duration::from_millis(250), max: Duration::from_secs(10) },
        }
    }
}

/// All that is needed to pull an image, checked against each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its digest.
    pub digest: Digest,
    /// What it is.
    pub envelope: Envelope,
    /// Which chunks it is made of.
    pub table: ChunkTable,
    /// Where they are.
    pub locations: Locations,
    /// Id and plain length of each distinct chunk, in the order of `locations`.
    pub chunks: Vec<(Digest, u32)>,
}

/// A store, seen over HTTP. May be used by several threads.
pub struct Client {
    base: String,
    pub(crate) http: ureq::Agent,
    pub(crate) options: Options,
    pub(crate) timing: Arc<dyn Timing>,
    received: AtomicU64,
    on_retry: Option<Box<OnRetry>>,
}

/// Hears of a failure that is tried again after a wait.
type OnRetry = dyn Fn(&FetchError, Duration) + Send + Sync;

/// Most bytes read of an error's body.
const ERROR_BYTES_MAX: u64 = 4096;

impl Client {
    /// A client of the store at `base`, `http://ADDRESS[:PORT]`. Does not connect.
    pub fn new(
        base: &str,
        options: Options,
        timing: Arc<dyn Timing>,
    ) -> Result<Client, FetchError> {
        let base = base.trim_end_matches('/');
        let bad = || FetchError::Address { base: base.to_owned() };
        let host = base.strip_prefix("http://").ok_or_else(bad)?;
        if host.is_empty() || host.contains(['/', ' ', '?', '#']) {
            return Err(bad());
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_connect(Some(options.connect))
            .timeout_per_read(Some(options.idle))
            .timeout_per_write(Some(options.idle))
            .user_agent(concat!("ingot/", env!("CARGO_PKG_VERSION")))
            .build();
        let http = ureq::Agent::new_with_config(config);
        let received = AtomicU64::new(0);
        Ok(Client { base: base.to_owned(), http, options, timing, received, on_retry: None })
    }

    /// Tells of each failure that is tried again, and after which wait; from
    /// any of the threads that use the client.
    pub fn on_retry(
        mut self,
        tell: impl Fn(&FetchError, Duration) + Send + Sync + 'static,
    ) -> Client {
        self.on_retry = Some(Box::new(tell));
        self
    }

    /// Bytes of bodies received so far, all threads together.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The envelope of an image, proven to be that of the digest.
    pub fn envelope(&self, image: &Digest) -> Result<Envelope, FetchError> {
        self.retrying(|| {
            let bytes = self.document(image, "", envelope::BYTES_MAX as u64)?;
            let found = digest_of(&bytes);
            if found != *image {
                return Err(FetchError::OtherImage { asked: *image, found });
            }
            let unsound = |source| FetchError::Envelope { image: *image, source };
            Envelope::from_bytes(&bytes).map_err(unsound)
        })
    }

    /// What is needed to pull an image whose envelope is known.
    pub fn image(&self, envelope: Envelope) -> Result<Image, FetchError> {
        let digest = envelope.digest();
        let unsound = |source| FetchError::Chunks { image: digest, source };
        let table = self.retrying(|| {
            let bytes = self.document(&digest, "/table", table::BYTES_MAX)?;
            let table = ChunkTable::decode(&bytes).map_err(unsound)?;
            table.check(&envelope).map_err(unsound)?;
            Ok(table)
        })?;
        let locations = self.retrying(|| {
            let bytes = self.document(&digest, "/locations", locations::BYTES_MAX)?;
            Locations::decode(&bytes).map_err(unsound)
        })?;
        let chunks: Vec<_> = table.distinct().collect();
        if chunks.len() != locations.chunks.len() {
            return Err(FetchError::Locations {
                image: digest,
                chunks: chunks.len(),
                locations: locations.chunks.len(),
            });
        }
        Ok(Image { digest, envelope, table, locations, chunks })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn document(&self, image: &Digest, part: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let url = self.url(&format!("{IMAGES}{image}{part}"));
        let result = self.http.get(&url).call();
        let response = answered(&url, result)?;
        match response.status().as_u16() {
            200 => self.body(url, response, limit),
            _ => Err(refused(url, response)),
        }
    }

    /// The whole body of an answer that may have so many bytes.
    pub(crate) fn body(
        &self,
        url: String,
        mut response: Response<Body>,
        limit: u64,
    ) -> Result<Vec<u8>, FetchError> {
        let announced = response.body().content_length();
        if announced.is_some_and(|bytes| bytes > limit) {
            return Err(FetchError::TooLong { url, limit });
        }
        let mut bytes = Vec::new();
        let result = response.body_mut().as_reader().take(limit + 1).read_to_end(&mut bytes);
        self.count(bytes.len());
        let found = bytes.len() as u64;
        if let Err(error) = result {
            return Err(broken(url, error, announced.unwrap_or(0), found));
        }
        match found > limit {
            true => Err(FetchError::TooLong { url, limit }),
            false => Ok(bytes),
        }
    }

    /// Does something again while there is hope.
    pub(crate) fn retrying<T>(
        &self,
        ask: impl Fn() -> Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let mut failures = Failures::default();
        loop {
            match ask() {
                Ok(value) => return Ok(value),
                Err(error) => failures.wait(error, self)?,
            }
        }
    }
}

/// Failures in a row.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    all: u32,
    damaged: u32,
}

impl Failures {
    /// Waits for the next try, or gives the error back when there is none.
    pub(crate) fn wait(&mut self, error: FetchError, client: &Client) -> Result<(), FetchError> {
        let hope = error.hope();
        self.all += 1;
        self.damaged += u32::from(hope == Hope::Again);
        let options = &client.options;
        if hope == Hope::None {
            return Err(error);
        }
        if self.all >= options.tries || self.damaged >= options.tries_damaged {
            return Err(FetchError::GaveUp { tries: self.all, source: Box::new(error) });
        }
        let wait = options.backoff.delay(self.all, client.timing.random());
        if let Some(tell) = &client.on_retry {
            tell(&error, wait);
        }
        client.timing.sleep(wait);
        Ok(())
    }
}

pub(crate) fn answered(
    url: &str,
    result: Result<Response<Body>, ureq::Error>,
) -> Result<Response<Body>, FetchError> {
    let failed = |source| FetchError::Transport { url: url.to_owned(), source: Box::new(source) };
    result.map_err(failed)
}

/// The error for an answer with a status that is not the one wanted.
pub(crate) fn refused(url: String, mut response: Response<Body>) -> FetchError {
    let mut bytes = Vec::new();
    let reader = response.body_mut().as_reader();
    // Whatever came of it is good enough for a message.
    let _ = reader.take(ERROR_BYTES_MAX).read_to_end(&mut bytes);
    let said = match serde_json::from_slice::<ErrorBody>(&bytes) {
        Ok(body) => body.error,
        Err(_) => String::new(),
    };
    FetchError::Status { url, status: response.status().as_u16(), said }
}

/// The error for a body that broke off.
pub(crate) fn broken(url: String, error: std::io::Error, expected: u64, found: u64) -> FetchError {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return FetchError::Short { url, expected, found };
    }
    FetchError::Transport { url, source: Box::new(error.into()) }
}
