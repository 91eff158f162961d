use std::collections::{BTreeMap, BTreeSet};

use axum::body::to_bytes;
use axum::http::Request as HttpRequest;
use bootsvc_proto::Offers;
use bootsvc_proto::dhcp::{Config as DhcpConfig, Scope, Server};
use tower::ServiceExt as _;

use super::*;
use crate::{Artifacts, Config};

const LOADER: &[u8] = b"0123456789";

fn shared(intent: Intent) -> Arc<Shared> {
    let dhcp = DhcpConfig {
        server: [192, 0, 2, 1].into(),
        scopes: vec![Scope {
            subnet: "192.0.2.0/24".parse().unwrap(),
            pool: None,
            router: None,
            name_servers: vec![],
        }],
        machines: BTreeMap::new(),
        lease: std::time::Duration::from_secs(3600),
        offers: Offers {
            http: "http://192.0.2.1/boot".into(),
            loader: "ingot.efi".into(),
            bios_program: None,
            unmarked: BTreeSet::new(),
        },
    };
    let mut artifacts = Artifacts::new();
    artifacts.insert("ingot.efi", LOADER);
    let (server, _) = Server::new(dhcp.clone(), []).unwrap();
    let config = Config {
        interface: "none".into(),
        dhcp,
        leases: "/nonexistent".into(),
        server_url: "http://192.0.2.1".into(),
        kernel_arguments: "quiet".into(),
        tftp: false,
        ra: false,
    };
    Arc::new(Shared::new(config, artifacts, Arc::new(intent), Arc::new(()), server))
}

async fn ask_of(
    intent: Intent,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, HeaderMap, Vec<u8>) {
    let mut request = HttpRequest::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    let response = router(shared(intent)).oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    (head.status.as_u16(), head.headers, body.to_vec())
}

async fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, Vec<u8>) {
    ask_of(Intent::Loader, method, path, headers).await
}

#[tokio::test]
async fn q16_head_says_the_length_and_sends_nothing() {
    let (status, headers, body) = ask("HEAD", "/boot/ingot.efi", &[]).await;
    assert_eq!((status, body.len()), (200, 0));
    assert_eq!(headers[CONTENT_LENGTH], "10");
    assert_eq!(headers[ACCEPT_RANGES], "bytes");
}

#[tokio::test]
async fn q16_an_interrupted_download_goes_on_with_the_same_file_only() {
    let (_, headers, _) = ask("HEAD", "/boot/ingot.efi", &[]).await;
    let etag = headers[ETAG].to_str().unwrap().to_owned();
    for condition in ["if-match", "if-range"] {
        let headers = [("range", "bytes=4-"), (condition, etag.as_str())];
        let (status, headers, body) = ask("GET", "/boot/ingot.efi", &headers).await;
        assert_eq!((status, body.as_slice()), (206, &LOADER[4..]), "{condition}");
        assert_eq!(headers[CONTENT_RANGE], "bytes 4-9/10");
    }
    let changed = [("range", "bytes=4-"), ("if-match", "\"other\"")];
    assert_eq!(ask("GET", "/boot/ingot.efi", &changed).await.0, 412);
    let changed = [("range", "bytes=4-"), ("if-range", "\"other\"")];
    let (status, _, body) = ask("GET", "/boot/ingot.efi", &changed).await;
    assert_eq!((status, body.as_slice()), (200, LOADER));
}

#[tokio::test]
async fn a_range_beyond_the_end_is_refused_with_the_length() {
    let (status, headers, body) = ask("GET", "/boot/ingot.efi", &[("range", "bytes=10-")]).await;
    assert_eq!((status, headers[CONTENT_RANGE].to_str().unwrap()), (416, "bytes */10"));
    assert!(!body.is_empty());
}

#[tokio::test]
async fn q17_every_error_has_a_body_with_its_length() {
    for (method, path, expected) in [
        ("GET", "/boot/grubx64.efi", 404),
        ("GET", "/boot/%2e%2e/etc/passwd", 404),
        ("GET", "/boot/script.ipxe", 400),
        ("GET", "/boot/script.ipxe?mac=x", 400),
        ("GET", "/boot/script.ipxe?mac=52:54:00:00:00:01&uuid=x", 400),
        ("POST", "/boot/ingot.efi", 405),
    ] {
        let (status, headers, body) = ask(method, path, &[]).await;
        assert_eq!(status, expected, "{path}");
        assert_eq!(headers[CONTENT_LENGTH], body.len().to_string());
        let error: wire::api::ErrorBody = serde_json::from_slice(&body).unwrap();
        assert!(!error.error.is_empty());
    }
}

#[tokio::test]
async fn q17_doubled_slashes_and_backslashes_need_no_redirect() {
    for path in ["/boot//ingot.efi", "/boot/\\ingot.efi", "/boot/%5Cingot.efi", "/boot///ingot.efi"]
    {
        let (status, _, body) = ask("GET", path, &[]).await;
        assert_eq!((status, body.as_slice()), (200, LOADER), "{path}");
    }
}

#[tokio::test]
async fn q19_the_loader_has_the_type_of_efi_programs_and_takes_a_query() {
    let (_, headers, _) = ask("GET", "/boot/ingot.efi?mac=x", &[]).await;
    assert_eq!(headers[CONTENT_TYPE], "application/efi");
}

#[test]
fn who_asks_for_a_script_is_who_dhcp_knew() {
    let uuid: [u8; 16] = std::array::from_fn(|at| at as u8 + 1);
    for uuid in [None, Some(uuid)] {
        let mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
        let client = Client { mac, uuid, archs: vec![0], program: Program::Ipxe };
        let offers = shared(Intent::Loader).config.dhcp.offers.clone();
        let boot = bootsvc_proto::choose(&client, Intent::Loader, &offers);
        let url = boot.file.unwrap();
        let (_, query) = url.split_once("script.ipxe?").unwrap();
        assert_eq!(asked(query), Some((mac, uuid)), "{url}");
    }
    let mac = "mac=52:54:00:00:00:01";
    let dashed = format!("{mac}&uuid=01020304-0506-0708-090a-0b0c0d0e0f10");
    assert_eq!(asked(&dashed).unwrap().1, Some(uuid));
    for wrong in [&format!("{mac}&uuid="), &format!("{mac}&uuid={:x>32}", 1), "uuid=1", "mac"] {
        assert_eq!(asked(wrong), None, "{wrong}");
    }
}

#[tokio::test]
async fn the_script_follows_the_decision() {
    let path = "/boot/script.ipxe?mac=52:54:00:00:00:01";
    let (_, _, body) = ask_of(Intent::Loader, "GET", path, &[]).await;
    let text = String::from_utf8(body).unwrap();
    assert!(text.contains("kernel http://192.0.2.1/boot/vmlinuz"), "{text}");
    assert!(text.contains("quiet ingot.server=http://192.0.2.1 BOOTIF=01-52-54-00-00-00-01"));
    let (_, _, body) = ask_of(Intent::Disk, "GET", path, &[]).await;
    assert!(String::from_utf8(body).unwrap().contains("exit"));
    assert_eq!(ask_of(Intent::Ignore, "GET", path, &[]).await.0, 404);
}
