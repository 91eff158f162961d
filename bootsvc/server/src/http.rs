//! Boot files and scripts over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_RANGE,
    RANGE,
};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use bootsvc_proto::{Client, Intent, Mac, Program, script, tftp::clean_name};
use bytes::Bytes;
use tracing::{debug, info};
use wire::range::{Wanted, wanted};

use crate::Artifact;
use crate::shared::Shared;

/// Name of the script below `/boot/`.
const SCRIPT: &str = "script.ipxe";

/// `GET` and `HEAD` of `/boot/...`.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/boot/{*path}", any(boot)).with_state(shared)
}

/// An answer before its body is fitted to the method.
struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, String)>,
    body: Bytes,
}

async fn boot(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let name = name(request.uri().path());
    let method = request.method().clone();
    let answer = if ![Method::GET, Method::HEAD].contains(&method) {
        let mut answer = Answer::error(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        answer.headers.push((ALLOW, "GET, HEAD".to_owned()));
        answer
    } else if name == SCRIPT {
        script(&shared, request.uri().query()).await
    } else if let Some(artifact) = shared.artifacts.get(&name) {
        file(artifact, request.headers())
    } else {
        Answer::error(StatusCode::NOT_FOUND, &format!("there is no boot file {name:?}"))
    };
    if method == Method::GET {
        told(&shared, &request, &name, &answer);
    }
    answer.response(&method)
}

/// What follows `/boot/`. Loaders put paths together with doubled slashes and
/// backslashes, and do not follow a redirect to the clean form.
fn name(path: &str) -> String {
    let path = path.replace("%5C", "\\").replace("%5c", "\\");
    clean_name(path.strip_prefix("/boot/").unwrap_or(&path))
}

async fn script(shared: &Shared, query: Option<&str>) -> Answer {
    let Some((mac, uuid)) = asked(query.unwrap_or_default()) else {
        let next = "ask for ?mac=52:54:00:12:34:56, with &uuid= and 32 hex digits if it is known";
        return Answer::error(StatusCode::BAD_REQUEST, next);
    };
    let client = Client { mac, uuid, archs: Vec::new(), program: Program::Ipxe };
    let config = &shared.config;
    let text = match shared.decide(&client, None).await {
        Intent::Loader => script::Loader {
            http: &config.dhcp.offers.http,
            server: &config.server_url,
            arguments: &config.kernel_arguments,
            mac,
        }
        .text(),
        Intent::Disk => script::disk(mac),
        Intent::Ignore => {
            return Answer::error(StatusCode::NOT_FOUND, &format!("nothing to boot for {mac}"));
        }
    };
    let headers = vec![(CONTENT_TYPE, "text/plain; charset=utf-8".to_owned())];
    Answer { status: StatusCode::OK, headers, body: text.into() }
}

/// Who asks for a script: hardware address, and SMBIOS UUID as it stood on the wire.
fn asked(query: &str) -> Option<(Mac, Option<[u8; 16]>)> {
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let mac = value("mac")?.replace("%3A", ":").replace("%3a", ":").parse().ok()?;
    // iPXE puts dashes into its own.
    let uuid = match value("uuid").map(|uuid| uuid.replace('-', "")) {
        Some(digits) if digits.len() == 32 => {
            Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes())
        }
        Some(_) => return None,
        None => None,
    };
    Some((mac, uuid))
}

fn file(artifact: &Artifact, headers: &HeaderMap) -> Answer {
    let Artifact { bytes, content_type, etag } = artifact;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // A download that goes on with another file's bytes must not succeed.
    if text(IF_MATCH).is_some_and(|tags| tags != "*" && !tags.split(',').any(|t| t.trim() == etag))
    {
        return Answer::error(StatusCode::PRECONDITION_FAILED, "the file has changed");
    }
    let range = text(RANGE).filter(|_| text(IF_RANGE).is_none_or(|tag| tag == etag));
    let mut headers = vec![
        (CONTENT_TYPE, (*content_type).to_owned()),
        (ETAG, etag.clone()),
        (ACCEPT_RANGES, "bytes".to_owned()),
    ];
    match wanted(range, bytes.len() as u64) {
        Wanted::All => Answer { status: StatusCode::OK, headers, body: bytes.clone() },
        Wanted::Part(range) => {
            // It lies in what is in memory.
            let range = range.start as usize..range.end as usize;
            let (first, last) = (range.start, range.end - 1);
            headers.push((CONTENT_RANGE, format!("bytes {first}-{last}/{}", bytes.len())));
            Answer { status: StatusCode::PARTIAL_CONTENT, headers, body: bytes.slice(range) }
        }
        Wanted::Outside => {
            let status = StatusCode::RANGE_NOT_SATISFIABLE;
            let mut answer = Answer::error(status, "the range is beyond the end of the file");
            answer.headers.push((CONTENT_RANGE, format!("bytes */{}", bytes.len())));
            answer
        }
    }
}

/// One line and one count for what was fetched.
fn told(shared: &Shared, request: &Request, name: &str, answer: &Answer) {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let mac = peer.and_then(|peer| match peer.ip().to_canonical() {
        IpAddr::V4(address) => shared.machine(address),
        IpAddr::V6(_) => None,
    });
    let (mac_field, peer) = (mac.map(tracing::field::display), peer.map(tracing::field::display));
    let (status, bytes) = (answer.status.as_u16(), answer.body.len());
    if !answer.status.is_success() {
        return debug!(mac = mac_field, peer, name, status, "HTTP boot file not sent");
    }
    shared.counters.http(name, u64::try_from(bytes).unwrap_or(u64::MAX));
    info!(mac = mac_field, peer, name, status, bytes, "HTTP boot file sent");
    if name == shared.config.dhcp.offers.loader && answer.status == StatusCode::OK {
        shared.boot_program_fetched(mac);
    }
}

impl Answer {
    /// Every error has a body: some loaders hang for ever on an empty one.
    fn error(status: StatusCode, text: &str) -> Answer {
        let body = wire::api::ErrorBody { error: text.to_owned() };
        let body = serde_json::to_vec(&body).unwrap_or_else(|_| b"{}".to_vec());
        let headers = vec![(CONTENT_TYPE, "application/json".to_owned())];
        Answer { status, headers, body: body.into() }
    }

    /// To `HEAD` all but the body: firmware reads the length from it.
    fn response(self, method: &Method) -> Response {
        let mut builder = Response::builder().status(self.status);
        for (name, value) in self.headers {
            builder = builder.header(name, value);
        }
        builder = builder.header(CONTENT_LENGTH, self.body.len());
        let body = if method == Method::HEAD { Body::empty() } else { Body::from(self.body) };
        // The headers are ours and always valid.
        builder.body(body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
