//! One upload: the requests, each tried again while there is hope.

use std::time::Duration;

use serde::de::DeserializeOwned;
use store_format::upload::{decode_ids, encode_ids};
use ureq::Body;
use ureq::http::Response;
use wire::upload::{Begun, COMMIT, FRAMES, MISSING, Received, State, Stored, UPLOADS};
use wire::{Digest, Reference};

use super::PushProgress;
use super::frames::Frame;
use crate::client::{Client, answered, refused};
use crate::error::FetchError;

/// Most bytes of an answer in JSON.
const JSON_BYTES_MAX: u64 = 64 << 10;
/// Between two questions how far the server is.
const POLL: Duration = Duration::from_secs(1);
/// How long the server may be at work and get no further: as long as it may take
/// to read back what others have sent before.
const STALLED: Duration = Duration::from_secs(60 * 60);

/// An upload that was begun.
pub(super) struct Session<'a> {
    client: &'a Client,
    url: String,
}

impl<'a> Session<'a> {
    pub(super) fn begin(client: &'a Client) -> Result<Session<'a>, FetchError> {
        let url = client.url(UPLOADS);
        let begun: Begun = client.retrying(|| {
            let response = answered(&url, client.http.post(&url).send_empty())?;
            client.json(&url, response)
        })?;
        let is_name = begun.upload.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match is_name && !begun.upload.is_empty() {
            true => Ok(Session { client, url: format!("{url}/{}", begun.upload) }),
            false => Err(FetchError::Answer { url }),
        }
    }

    /// Which of some chunks the store lacks.
    pub(super) fn missing(&self, chunks: &[(Digest, u32)]) -> Result<Vec<bool>, FetchError> {
        let url = format!("{}{MISSING}", self.url);
        let asked = encode_ids(chunks.iter().map(|(id, _)| id));
        let answer = self.retrying(|| {
            let response = answered(&url, self.client.http.post(&url).send(&asked[..]))?;
            match response.status().as_u16() {
                200 => self.client.body(url.clone(), response, asked.len() as u64),
                _ => Err(refused(url.clone(), response)),
            }
        })?;
        let wrong = || FetchError::Answer { url: url.clone() };
        let mut lacked = decode_ids(&answer).map_err(|_| wrong())?.into_iter().peekable();
        let missing = chunks.iter().map(|(id, _)| lacked.next_if_eq(id).is_some()).collect();
        // Ids that were asked for, in the order in which they were.
        lacked.next().map_or(Ok(missing), |_| Err(wrong()))
    }

    pub(super) fn frame(&self, frame: &Frame) -> Result<(), FetchError> {
        let url = format!("{}{FRAMES}", self.url);
        let received: Received = self.retrying(|| {
            let response = answered(&url, self.client.http.post(&url).send(&frame.bytes[..]))?;
            self.client.json(&url, response).map_err(|error| match error {
                FetchError::Status { url, status: 422, said } => FetchError::Damaged { url, said },
                other => other,
            })
        })?;
        match received.chunks == frame.chunks as u64 {
            true => Ok(()),
            false => Err(FetchError::Answer { url }),
        }
    }

    /// Waits until the image is stored.
    pub(super) fn commit(
        &self,
        commit: &[u8],
        reference: Option<&Reference>,
        progress: &mut impl FnMut(PushProgress),
    ) -> Result<Stored, FetchError> {
        let url = match reference {
            // It has no characters that mean something else in a query.
            Some(reference) => format!("{}{COMMIT}?reference={reference}", self.url),
            None => format!("{}{COMMIT}", self.url),
        };
        let (client, timing) = (self.client, &self.client.timing);
        let ask = |url: &str, commit: Option<&[u8]>| {
            self.retrying(|| {
                let asked = match commit {
                    Some(commit) => client.http.post(url).send(commit),
                    None => client.http.get(url).call(),
                };
                client.json::<State>(url, answered(url, asked)?)
            })
        };
        let mut state = ask(&url, Some(commit))?;
        let mut most = (0, timing.now());
        loop {
            let (done_bytes, total_bytes) = match state {
                State::Stored(stored) => return Ok(stored),
                State::Verifying { done_bytes, total_bytes } => (done_bytes, total_bytes),
                State::Open | State::Unknown => return Err(FetchError::Answer { url }),
            };
            progress(PushProgress::Verifying { done_bytes, total_bytes });
            let now = timing.now();
            if done_bytes > most.0 {
                most = (done_bytes, now);
            }
            if now.saturating_sub(most.1) >= STALLED {
                return Err(FetchError::Stalled { url, minutes: STALLED.as_secs() / 60 });
            }
            timing.sleep(POLL);
            state = ask(&self.url, None)?;
        }
    }

    /// Tells the server that nothing more comes; it finds that out by itself, too.
    pub(super) fn end(&self) {
        let _ = self.client.http.delete(&self.url).call();
    }

    /// An upload that is gone, or lacks something all the same, is to be begun
    /// again.
    fn retrying<T>(&self, ask: impl Fn() -> Result<T, FetchError>) -> Result<T, FetchError> {
        self.client.retrying(ask).map_err(|error| match error {
            FetchError::Status { status: 404 | 409 | 410, .. } => {
                FetchError::Lost { source: Box::new(error) }
            }
            other => other,
        })
    }
}

impl Client {
    fn json<T: DeserializeOwned>(
        &self,
        url: &str,
        response: Response<Body>,
    ) -> Result<T, FetchError> {
        if !response.status().is_success() {
            return Err(refused(url.to_owned(), response));
        }
        let bytes = self.body(url.to_owned(), response, JSON_BYTES_MAX)?;
        let wrong = |_| FetchError::Answer { url: url.to_owned() };
        serde_json::from_slice(&bytes).map_err(wrong)
    }
}
