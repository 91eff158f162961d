//! Sending images from one store to another.

use serde_json::Value;

use crate::serve::{CONFIG, POLICY, Server};
use crate::support::{World, disk, noise};

/// A world with an image to send, and a server with a store of its own.
fn site(uploads: bool) -> (World, World, Server) {
    let (here, there) = (World::new(), World::new());
    there.file("ingot.toml", format!("{CONFIG}[store]\nuploads = {uploads}\n"));
    there.file("policy.toml", POLICY);
    here.file("disk.raw", disk(1));
    here.ok(["import", "disk.raw", "-t", "lab/web:1", "-q"]);
    let server = Server::start(&there);
    (here, there, server)
}

#[test]
fn an_image_is_sent_and_comes_out_of_the_other_store_the_same() {
    let (here, there, server) = site(true);
    let mut command = here.command(["push", "lab/web:1", &server.url, "--json"]);
    let ended = crate::support::end(&mut command);
    assert_eq!(ended.code, 0, "{ended:#?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let shown = here.json(["show", "lab/web:1"]);
    assert_eq!(report["reference"], "lab/web:1");
    assert_eq!(report["server"], server.url);
    assert_eq!((&report["digest"], &report["chunks"]), (&shown["digest"], &shown["chunks"]));
    assert_eq!(report["sent_chunks"], shown["chunks"]);
    assert!(report["sent_bytes"].as_u64().unwrap() >= 2 << 20, "{report}");
    let events: Vec<Value> =
        ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(events.iter().any(|event| event["event"] == "bytes"), "{events:?}");

    // What is there is not sent again, under whatever name.
    let url = format!("{}/other/name:2", server.url);
    let again = here.json(["push", "lab/web:1", &url]);
    assert_eq!((&again["sent_chunks"], &again["reference"]), (&0.into(), &"other/name:2".into()));
    // Of a related one, the rest.
    let mut related = disk(1);
    related.extend(noise(2, 1 << 20));
    here.file("related.raw", related);
    here.ok(["import", "related.raw", "-t", "lab/web:2", "-q"]);
    let text = here.ok(["push", "lab/web:2", &server.url]);
    assert!(text.contains("/lab/web:2 is ") && text.contains(" sent in "), "{text}");

    server.stop();
    for reference in ["lab/web:1", "other/name:2"] {
        there.ok(["export", reference, "out.raw"]);
        assert!(std::fs::read(there.path("out.raw")).unwrap() == disk(1), "{reference}");
    }
    there.ok(["check", "--data"]);
}

#[test]
fn what_cannot_be_sent_is_said() {
    let (here, _there, server) = site(false);
    let refused = here.fails(1, ["push", "lab/web:1", &server.url]);
    assert!(refused.contains("uploads = true") && refused.contains("403"), "{refused}");
    let unknown = here.fails(3, ["push", "lab/web:9", &server.url]);
    assert!(unknown.contains("lab/web:9"), "{unknown}");
    let digest = here.json(["show", "lab/web:1"])["digest"].as_str().unwrap().to_owned();
    let unnamed = here.fails(2, ["push", &format!("lab/web@{digest}"), &server.url]);
    assert!(unnamed.contains("/NAME:TAG"), "{unnamed}");
    let address = here.fails(2, ["push", "lab/web:1", "https://10.0.0.1"]);
    assert!(address.contains("http://ADDRESS"), "{address}");
}
