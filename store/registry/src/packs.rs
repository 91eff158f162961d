//! Packs, whole or one range.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{IF_RANGE, RANGE};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use futures::StreamExt;
use store_format::PackName;
use store_repo::PackBytes;
use wire::range::{Wanted, wanted};

use crate::Shared;
use crate::answer::{Content, Problem};
use crate::metrics::Metrics;

pub(crate) async fn pack(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    method: Method,
    request: HeaderMap,
) -> Response {
    match answer(&shared, &name, &method, &request).await {
        Ok(answer) => {
            shared.metrics.pack_request();
            answer
        }
        Err(problem) => {
            shared.metrics.failed_request();
            problem.answer()
        }
    }
}

async fn answer(
    shared: &Shared,
    name: &str,
    method: &Method,
    request: &HeaderMap,
) -> Result<Response, Problem> {
    let name: PackName = name
        .parse()
        .map_err(|error: store_format::pack::PackNameError| Problem::bad(error.to_string()))?;
    let len = shared.repo.pack_len(&name).await?;
    let whole = Content { ranges: true, ..Content::whole(name.to_string(), len) };
    if whole.is_at(request) {
        return Ok(whole.not_modified());
    }
    // RFC 9110, section 14.2: ranges are defined for GET only.
    let asked = (method == Method::GET && may_be_part(request, &name))
        .then(|| request.get(RANGE).and_then(|value| value.to_str().ok()))
        .flatten();
    let range = match wanted(asked, len) {
        Wanted::All => None,
        Wanted::Part(range) => Some(range),
        Wanted::Outside => return Err(Problem::range(len)),
    };
    if method == Method::HEAD {
        return Ok(whole.answer(Body::empty()));
    }
    let read = shared.repo.pack(&name, range.clone()).await?;
    let content = match range {
        Some(range) => Content {
            len: range.end - range.start,
            part: Some((range.start, range.end - 1, len)),
            ..whole
        },
        None => whole,
    };
    Ok(content.answer(counted(read.bytes, Arc::clone(&shared.metrics))))
}

/// `If-Range` (RFC 9110, section 13.1.5): a part only of what the client knows.
fn may_be_part(request: &HeaderMap, name: &PackName) -> bool {
    match request.get(IF_RANGE) {
        Some(value) => value.as_bytes() == format!("\"{name}\"").as_bytes(),
        None => true,
    }
}

/// Counts what the connection takes.
fn counted(bytes: PackBytes, metrics: Arc<Metrics>) -> Body {
    Body::from_stream(bytes.inspect(move |piece| {
        if let Ok(piece) = piece {
            metrics.add_pack_bytes(piece.len() as u64);
        }
    }))
}
