//! What relays say of their clients, and what comes of it.

use std::net::Ipv4Addr;

use crate::support::*;
use bootsvc_proto::Intent::Loader;
use bootsvc_proto::dhcp::{
    Attachment, Outcome, RELAY_ID_LEN_MAX, RELAY_INFO_LEN_MAX, RelayId, RelayInfo, Silence,
};
use dhcproto::v4::relay::{RelayAgentInformation, RelayCode, RelayInfo as Theirs};
use dhcproto::{Decodable, Decoder, Encodable};
use proptest::collection::vec;
use proptest::prelude::*;

const RELAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

fn id(bytes: &[u8]) -> Option<RelayId> {
    RelayId::new(bytes)
}

/// One sub-option.
fn sub(code: u8, value: &[u8]) -> Vec<u8> {
    [&[code, u8::try_from(value.len()).unwrap()], value].concat()
}

/// Where the client is by its request for an address, which must be granted.
fn attachment(lan: &mut Lan, request: &Raw) -> Option<Attachment> {
    let reply = lan.reply(request, Loader);
    assert_eq!(Seen::of(&reply).kind, 5);
    reply.attachment.map(|there| *there)
}

#[test]
fn every_sub_option_is_read_and_what_makes_no_sense_hides_no_other() {
    let bytes = [
        sub(9, b"\0\0\x0b\x61vendor"),
        sub(1, b"ge-0/0/17"),
        sub(2, &[0, 6, 1, 2]),
        sub(5, &[10, 1, 2]),
        sub(5, &[198, 51, 100, 0]),
        sub(6, b""),
        sub(6, b"rack 12"),
        sub(1, b"another"),
    ];
    let info = RelayInfo {
        circuit_id: id(b"ge-0/0/17"),
        remote_id: id(&[0, 6, 1, 2]),
        link: Some([198, 51, 100, 0].into()),
        subscriber_id: id(b"rack 12"),
    };
    assert_eq!(RelayInfo::decode(&bytes.concat()), info);
    // Cut off in the middle, what came before counts.
    let cut = [sub(1, b"ge-0/0/17"), vec![2, 9, b'x']].concat();
    let info = RelayInfo { circuit_id: id(b"ge-0/0/17"), ..RelayInfo::default() };
    assert_eq!(RelayInfo::decode(&cut), info);
    assert_eq!(RelayInfo::decode(&[1]), RelayInfo::default());
}

#[test]
fn what_is_too_long_is_not_read() {
    let longest = vec![7; RELAY_ID_LEN_MAX];
    assert!(id(&longest).is_some() && id(&[longest.as_slice(), &[7]].concat()).is_none());
    let mut bytes = sub(1, b"port");
    bytes.resize(RELAY_INFO_LEN_MAX, 0);
    assert_eq!(RelayInfo::decode(&bytes).circuit_id, id(b"port"));
    bytes.push(0);
    assert_eq!(RelayInfo::decode(&bytes), RelayInfo::default());
}

#[test]
fn an_id_is_shown_as_text_where_it_is_text_and_else_as_hex() {
    for (bytes, shown) in [
        (b"Gi1/0/17 (rack 12)".as_slice(), "Gi1/0/17 (rack 12)"),
        (&[0, 4, 0, 10, 1, 2], "0x0004000a0102"),
        ("straße".as_bytes(), "0x73747261c39f65"),
        (b"port\0", "0x706f727400"),
        (b"0x00", "0x30783030"),
        (b"0", "0"),
    ] {
        assert_eq!(id(bytes).unwrap().to_string(), shown);
    }
    assert_eq!(id(b""), None);
}

#[test]
fn a_lease_says_where_its_client_is() {
    let mut lan = Lan::new();
    let info = [sub(1, b"ge-17"), sub(2, b"tor-3")].concat();
    let client = |kind| udhcpc(kind, mac(1)).via(RELAY).option(82, &info);
    let offer = lan.reply(&client(DISCOVER), Loader);
    assert_eq!(offer.attachment, None, "nothing is leased yet");
    let address = offer.address.unwrap();
    let there = Attachment {
        subnet: "198.51.100.0/24".parse().unwrap(),
        relay: Some(RELAY),
        info: RelayInfo {
            circuit_id: id(b"ge-17"),
            remote_id: id(b"tor-3"),
            ..RelayInfo::default()
        },
    };
    let request = client(REQUEST).wants(address).of(SERVER);
    assert_eq!(attachment(&mut lan, &request), Some(there.clone()));

    // A renewal goes past the relay, a rebinding through it.
    assert_eq!(attachment(&mut lan, &udhcpc(REQUEST, mac(1)).has(address)), None);
    assert_eq!(attachment(&mut lan, &client(REQUEST).has(address)), Some(there));
    let inform = lan.reply(&client(INFORM).has(address), Loader);
    let refused = lan.reply(&client(REQUEST).wants([10, 0, 0, 1]), Loader);
    assert_eq!((inform.attachment, refused.attachment), (None, None));
}

