//! Operators change the policy over HTTP.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{Request, StatusCode};
use controller::policy::RecipeFacts;
use controller::{BuildOptions, Controller, Db, Policy, PolicyFile};
use tempfile::TempDir;
use tower::ServiceExt;
use wire::admin::{POLICY, PolicyStatus};
use wire::api::ErrorBody;

use crate::common::{Agent, Counter, Table, deploy, hold};
use crate::workshop::Workshop;

fn rule(name: &str, gives: &str) -> String {
    format!("# made by hand\n[[rule]]\nname = '{name}'\n{gives}\n")
}

/// A server with a policy file that holds everybody.
struct Site {
    dir: TempDir,
    controller: Arc<Controller>,
    router: Router,
}

impl Site {
    async fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, rule("all", "hold = 'wait'")).unwrap();
        let recipes = |path: &Path| match path.ends_with("web.toml") {
            true => Ok(RecipeFacts::default()),
            false => Err(format!("{} is not there", path.display())),
        };
        let policy = PolicyFile::open(path, recipes).unwrap();
        Site::with(dir, policy).await
    }

    async fn with(dir: TempDir, policy: PolicyFile) -> Site {
        let images = Arc::new(Table::default());
        images.0.lock().unwrap().insert("web:2".to_owned(), wire::Digest([2; 32]));
        let builder = Arc::new(Workshop::new(images.clone()));
        let db = Db::open(&dir.path().join("c.db")).await.unwrap();
        let (random, options) = (Arc::new(Counter::default()), BuildOptions::default());
        let controller = Controller::new(db, policy, images, random, builder, options);
        let controller = Arc::new(controller);
        let router = controller::router(controller.clone(), || 1234);
        Site { dir, controller, router }
    }

    /// The text of the file.
    fn file(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("policy.toml")).unwrap()
    }

    /// Status, entity tag and body.
    async fn call(&self, method: &str, tag: &str, text: &str) -> (u16, String, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(POLICY);
        if !tag.is_empty() {
            request = request.header(IF_MATCH, tag);
        }
        let request = request.body(Body::from(text.to_owned())).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let tag = answer.headers().get(ETAG).map(|tag| tag.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 64 << 20).await.unwrap().to_vec();
        (status, tag.unwrap_or_default(), body)
    }

    async fn get(&self) -> (String, PolicyStatus) {
        let (status, tag, body) = self.call("GET", "", "").await;
        assert_eq!(status, 200);
        (tag, serde_json::from_slice(&body).unwrap())
    }

    async fn put(&self, tag: &str, text: &str) -> (String, PolicyStatus) {
        let (status, tag, body) = self.call("PUT", tag, text).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        (tag, serde_json::from_slice(&body).unwrap())
    }

    async fn refused(&self, tag: &str, text: &str) -> (u16, String) {
        let (status, _, body) = self.call("PUT", tag, text).await;
        let error: ErrorBody = serde_json::from_slice(&body).unwrap();
        (status, error.error)
    }
}

#[tokio::test]
async fn a_policy_is_shown_replaced_and_counts_at_the_next_check_in() {
    let site = Site::new().await;
    let agent = Agent::new(1);
    assert_eq!(hold(&site.controller.check_in(&agent.asks(), 1).await.unwrap()), "wait");
    let (tag, status) = site.get().await;
    assert_eq!(tag, format!("\"{}\"", status.digest.unwrap()));
    assert_eq!(status.text.as_deref(), Some(site.file().as_str()));

    let text = rule("web", "image = 'web:2'");
    let (next, status) = site.put(&tag, &text).await;
    assert_eq!((status.rules, status.error), (vec!["web".to_owned()], None));
    assert_eq!(site.file(), text, "comments too");
    let order = deploy(&site.controller.check_in(&agent.asks(), 2).await.unwrap());
    assert_eq!(order.system.reference.to_string(), "web:2");
    let (tag, status) = site.get().await;
    assert_eq!((&tag, status.text), (&next, Some(text)));
}

#[tokio::test]
async fn every_refusal_changes_nothing_and_says_why() {
    let site = Site::new().await;
    let (tag, before) = site.get().await;
    let file = site.file();
    let good = rule("web", "image = 'web:2'");
    let stale = format!("\"{}\"", wire::Digest([7; 32]));
    let long = "#".repeat(controller::policy::BYTES_MAX + 1);
    let bad = rule("a", "when = 'cpu.cout > 1'\nhold = 'x'");
    let table = [
        ("", good.as_str(), 428, "the request does not say which policy it replaces"),
        ("*", &good, 428, "the request does not say which policy it replaces"),
        ("\"x\"", &good, 428, "the request does not say which policy it replaces"),
        (&stale, &good, 412, "the policy was changed meanwhile: blake3:"),
        (&tag, &long, 413, "the body is too long: 1048576 bytes are most here"),
        (&tag, &bad, 422, "policy.toml:4:9: no machine reports \"cpu.cout\": did you mean"),
        (&tag, "rule = 4", 422, "policy.toml:1:8: rules are written as [[rule]]"),
        (&tag, "[[rule", 422, "policy.toml:1:"),
        (&tag, &rule("a", "recipe = 'b.toml'"), 422, "b.toml is not there"),
    ];
    for (tag, text, expected, says) in table {
        let (status, error) = site.refused(tag, text).await;
        assert!(status == expected && error.contains(says), "{text:.40}: {status} {error}");
        assert_eq!(site.file(), file);
        assert_eq!(site.get().await.1, before);
    }
    site.put(&tag, &rule("a", "recipe = 'web.toml'")).await;
}

#[tokio::test]
async fn of_two_operators_the_second_has_to_look_again() {
    let site = Site::new().await;
    let (tag, _) = site.get().await;
    let (one, two) = (rule("one", "hold = 'x'"), rule("two", "hold = 'x'"));
    site.put(&tag, &one).await;
    assert_eq!(site.refused(&tag, &two).await.0, StatusCode::PRECONDITION_FAILED.as_u16());
    assert_eq!(site.get().await.1.rules, ["one"]);
    // Asked again, since the answer was lost.
    let (now, _) = site.put(&tag, &one).await;
    site.put(&now, &two).await;
    assert_eq!(site.get().await.1.rules, ["two"]);
}

#[tokio::test]
async fn what_was_edited_by_hand_in_between_stays() {
    let site = Site::new().await;
    let (tag, _) = site.get().await;
    let edited = rule("edited", "hold = 'by hand'");
    std::fs::write(site.dir.path().join("policy.toml"), &edited).unwrap();
    let (status, error) = site.refused(&tag, &rule("web", "image = 'web:2'")).await;
    // Whether or not it is in force by now.
    assert!(status == 412 && error.contains("nothing was written"), "{status} {error}");
    assert_eq!(site.file(), edited);
}

#[tokio::test]
async fn a_server_without_a_policy_file_has_none_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let site = Site::with(dir, PolicyFile::fixed(Policy::default())).await;
    let (tag, status) = site.get().await;
    assert_eq!((tag.as_str(), status.text, status.digest), ("", None, None));
    let tag = format!("\"{}\"", wire::Digest([7; 32]));
    let (status, error) = site.refused(&tag, "").await;
    assert!(status == 422 && error.contains("name one as `file` in [policy]"), "{status} {error}");
}
