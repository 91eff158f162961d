//! Questions to a running server.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::Response;
use ureq::{Agent, Body};
use wire::Digest;
use wire::admin::{LIST_MAX, LOG_WAIT_SECS_MAX};
use wire::api::ErrorBody;

use crate::exit::{Code, Failure};

/// Longest answer read, in bytes: above [`LIST_MAX`] machines with all their facts.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Of a text that is sent.
const TEXT: &str = "text/plain; charset=utf-8";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the longest wait that a question may ask for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(LOG_WAIT_SECS_MAX as u64 + 15);

/// A server that can be asked.
#[derive(Debug)]
pub struct Server {
    agent: Agent,
    base: String,
}

impl Server {
    /// Nothing is connected yet. `base` has no final slash.
    pub fn new(base: String) -> Server {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .user_agent(concat!("ingot/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Server { agent, base }
    }

    /// What it is called in messages.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Asks for `path`, which may have a query; `what` is the answer's name in messages.
    pub fn ask<T: DeserializeOwned>(&self, what: &str, path: &str) -> anyhow::Result<T> {
        let url = format!("{}{path}", self.base);
        let answered = self.agent.get(&url).call();
        self.answer(&url, answered).with_context(|| format!("cannot get {what}"))
    }

    /// Tells `path` something; `what` is what that changes, in messages.
    pub fn tell<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.post(path, body).with_context(|| format!("cannot change {what}"))
    }

    /// Asks what takes a body to ask; `what` is the answer's name in messages.
    pub fn pose<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.post(path, body).with_context(|| format!("cannot get {what}"))
    }

    /// As [`Server::pose`], with a text.
    pub fn pose_text<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        text: &str,
    ) -> anyhow::Result<T> {
        let url = format!("{}{path}", self.base);
        let answered = self.agent.post(&url).content_type(TEXT).send(text);
        self.answer(&url, answered).with_context(|| format!("cannot get {what}"))
    }

    /// Puts a text in place of the one with this digest; `what` is what that
    /// changes, in messages.
    pub fn replace<T: DeserializeOwned>(
        &self,
        what: &str,
        path: &str,
        text: &str,
        instead_of: &Digest,
    ) -> anyhow::Result<T> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.put(&url).content_type(TEXT);
        let answered = request.header("if-match", format!("\"{instead_of}\"")).send(text);
        self.answer(&url, answered).with_context(|| format!("cannot change {what}"))
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        let url = format!("{}{path}", self.base);
        let answered = self.agent.post(&url).send_json(body);
        self.answer(&url, answered)
    }

    fn answer<T: DeserializeOwned>(
        &self,
        url: &str,
        answered: Result<Response<Body>, ureq::Error>,
    ) -> anyhow::Result<T> {
        let mut response = answered.map_err(|error| self.out_of_reach(error))?;
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_vec()
            .map_err(|error| self.out_of_reach(error))?;
        if status != 200 {
            return Err(refusal(status, &body, url));
        }
        serde_json::from_slice(&body).context(
            Failure::new(Code::Failed, format!("the answer to {url} is not what was asked for"))
                .next("check that --server names an ingot server of this version"),
        )
    }

    fn out_of_reach(&self, error: ureq::Error) -> anyhow::Error {
        let what = format!("no answer from the server at {}", self.base);
        let next = "check that `ingot serve` runs there, or name it with --server or INGOT_SERVER";
        anyhow::Error::new(error).context(Failure::new(Code::Unreachable, what).next(next))
    }
}

/// Most entries to ask for at once.
pub const PAGE: u32 = LIST_MAX;

fn refusal(status: u16, body: &[u8], url: &str) -> anyhow::Error {
    let what = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => body.error,
        Err(_) => format!("the server answered {status} to {url}"),
    };
    let failure = match status {
        404 => Failure::new(Code::NotFound, what)
            .next("`ingot machine ls` and `ingot run ls` list what there is"),
        412 => Failure::new(Code::Refused, what),
        503 => Failure::new(Code::Unreachable, what).next("try again in a moment"),
        _ => Failure::new(Code::Failed, what),
    };
    failure.into()
}
