//! Storing an image over the network (`docs/upload.md`).
//!
//! Bodies are JSON here; what is sent as bytes is `store_format::upload`. An
//! error is a status of 4xx or 5xx with [`crate::api::ErrorBody`].

use serde::{Deserialize, Serialize};

use crate::Digest;

/// `POST`: begins an upload, answered by [`Begun`].
/// `GET` + `/{upload}`: [`State`]. `DELETE` + `/{upload}`: ends it.
/// `POST` + `/{upload}` + [`MISSING`], [`FRAMES`] or [`COMMIT`].
pub const UPLOADS: &str = "/v1/uploads";

/// Ids of chunks, answered by those that have to be sent.
pub const MISSING: &str = "/missing";

/// One frame (`docs/frame.md`), answered by [`Received`].
pub const FRAMES: &str = "/frames";

/// Envelope and chunk table, answered by [`State`]. With a reference to give
/// the image, `?reference=name:tag`.
pub const COMMIT: &str = "/commit";

/// An upload that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Its name: 32 hex digits.
    pub upload: String,
    /// It ends after as many seconds without a request.
    pub silence_secs: u64,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Chunks in it.
    pub chunks: u64,
    /// Of these, chunks that the store lacked.
    pub new_chunks: u64,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// It takes chunks.
    Open,
    /// The image is read back before it counts as stored.
    Verifying {
        /// Bytes of its disk that were.
        done_bytes: u64,
        /// Bytes of its disk.
        total_bytes: u64,
    },
    /// The image is stored.
    Stored(Stored),
    /// What a newer server says.
    #[serde(other)]
    Unknown,
}

/// An image that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The image.
    pub digest: Digest,
    /// Bytes of its disk.
    pub disk_bytes: u64,
    /// Of these, bytes that are not in holes.
    pub data_bytes: u64,
    /// Its chunks, each counted once.
    pub chunks: u64,
    /// Stored bytes of these.
    pub stored_bytes: u64,
    /// Of these, bytes that the store did not have before.
    pub new_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_a_stable_form_and_a_newer_one_is_survived() {
        let verifying = State::Verifying { done_bytes: 1, total_bytes: 2 };
        let text = r#"{"state":"verifying","done_bytes":1,"total_bytes":2}"#;
        assert_eq!(serde_json::to_string(&verifying).unwrap(), text);
        assert_eq!(serde_json::to_string(&State::Open).unwrap(), r#"{"state":"open"}"#);
        let stored = Stored {
            digest: Digest([1; 32]),
            disk_bytes: 1,
            data_bytes: 2,
            chunks: 3,
            stored_bytes: 4,
            new_bytes: 5,
        };
        for state in [State::Open, verifying, State::Stored(stored)] {
            let text = serde_json::to_string(&state).unwrap();
            assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        }
        let newer = r#"{"state":"elsewhere","at":"x"}"#;
        assert_eq!(serde_json::from_str::<State>(newer).unwrap(), State::Unknown);
    }
}
