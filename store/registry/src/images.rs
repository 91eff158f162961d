//! Envelopes, chunk tables, locations.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use store_repo::BlobRead;
use wire::Digest;

use crate::Shared;
use crate::answer::{self, Content, Problem};

type Answer = Result<Response, Problem>;

pub(crate) async fn envelope(
    State(shared): State<Shared>,
    Path(digest): Path<String>,
    request: HeaderMap,
) -> Response {
    let answer = async {
        let digest = parse(&digest)?;
        let bytes = shared.repo.envelope_bytes(&digest).await?;
        Ok(whole(digest.hex(), &request, bytes))
    };
    finish(&shared, answer.await)
}

pub(crate) async fn table(
    State(shared): State<Shared>,
    Path(digest): Path<String>,
    request: HeaderMap,
) -> Response {
    let answer = async { Ok(changing(&request, shared.repo.table_read(&parse(&digest)?).await?)) };
    finish(&shared, answer.await)
}

pub(crate) async fn locations(
    State(shared): State<Shared>,
    Path(digest): Path<String>,
    request: HeaderMap,
) -> Response {
    let answer =
        async { Ok(changing(&request, shared.repo.locations_read(&parse(&digest)?).await?)) };
    finish(&shared, answer.await)
}

fn parse(text: &str) -> Result<Digest, Problem> {
    text.parse().map_err(|error: wire::DigestError| Problem::bad(error.to_string()))
}

/// The image's digest is the name of exactly these bytes.
fn whole(etag: String, request: &HeaderMap, bytes: Bytes) -> Response {
    answer::bytes(Content::whole(etag, bytes.len() as u64), request, bytes)
}

/// The image stays, but may be cut or placed in another way later.
fn changing(request: &HeaderMap, BlobRead { name, len, bytes }: BlobRead) -> Response {
    let content = Content { immutable: false, ..Content::whole(name.hex(), len) };
    match content.is_at(request) {
        true => content.not_modified(),
        false => content.answer(Body::from_stream(bytes)),
    }
}

fn finish(shared: &Shared, answer: Answer) -> Response {
    match answer {
        Ok(answer) => {
            shared.metrics.image_request();
            answer
        }
        Err(problem) => {
            shared.metrics.failed_request();
            problem.answer()
        }
    }
}