#[test]
fn a_client_that_moved_to_our_own_network_has_no_relay_any_more() {
    let mut lan = Lan::new();
    let offer = lan.reply(&udhcpc(DISCOVER, mac(1)), Loader);
    let request = udhcpc(REQUEST, mac(1)).wants(offer.address.unwrap()).of(SERVER);
    let subnet = "192.0.2.0/24".parse().unwrap();
    let here = Attachment { subnet, relay: None, info: RelayInfo::default() };
    assert_eq!(attachment(&mut lan, &request), Some(here));
}

#[test]
fn a_switch_may_say_where_its_client_is_without_being_a_relay() {
    let mut lan = Lan::new();
    let (address, _) = lan.dora(|kind| udhcpc(kind, mac(1)));
    let port = |request: Raw| request.option(82, sub(1, b"port 4"));
    let seen = attachment(&mut lan, &port(udhcpc(REQUEST, mac(1)).wants(address.octets())));
    let seen = seen.unwrap();
    assert_eq!((seen.relay, seen.info.circuit_id), (None, id(b"port 4")));
    // What nobody passed on is the client's own word.
    assert_eq!(attachment(&mut lan, &port(udhcpc(REQUEST, mac(1)).has(address))), None);
}

#[test]
fn a_relay_may_name_the_network_of_its_client() {
    let mut lan = Lan::new();
    let link = |address: [u8; 4]| sub(5, &address);
    // The relay's own address is of no network that is served.
    let elsewhere = [10, 9, 9, 9];
    let discover = |info: Vec<u8>| udhcpc(DISCOVER, mac(1)).via(elsewhere).option(82, info);
    let reply = lan.reply(&discover(link([198, 51, 100, 0])), Loader);
    assert!(reply.address.unwrap().to_string().starts_with("198.51.100."));
    assert_eq!(reply.to.ip(), &Ipv4Addr::from(elsewhere), "the relay gets the answer");
    let unknown = lan.ask(&discover(link([10, 7, 0, 0])), Loader).outcome;
    assert_eq!(unknown, Outcome::Silent(Silence::NoScope([10, 7, 0, 0].into())));
    // Who comes without a relay has no say in it.
    let direct = udhcpc(DISCOVER, mac(2)).option(82, link([198, 51, 100, 0]));
    assert!(lan.reply(&direct, Loader).address.unwrap().to_string().starts_with("192.0.2."));
}

fn ids() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 1..40), "0x[0-9a-f]{0,4}".prop_map(String::into_bytes)]
}

proptest! {
    // Failures are told with their input; a regression becomes a test by name.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_and_shown(bytes in vec(any::<u8>(), 0..RELAY_INFO_LEN_MAX + 2)) {
        let info = RelayInfo::decode(&bytes);
        for id in [info.circuit_id, info.remote_id, info.subscriber_id].into_iter().flatten() {
            let shown = id.to_string();
            prop_assert!((1..=RELAY_ID_LEN_MAX).contains(&id.bytes().len()));
            prop_assert!(shown.len() <= 2 + 2 * RELAY_ID_LEN_MAX);
            prop_assert!(shown.chars().all(|c| (' '..='~').contains(&c)));
        }
    }

    #[test]
    fn two_ids_are_never_shown_alike(one in ids(), two in ids()) {
        let shown = |bytes: &[u8]| id(bytes).unwrap().to_string();
        prop_assert_eq!(one == two, shown(&one) == shown(&two));
    }

    #[test]
    fn it_says_what_an_independent_writer_wrote(
        circuit in vec(any::<u8>(), 1..40),
        remote in vec(any::<u8>(), 1..40),
        subscriber in vec(any::<u8>(), 1..40),
        link: [u8; 4],
    ) {
        let mut theirs = RelayAgentInformation::default();
        theirs.insert(Theirs::AgentCircuitId(circuit.clone()));
        theirs.insert(Theirs::AgentRemoteId(remote.clone()));
        theirs.insert(Theirs::SubscriberId(subscriber.clone()));
        theirs.insert(Theirs::LinkSelection(link.into()));
        let info = RelayInfo::decode(&theirs.to_vec().unwrap());
        prop_assert_eq!(info, RelayInfo {
            circuit_id: id(&circuit),
            remote_id: id(&remote),
            link: Some(link.into()),
            subscriber_id: id(&subscriber),
        });
    }

    /// Of bytes that the other reader takes, with nothing said twice.
    #[test]
    fn it_reads_what_an_independent_reader_reads(
        list in proptest::collection::btree_map(1..8_u8, vec(any::<u8>(), 4..=4), 0..6)
    ) {
        let bytes: Vec<u8> = list.iter().flat_map(|(code, value)| sub(*code, value)).collect();
        let info = RelayInfo::decode(&bytes);
        let theirs = RelayAgentInformation::decode(&mut Decoder::new(&bytes)).unwrap();
        let circuit = match theirs.get(RelayCode::AgentCircuitId) {
            Some(Theirs::AgentCircuitId(bytes)) => id(bytes),
            _ => None,
        };
        let link = match theirs.get(RelayCode::LinkSelection) {
            Some(Theirs::LinkSelection(link)) => Some(*link),
            _ => None,
        };
        prop_assert_eq!((info.circuit_id, info.link), (circuit, link));
    }
}
