//! Stock TFTP and HTTP clients fetch files. Needs root and the Debian packages
//! `tftp-hpa`, `atftp` and `curl`.
use std::fs;

use crate::support::*;
use bootsvc_server::Intent;

/// More than 65535 blocks of 512 bytes.
const WRAPPING: usize = 512 * 65_536 + 100;

const FILES: &[(&str, usize)] = &[
    ("f0", 0),
    ("f1", 1),
    ("f511", 511),
    ("f512", 512),
    ("f513", 513),
    ("f1024", 1024),
    ("f1468", 1468),
    ("f2936", 2936),
    ("f5m", 5_000_000),
    ("f-wrap", WRAPPING),
];

fn client(lan: &Lan) -> Machine {
    lan.machine_at("52:54:00:00:00:09", "10.77.0.9/24")
}

/// Each file by the command that `words` gives for its name and where to put it.
fn fetch_all(words: impl Fn(&str, &str) -> Vec<String>) {
    let lan = Lan::with(FILES, Intent::Loader);
    let machine = client(&lan);
    for (name, len) in FILES {
        let out = machine.path(name);
        let words = words(name, &out);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let said = machine.run(&words);
        let got = fs::read(&out).unwrap_or_default();
        assert!(got == bytes(*len), "{name}: {} bytes by {words:?}: {said}", got.len());
    }
    until("counted", || lan.counts().tftp.len() == FILES.len());
    let counts = lan.counts();
    assert_eq!(counts.tftp_failed, 0);
    assert_eq!(counts.tftp["f5m"].bytes, 5_000_000);
}

fn split(text: String) -> Vec<String> {
    text.split('|').map(str::to_owned).collect()
}

#[test]
fn tftp_hpa_fetches_all_files() {
    fetch_all(|name, out| split(format!("tftp|-m|binary|10.77.0.1|-c|get|{name}|{out}")));
}

#[test]
fn atftp_fetches_all_files_plain_and_with_windows() {
    fetch_all(|name, out| split(format!("atftp|-g|-r|{name}|-l|{out}|10.77.0.1")));
    fetch_all(|name, out| {
        let options = "--option|blksize 1468|--option|windowsize 16|--option|tsize";
        split(format!("atftp|{options}|-g|-r|{name}|-l|{out}|10.77.0.1"))
    });
}

#[test]
fn curl_fetches_all_files_with_and_without_options() {
    fetch_all(|name, out| split(format!("curl|-sS|-o|{out}|tftp://10.77.0.1/{name}")));
    fetch_all(|name, out| {
        split(format!("curl|-sS|--tftp-no-options|-o|{out}|tftp://10.77.0.1//{name}"))
    });
    fetch_all(|name, out| {
        split(format!("curl|-sS|--tftp-blksize|65464|-o|{out}|tftp://10.77.0.1/{name}"))
    });
}

#[test]
fn sixteen_clients_are_served_at_once() {
    let lan = Lan::with(FILES, Intent::Loader);
    let machine = client(&lan);
    let clients: Vec<_> = (0..16)
        .map(|n| {
            let mut command = machine.namespace.command("atftp");
            let out = machine.path(&format!("out{n}"));
            command.args(["--option", "blksize 1468", "--option", "windowsize 4"]);
            command.args(["-g", "-r", "f5m", "-l", &out, "10.77.0.1"]);
            (command.spawn().unwrap(), out)
        })
        .collect();
    for (mut client, out) in clients {
        assert!(client.wait().unwrap().success());
        assert!(fs::read(out).unwrap() == bytes(5_000_000));
    }
    until("counted", || lan.counts().tftp["f5m"].requests == 16);
}

#[test]
fn a_missing_file_is_refused_at_once() {
    let lan = Lan::new();
    let machine = client(&lan);
    let curl = ["curl", "-sS", "-m", "10", "tftp://10.77.0.1/autoexec.ipxe"];
    let error = machine.namespace.run(&curl).err().unwrap().to_string();
    assert!(error.contains("status: 68"), "file not found, not a timeout: {error}");
    let script = "echo 'get ingot.efi /dev/null' | tftp -m ascii 10.77.0.1 2>&1";
    assert!(machine.run(&["sh", "-c", script]).contains("octet"));
}

#[test]
fn curl_asks_for_length_parts_and_several_files_on_one_connection() {
    let lan = Lan::with(FILES, Intent::Loader);
    let machine = client(&lan);
    let url = "http://10.77.0.1:8080/boot/f5m";
    let head = machine.run(&["curl", "-sSI", url]).to_lowercase();
    assert!(head.contains("content-length: 5000000") && head.contains("etag: \""), "{head}");
    let out = machine.path("part");
    let part = ["curl", "-sS", "-r", "4999990-", "-o", &out, "-w", "%{http_code}", url];
    assert_eq!(machine.run(&part), "206");
    assert_eq!(fs::read(&out).unwrap(), bytes(5_000_000)[4_999_990..]);
    let twice = ["curl", "-sS", "-o", &out, "-w", "%{num_connects} %{http_code};"];
    let missing = "http://10.77.0.1:8080/boot//grubx64.efi";
    let said = machine.run(&[twice.as_slice(), &[missing, "-o", &out, url]].concat());
    assert_eq!(said, "1 404;0 200;", "the connection is kept after an error");
    assert!(fs::read(&out).unwrap() == bytes(5_000_000));
    assert_eq!(lan.counts().http["f5m"].requests, 2);
}
