//! Stock DHCP clients get, keep and give back their addresses. Needs root and
//! the Debian packages `udhcpc` and `isc-dhcp-client`.
use std::process::Command;

use crate::support::*;
use bootsvc_server::{Artifacts, Intent, StartError};

#[test]
fn udhcpc_and_dhclient_get_addresses_from_the_list_and_the_pool() {
    let lan = Lan::new();
    let listed = lan.machine(LISTED).udhcpc(&[]).unwrap();
    assert_eq!((listed["ip"].as_str(), listed["mask"].as_str()), (LISTED_ADDRESS, "24"));
    assert_eq!((listed["serverid"].as_str(), listed["lease"].as_str()), ("10.77.0.1", "3600"));
    assert_eq!(lan.leases(), [], "listed machines need no lease");
    let machine = lan.machine("52:54:00:00:00:01");
    let pool = machine.udhcpc(&["-r", "10.77.0.150"]).unwrap();
    assert_eq!(pool["ip"], "10.77.0.150");
    let other = lan.machine("52:54:00:00:00:02").dhclient(&[]);
    let leases: Vec<_> = lan.leases().iter().map(|lease| lease.address.to_string()).collect();
    assert_eq!(leases.len(), 2);
    assert!(leases.contains(&pool["ip"]) && leases.contains(&other["new_ip_address"]));
    assert_eq!(other["new_dhcp_server_identifier"], "10.77.0.1");
}

#[test]
fn a_lease_survives_the_server() {
    let mut lan = Lan::new();
    let machine = lan.machine("52:54:00:00:00:01");
    // Not the address that the server would choose.
    let first = machine.udhcpc(&["-r", "10.77.0.150"]).unwrap();
    assert_eq!(first["ip"], "10.77.0.150");
    lan.stop();
    assert_eq!(machine.udhcpc(&["-t", "1", "-T", "1"]), None);
    lan.start(Artifacts::new(), Intent::Loader).unwrap();
    assert_eq!(lan.leases()[0].address.to_string(), "10.77.0.150");
    assert_eq!(machine.udhcpc(&[]).unwrap()["ip"], "10.77.0.150");
    assert_eq!(machine.dhclient(&[])["new_ip_address"], "10.77.0.150");
}

#[test]
fn udhcpc_renews_and_releases() {
    let lan = Lan::new();
    let machine = lan.machine("52:54:00:00:00:01");
    let client = machine.spawn(machine.udhcpc_command(&["-R"]));
    client.console().wait_for("done bound", LONG).unwrap();
    let before = lan.leases()[0];
    let signal = |name: &str| {
        let pid = client.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    };
    signal("-USR1");
    client.console().wait_for("done renew", LONG).unwrap();
    let renewed = lan.leases()[0];
    assert!(renewed.ends >= before.ends && renewed.address == before.address);
    assert_eq!((lan.counts().dhcp.acks, lan.counts().dhcp.naks), (2, 0));
    signal("-TERM");
    until("released", || lan.leases()[0].ends < before.ends);
}

#[test]
fn dhclient_releases_and_gets_the_same_again() {
    let lan = Lan::new();
    let machine = lan.machine("52:54:00:00:00:01");
    let first = machine.dhclient(&[]);
    let ends = lan.leases()[0].ends;
    let (leases, pid) = (machine.path("leases"), machine.path("pid"));
    machine.run(&["dhclient", "-r", "-sf", "/bin/true", "-lf", &leases, "-pf", &pid, "eth0"]);
    until("released", || lan.leases()[0].ends < ends);
    assert_eq!(machine.udhcpc(&[]).unwrap()["ip"], first["new_ip_address"]);
}

#[test]
fn an_ignored_machine_gets_no_answer() {
    let lan = Lan::with(&[], Intent::Ignore);
    assert_eq!(lan.machine("52:54:00:00:00:01").udhcpc(&["-t", "2", "-T", "1"]), None);
    until("counted", || lan.counts().dhcp.unanswered >= 2);
}

#[test]
fn only_the_one_interface_is_answered() {
    let lan = Lan::new();
    let stranger = tests_rig::Namespace::new().unwrap();
    let link = ["ip", "link", "add", "other", "type", "veth", "peer", "name", "eth0", "netns"];
    lan.wire.run(&[link.as_slice(), &[stranger.name()]].concat()).unwrap();
    lan.wire.run(&["ip", "address", "add", "10.88.0.1/24", "dev", "other"]).unwrap();
    lan.wire.run(&["ip", "link", "set", "other", "up"]).unwrap();
    stranger.run(&["ip", "address", "add", "10.88.0.9/24", "dev", "eth0"]).unwrap();
    stranger.run(&["ip", "link", "set", "eth0", "up"]).unwrap();
    stranger.run(&["ip", "route", "add", "default", "via", "10.88.0.1"]).unwrap();
    let reachable = "http://10.77.0.1:8080/boot/ingot.efi";
    stranger.run(&["curl", "-sS", "--retry", "5", "--retry-connrefused", reachable]).unwrap();
    let machine = Machine { namespace: stranger, folder: lan.folder.path().to_owned() };
    let fetch = ["curl", "-s", "-m", "3", "tftp://10.77.0.1/ingot.efi"];
    assert!(machine.namespace.run(&fetch).is_err());
    assert_eq!(machine.udhcpc(&["-t", "2", "-T", "1"]), None);
    assert_eq!(lan.counts().dhcp.received, 0);
    assert!(lan.machine("52:54:00:00:00:01").udhcpc(&[]).is_some(), "the other still is");
}

#[test]
fn what_prevents_a_start_is_named() {
    let lan = Lan::new();
    let mut second = lan.config();
    second.leases = lan.path("other.sqlite");
    let taken = lan.second(second.clone()).err().unwrap().to_string();
    assert!(taken.contains("DHCP on br0") && taken.contains("UDP port 67"), "{taken}");
    second.interface = "eth7".into();
    let missing = lan.second(second.clone()).err().unwrap();
    assert!(
        matches!(&missing, StartError::NoInterface { known, .. } if known.contains(&"br0".into()))
    );
    second.interface = "lo".into();
    let elsewhere = lan.second(second).err().unwrap();
    assert!(matches!(elsewhere, StartError::NoAddress { .. }), "{elsewhere}");
}

#[test]
fn hosts_that_ask_for_a_router_hear_that_there_is_none() {
    let lan = Lan::new();
    let machine = lan.machine("52:54:00:00:00:01");
    until("advertised", || lan.counts().advertisements > 0);
    until("heard", || machine.run(&["ip", "-6", "neigh"]).contains("router"));
    assert_eq!(machine.run(&["ip", "-6", "route", "show", "default"]), "");
}
