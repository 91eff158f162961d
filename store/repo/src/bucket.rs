//! Objects in a bucket of S3, or of a server that speaks like it.
//!
//! Nothing here rests on conditional writes, on the order of lists or on
//! entity tags. A pack is put with one request: it is there whole or not at
//! all, and no half of it is left for somebody to pay for.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};

/// How long one request may take, unless `AWS_TIMEOUT` says something else: a
/// pack of 66 MiB at 2 Mbit/s.
const REQUEST_TIMEOUT: &str = "300 seconds";
/// How often a request is tried again, within seconds: a server that is gone is
/// reported while somebody still looks.
const RETRIES: usize = 6;
/// After this long no request is tried again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);

/// The objects below a prefix of a bucket; where it is and who asks is in the
/// usual `AWS_…` variables.
pub(crate) fn open(bucket: &str, prefix: Key) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Somebody else may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    if env::var_os("AWS_TIMEOUT").is_none() {
        let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
        builder = builder.with_config(timeout, REQUEST_TIMEOUT);
    }
    built(builder, prefix)
}

fn built(builder: AmazonS3Builder, prefix: Key) -> object_store::Result<Arc<dyn ObjectStore>> {
    let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
    let endpoint = endpoints.iter().find_map(|key| builder.get_config_value(key));
    let builder = match endpoint.is_some_and(|url| url.starts_with("http://")) {
        // Whoever writes this means it.
        true => builder.with_allow_http(true),
        false => builder,
    };
    let bucket = builder.build()?;
    Ok(match prefix.as_ref().is_empty() {
        true => Arc::new(bucket),
        false => Arc::new(PrefixStore::new(bucket, prefix)),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::storage::{Storage, StorageError};

    /// A bucket whose server gives every request the same answer, and a way to
    /// the head of the last one.
    async fn answering(
        status: &str,
        body: &str,
    ) -> (Storage, tokio::sync::watch::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let len = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\netag: \"x\"\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
        );
        let (head_in, head) = tokio::sync::watch::channel(String::new());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = String::new();
                // A byte at a time: nothing of the body, which has one byte.
                while !request.ends_with("\r\n\r\n") {
                    request.push(char::from(stream.read_u8().await.unwrap()));
                }
                if request.starts_with("PUT") {
                    stream.read_u8().await.unwrap();
                }
                head_in.send_replace(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        (at(&format!("http://{address}")), head)
    }

    fn at(endpoint: &str) -> Storage {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_bucket_name("images")
            .with_access_key_id("id")
            .with_secret_access_key("secret")
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() });
        let objects = built(builder, Key::from("site")).unwrap();
        Storage::apart(objects, &env::temp_dir(), "s3://images/site").unwrap()
    }

    fn key() -> Key {
        Key::from("packs/ab/abcd")
    }

    async fn put(storage: &Storage) -> StorageError {
        storage.put(&key(), Bytes::from_static(b"x")).await.unwrap_err()
    }

    #[tokio::test]
    async fn an_object_is_asked_for_by_bucket_prefix_and_name_and_signed() {
        let (storage, head) = answering("200 OK", "").await;
        storage.put(&key(), Bytes::from_static(b"x")).await.unwrap();
        let head = head.borrow().clone();
        assert!(head.starts_with("PUT /images/site/packs/ab/abcd HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: AWS4-HMAC-SHA256 Credential=id/"), "{head}");
        assert!(!head.contains("if-none-match") && !head.contains("if-match"), "{head}");
    }

    #[tokio::test]
    async fn answers_of_a_server_mean_what_they_mean_of_a_disk() {
        for (status, body) in [("403 Forbidden", "<Code>AccessDenied</Code>"), ("401 No", "")] {
            let (storage, _) = answering(status, body).await;
            let error = put(&storage).await;
            assert!(matches!(error, StorageError::Denied { .. }), "{status}: {error:?}");
            let error = storage.len(&key()).await.unwrap_err();
            assert!(matches!(error, StorageError::Denied { .. }), "{status}: {error:?}");
        }
        for (status, body) in [
            ("507 Insufficient Storage", "<Code>XMinioStorageFull</Code>"),
            ("403 Forbidden", "<Code>QuotaExceeded</Code>"),
        ] {
            let (storage, _) = answering(status, body).await;
            let error = put(&storage).await;
            assert!(matches!(error, StorageError::Full { .. }), "{status}: {error:?}");
        }
        let (storage, _) = answering("404 Not Found", "<Code>NoSuchBucket</Code>").await;
        assert!(matches!(put(&storage).await, StorageError::NoBucket { .. }));
        let error = storage.get(&key(), 1).await.unwrap_err();
        assert!(matches!(error, StorageError::Missing { .. }), "{error:?}");
        let (storage, _) = answering("400 Bad Request", "<Code>Strange</Code>").await;
        let error = put(&storage).await;
        assert!(matches!(error, StorageError::Other { .. }), "{error:?}");
        assert!(wire::chain(&error).contains("Strange"), "{error:?}");
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_from_one_that_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = put(&at(&format!("http://{address}"))).await;
        assert!(matches!(error, StorageError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains("packs/ab/abcd"), "{error}");
        assert!(error.to_string().contains("check its address"), "{error}");
    }
}
