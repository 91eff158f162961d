//! Leases: who gets which address, for how long, and what is to be recorded.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::support::*;
use bootsvc_proto::Intent::{Ignore, Loader};
use bootsvc_proto::dhcp::{Change, ConfigError, Lease, Outcome, Scope, Server, Silence, code};
use bootsvc_proto::{Mac, OffersError};

fn set(mac: Mac, address: Ipv4Addr, ends: u64) -> Change {
    Change::Set(Lease { mac, address, ends })
}

#[test]
fn four_messages_give_an_address_and_one_record() {
    let mut lan = Lan::new();
    let (address, changes) = lan.dora(|kind| udhcpc(kind, mac(1)));
    assert!(config().scopes[0].pool.as_ref().unwrap().contains(&address));
    assert_eq!(changes, [set(mac(1), address, lan.now.as_secs() + LEASE_SECS)]);
    assert_eq!(lan.server.machine(address), Some(mac(1)));
}

#[test]
fn the_reply_says_what_the_network_is_and_copies_what_it_must() {
    let mut lan = Lan::new();
    let mut discover = udhcpc(DISCOVER, mac(1));
    discover.broadcast = true;
    let reply = lan.reply(&discover, Loader);
    let seen = Seen::of(&reply);
    assert_eq!(seen.message.xid(), 0x1234_5678);
    assert!(seen.message.flags().broadcast());
    assert_eq!(seen.message.chaddr(), mac(1).0);
    assert_eq!(seen.message.yiaddr(), reply.address.unwrap());
    let secs = |code| u32::from_be_bytes(seen.option(code).unwrap().try_into().unwrap());
    assert_eq!(secs(code::LEASE_TIME), 3600);
    assert_eq!((secs(code::RENEWAL_TIME), secs(code::REBINDING_TIME)), (1800, 3150));
    assert_eq!(seen.option(code::SUBNET_MASK), Some([255, 255, 255, 0].as_slice()));
    assert_eq!(seen.option(code::ROUTER), Some([192, 0, 2, 254].as_slice()));
    assert_eq!(seen.option(code::NAME_SERVER), Some([192, 0, 2, 53].as_slice()));
    assert_eq!(seen.option(code::BROADCAST_ADDRESS), Some([192, 0, 2, 255].as_slice()));
    assert_eq!(seen.option(code::SERVER_ID), Some([192, 0, 2, 1].as_slice()));
    assert_eq!(seen.option(code::CLIENT_ID).map(<[u8]>::len), Some(7), "61 echoed (RFC 6842)");
    assert_eq!(reply.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
}

#[test]
fn a_listed_machine_gets_its_address_without_a_record() {
    let mut lan = Lan::new();
    assert_eq!(lan.dora(|kind| udhcpc(kind, LISTED)), (LISTED_ADDRESS, vec![]));
    let wrong = lan.reply(&udhcpc(REQUEST, LISTED).wants([192, 0, 2, 100]).of(SERVER), Loader);
    assert_eq!(Seen::of(&wrong).kind, 6);
}

#[test]
fn machines_are_known_by_hardware_address_not_by_client_id() {
    let mut lan = Lan::new();
    let (first, _) = lan.dora(|kind| uefi_pxe(kind, mac(1)));
    let (second, _) = lan.dora(|kind| ipxe(kind, mac(1), 7));
    let (third, _) = lan.dora(|kind| Raw::new(kind, mac(1)).option(61, [255, 0, 0, 0, 1, 9]));
    assert_eq!((first, first), (second, third));
    assert_eq!(lan.leases().len(), 1);
}

#[test]
fn renewal_goes_to_the_client_and_rebinding_too() {
    let mut lan = Lan::new();
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    lan.pass(1800);
    let answer = lan.ask(&udhcpc(REQUEST, mac(1)).has(address), Loader);
    assert_eq!(answer.changes, [set(mac(1), address, lan.now.as_secs() + LEASE_SECS)]);
    let Outcome::Reply(reply) = answer.outcome else { panic!() };
    assert_eq!(reply.to, SocketAddrV4::new(address, 68));
    assert_eq!(Seen::of(&reply).packet.ciaddr, address);
}

#[test]
fn a_foreign_address_is_refused_to_all_who_hear() {
    let mut lan = Lan::new();
    let reply = lan.reply(&udhcpc(REQUEST, mac(1)).wants([10, 0, 0, 9]), Loader);
    let seen = Seen::of(&reply);
    assert_eq!((seen.kind, reply.address), (6, None));
    assert_eq!(reply.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
    let renewing = lan.reply(&udhcpc(REQUEST, mac(1)).has([10, 0, 0, 9]), Loader);
    assert_eq!(Seen::of(&renewing).kind, 6);
    assert_eq!(renewing.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
}

#[test]
fn a_rebooted_client_keeps_its_free_address_though_records_are_lost() {
    let mut lan = Lan::new();
    let address = Ipv4Addr::new(192, 0, 2, 104);
    let answer = lan.ask(&udhcpc(REQUEST, mac(1)).wants(address), Loader);
    assert_eq!(answer.changes, [set(mac(1), address, lan.now.as_secs() + LEASE_SECS)]);
}

#[test]
fn an_address_in_use_is_refused_to_another() {
    let mut lan = Lan::new();
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    let reply = lan.reply(&udhcpc(REQUEST, mac(2)).wants(address), Loader);
    assert_eq!(Seen::of(&reply).kind, 6);
}

#[test]
fn a_released_address_stays_its_machines_while_nobody_needs_it() {
    let mut lan = Lan::new();
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    lan.pass(10);
    let answer = lan.ask(&udhcpc(RELEASE, mac(1)).has(address), Loader);
    assert_eq!(answer.outcome, Outcome::Released(address));
    assert_eq!(answer.changes, [set(mac(1), address, lan.now.as_secs())]);
    let (again, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    assert_eq!(again, address);
}

#[test]
fn nobody_releases_what_is_not_his() {
    let mut lan = Lan::new();
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    let answer = lan.ask(&udhcpc(RELEASE, mac(2)).has(address), Loader);
    assert_eq!(answer.outcome, Outcome::Silent(Silence::NoLease));
    assert_eq!(lan.leases()[0].mac, mac(1));
}

#[test]
fn a_declined_address_is_quarantined_and_comes_back() {
    let mut lan = Lan::new();
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    let answer = lan.ask(&udhcpc(DECLINE, mac(1)).wants(address).of(SERVER), Loader);
    assert_eq!(answer.outcome, Outcome::Declined(address));
    assert_eq!(answer.changes, [Change::Drop(address)]);
    let (other, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    assert_ne!(other, address);
    for n in 2..=9 {
        assert_ne!(lan.dora(|kind| udhcpc(kind, mac(n))).0, address);
    }
    let full = lan.ask(&udhcpc(DISCOVER, mac(99)), Loader);
    assert_eq!(full.outcome, Outcome::Silent(Silence::NoAddress));
    lan.pass(600);
    assert_eq!(lan.dora(|kind| udhcpc(kind, mac(99))).0, address);
}

#[test]
fn a_full_pool_gives_up_the_longest_ended_lease_only() {
    let mut lan = Lan::new();
    let mut addresses = Vec::new();
    for n in 0..10 {
        addresses.push(lan.dora(|kind| udhcpc(kind, mac(n))).0);
        lan.pass(10);
    }
    assert_eq!(
        lan.ask(&udhcpc(DISCOVER, mac(50)), Loader).outcome,
        Outcome::Silent(Silence::NoAddress)
    );
    lan.pass(LEASE_SECS - 90);
    let offer = lan.ask(&udhcpc(DISCOVER, mac(50)), Loader);
    assert_eq!(offer.changes, [Change::Drop(addresses[0])]);
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(50)));
    assert_eq!(address, addresses[0], "that of the machine whose lease ended");
}

#[test]
fn an_offer_holds_its_address_for_a_minute() {
    let mut lan = Lan::new();
    let offered = lan.reply(&udhcpc(DISCOVER, mac(1)), Loader).address.unwrap();
    let steal = udhcpc(REQUEST, mac(2)).wants(offered);
    assert_eq!(Seen::of(&lan.reply(&steal, Loader)).kind, 6);
    lan.pass(60);
    assert_eq!(Seen::of(&lan.reply(&steal, Loader)).kind, 5);
    assert!(lan.leases().iter().all(|lease| lease.mac == mac(2)), "offers are no leases");
}

#[test]
fn the_client_of_another_server_is_left_alone() {
    let mut lan = Lan::new();
    let offered = lan.reply(&udhcpc(DISCOVER, mac(1)), Loader).address.unwrap();
    let other = Ipv4Addr::new(192, 0, 2, 2);
    let answer = lan.ask(&udhcpc(REQUEST, mac(1)).wants([192, 0, 2, 9]).of(other), Loader);
    assert_eq!(answer.outcome, Outcome::Silent(Silence::OtherServer(other)));
    assert_eq!(answer.changes, []);
    assert_eq!(Seen::of(&lan.reply(&udhcpc(REQUEST, mac(2)).wants(offered), Loader)).kind, 5);
}

#[test]
fn inform_is_answered_without_address_and_lease() {
    let mut lan = Lan::new();
    let reply = lan.reply(&udhcpc(INFORM, mac(1)).has([192, 0, 2, 7]), Loader);
    let seen = Seen::of(&reply);
    assert_eq!((seen.kind, reply.address), (5, None));
    assert_eq!(seen.packet.yiaddr, Ipv4Addr::UNSPECIFIED);
    assert!(!seen.has(code::LEASE_TIME) && !seen.has(code::RENEWAL_TIME));
    assert_eq!(reply.to, SocketAddrV4::new([192, 0, 2, 7].into(), 68));
}

#[test]
fn an_ignored_machine_hears_nothing_but_may_give_back() {
    let mut lan = Lan::new();
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    for raw in [udhcpc(DISCOVER, mac(1)), udhcpc(REQUEST, mac(1)).has(address)] {
        assert_eq!(lan.ask(&raw, Ignore).outcome, Outcome::Silent(Silence::Ignored));
    }
    let release = lan.ask(&udhcpc(RELEASE, mac(1)).has(address), Ignore);
    assert_eq!(release.outcome, Outcome::Released(address));
}

#[test]
fn a_relay_chooses_the_network_and_gets_the_reply_with_its_option_last() {
    let mut lan = Lan::new();
    let relay = Ipv4Addr::new(198, 51, 100, 1);
    let circuit = [1, 4, b'p', b'o', b'r', b't'];
    let discover = udhcpc(DISCOVER, mac(1)).via(relay).option(82, circuit).option(12, "late");
    let reply = lan.reply(&discover, Loader);
    assert_eq!(reply.to, SocketAddrV4::new(relay, 67));
    assert!(reply.address.unwrap().to_string().starts_with("198.51.100."));
    let seen = Seen::of(&reply);
    assert_eq!(seen.packet.giaddr, relay);
    assert_eq!(seen.packet.options.iter().last(), Some((82, circuit.as_slice())));
    let unknown = lan.ask(&udhcpc(DISCOVER, mac(2)).via([10, 9, 9, 9]), Loader);
    assert_eq!(unknown.outcome, Outcome::Silent(Silence::NoScope([10, 9, 9, 9].into())));
}

#[test]
fn a_refusal_through_a_relay_is_to_be_broadcast_by_it() {
    let mut lan = Lan::new();
    let relay = [198, 51, 100, 1];
    let reply = lan.reply(&udhcpc(REQUEST, mac(1)).via(relay).wants([10, 0, 0, 1]), Loader);
    let seen = Seen::of(&reply);
    assert!(seen.packet.broadcast);
    assert_eq!((seen.kind, reply.to), (6, SocketAddrV4::new(relay.into(), 67)));
}

#[test]
fn loaded_leases_are_kept_and_those_that_no_longer_fit_are_dropped() {
    let ends = 1_800_000_500;
    let lease = |mac, last| Lease { mac, address: [192, 0, 2, last].into(), ends };
    let kept = lease(mac(1), 105);
    let leases = [kept, lease(mac(2), 200), lease(LISTED, 106), lease(mac(1), 107)];
    let (server, dropped) = Server::new(config(), leases).unwrap();
    let addresses = [200, 106, 107].map(|last| Change::Drop([192, 0, 2, last].into()));
    assert_eq!(dropped, addresses);
    let mut lan = Lan { server, ..Lan::new() };
    assert_eq!(lan.leases(), [kept]);
    assert_eq!(lan.dora(|kind| udhcpc(kind, mac(1))).0, kept.address);
}

#[test]
fn a_machine_on_the_move_leaves_its_old_address() {
    let mut lan = Lan::new();
    let (old, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    let relay = [198, 51, 100, 1];
    let offer = lan.ask(&udhcpc(DISCOVER, mac(1)).via(relay), Loader);
    assert_eq!(offer.changes, [Change::Drop(old)]);
}

#[test]
fn the_reply_fits_into_what_the_client_takes() {
    let mut lan = Lan::new();
    let mut discover = uefi_http(DISCOVER, mac(1)).option(82, [7; 200]);
    let small = lan.reply(&discover, Loader).bytes;
    assert!(small.len() <= 548, "{} bytes", small.len());
    discover.options.push((57, 1500_u16.to_be_bytes().to_vec()));
    let large = lan.reply(&discover, Loader);
    assert!(large.bytes.len() > 548);
    assert_eq!(Seen::of(&large).file().as_deref(), Some(LOADER_URL));
    let packet = bootsvc_proto::dhcp::Packet::decode(&small).unwrap();
    assert_eq!(packet.file, LOADER_URL.as_bytes(), "still in the field");
    assert_eq!(packet.options.get(82).map(<[u8]>::len), Some(200));
}

#[test]
fn settings_that_cannot_be_served_are_refused_by_name() {
    let scope = || config().scopes.remove(0);
    let pool = |first: [u8; 4], last: [u8; 4]| {
        let scopes = vec![Scope { pool: Some(first.into()..=last.into()), ..scope() }];
        Server::new(bootsvc_proto::dhcp::Config { scopes, ..config() }, []).map(|_| ())
    };
    assert!(matches!(
        pool([192, 0, 2, 1], [192, 0, 2, 9]),
        Err(ConfigError::PoolTaken { owner: "server", .. })
    ));
    assert!(matches!(
        pool([192, 0, 2, 250], [192, 0, 2, 254]),
        Err(ConfigError::PoolTaken { owner: "router", .. })
    ));
    let outside = [
        ([192, 0, 2, 9], [192, 0, 2, 8]),
        ([192, 0, 3, 9], [192, 0, 3, 10]),
        ([192, 0, 2, 250], [192, 0, 2, 255]),
    ];
    for (first, last) in outside {
        assert!(matches!(pool(first, last), Err(ConfigError::Pool { .. })), "{first:?} {last:?}");
    }
    let mut same = config();
    same.machines.insert(mac(1), LISTED_ADDRESS);
    assert!(matches!(same.validate(), Err(ConfigError::Machine { .. })));
    let mut long = config();
    long.offers.http = format!("http://192.0.2.1/{}", "x".repeat(100));
    let Err(ConfigError::Offers(OffersError::Long { .. })) = long.validate() else { panic!() };
    let mut none = config();
    none.scopes.clear();
    assert_eq!(none.validate(), Err(ConfigError::NoScope { server: SERVER }));
    let mut twice = config();
    twice.scopes.push(scope());
    assert!(matches!(twice.validate(), Err(ConfigError::Overlap(..))));
}
