//! The conversation with the controller.

use std::io::Read;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::Order;
use wire::api::{
    CHECK_IN, CheckIn, CheckedIn, EVENTS, ErrorBody, EventBatch, EventsSeen, MADE, Made,
};

/// Why the controller was of no help.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// No answer, or the connection broke.
    #[error("{url}: no answer or a broken one")]
    Transport {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The controller refused.
    #[error("{url}: the controller answered {status}: {said}")]
    Status {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// What it said about it.
        said: String,
    },
    /// The answer makes no sense.
    #[error("{url}: the answer is not what a controller says; is this the right server?")]
    Answer {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is longer than one ever is.
    #[error(
        "{url}: the answer has more than {max} bytes and is not read; is the controller newer \
         than this agent? Update the boot assets, or make what the rule's recipe sends to \
         machines shorter"
    )]
    TooLong {
        /// What was asked.
        url: String,
        /// Most bytes of an answer.
        max: usize,
    },
}

impl ControllerError {
    /// Whether asking the same again is in vain.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ControllerError::Status { status: 400..500, .. })
    }
}

/// The controller, seen over HTTP.
pub struct Controller {
    base: String,
    http: ureq::Agent,
}

impl Controller {
    /// The controller at `base`. Does not connect.
    pub fn new(base: &str) -> Controller {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_global(Some(Duration::from_secs(60)))
            // A server that restarted has forgotten the connections of the last one.
            .max_idle_age(Duration::from_secs(5))
            .user_agent(concat!("ingot-agent/", env!("CARGO_PKG_VERSION")))
            .build();
        Controller { base: base.to_owned(), http: ureq::Agent::new_with_config(config) }
    }

    /// Says who this machine is and asks what to do.
    pub fn check_in(&self, check_in: &CheckIn) -> Result<CheckedIn, ControllerError> {
        self.post(CHECK_IN, check_in)
    }

    /// Hands events over.
    pub fn events(&self, batch: &EventBatch) -> Result<EventsSeen, ControllerError> {
        self.post(EVENTS, batch)
    }

    /// Tells of an image that this machine made and sent to the store.
    pub fn made(&self, made: &Made) -> Result<(), ControllerError> {
        self.send(MADE, made).map(drop)
    }

    fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ControllerError> {
        let bytes = self.send(path, body)?;
        let url = format!("{}{path}", self.base);
        serde_json::from_slice(&bytes).map_err(|source| ControllerError::Answer { url, source })
    }

    /// The body of the answer.
    fn send(&self, path: &str, body: &impl Serialize) -> Result<Vec<u8>, ControllerError> {
        let url = format!("{}{path}", self.base);
        let failed = |source: ureq::Error| ControllerError::Transport {
            url: url.clone(),
            source: Box::new(source),
        };
        let mut response = self.http.post(&url).send_json(body).map_err(failed)?;
        let mut bytes = Vec::new();
        let mut reader = response.body_mut().as_reader().take(Order::BYTES_MAX as u64 + 1);
        reader.read_to_end(&mut bytes).map_err(|error| failed(error.into()))?;
        if bytes.len() > Order::BYTES_MAX {
            return Err(ControllerError::TooLong { url, max: Order::BYTES_MAX });
        }
        let status = response.status().as_u16();
        if !matches!(status, 200 | 204) {
            let said = serde_json::from_slice::<ErrorBody>(&bytes);
            let said = said.map_or_else(|_| "(no reason given)".to_owned(), |body| body.error);
            return Err(ControllerError::Status { url, status, said });
        }
        Ok(bytes)
    }
}
