//! A relay between the client and the server. Needs root.

use std::net::{Ipv4Addr, UdpSocket};

use bootsvc_proto::dhcp::{MessageKind, Op, Options, Packet, SERVER_PORT, code};
use bootsvc_server::{Mac, RelayId};

use crate::support::*;

const RELAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const CLIENT: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

/// A client's message, as the relay passes it on.
fn passed_on(kind: MessageKind, more: &[(u8, &[u8])]) -> Vec<u8> {
    let mut options = Options::default();
    options.push(code::MESSAGE_TYPE, &[kind.to_u8()]);
    more.iter().for_each(|(code, value)| options.push(*code, value));
    let nobody = Ipv4Addr::UNSPECIFIED;
    let packet = Packet {
        op: Op::Request,
        mac: CLIENT,
        hops: 1,
        xid: 7,
        secs: 0,
        broadcast: false,
        ciaddr: nobody,
        yiaddr: nobody,
        siaddr: nobody,
        giaddr: RELAY,
        file: Vec::new(),
        options,
    };
    packet.encode(1000)
}

#[test]
fn where_a_client_behind_a_relay_is_is_told_with_its_lease() {
    let lan = Lan::new();
    let relay = lan.machine_at("52:54:00:00:00:99", "10.77.0.9/24");
    let socket = || UdpSocket::bind((RELAY, SERVER_PORT)).unwrap();
    let socket = relay.namespace.within(socket).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let asks = |bytes: &[u8]| {
        socket.send_to(bytes, (SERVER, SERVER_PORT)).unwrap();
        let mut answer = [0; 1500];
        let len = socket.recv(&mut answer).unwrap();
        Packet::decode(&answer[..len]).unwrap()
    };
    let info: &[u8] = b"\x01\x05ge-17\x02\x02\x00\xff";
    let offer = asks(&passed_on(MessageKind::Discover, &[(code::RELAY_AGENT, info)]));
    assert!(lan.attached.0.lock().unwrap().is_empty(), "nothing was leased yet");
    let wanted = offer.yiaddr.octets();
    let request = [(code::REQUESTED_ADDRESS, wanted.as_slice()), (code::RELAY_AGENT, info)];
    let ack = asks(&passed_on(MessageKind::Request, &request));
    assert_eq!(ack.options.byte(code::MESSAGE_TYPE), Some(MessageKind::Ack.to_u8()));
    assert_eq!(ack.options.get(code::RELAY_AGENT), Some(info), "it goes back as it came");

    let told = lan.attached.0.lock().unwrap();
    let [(mac, attachment)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((*mac, attachment.relay), (CLIENT, Some(RELAY)));
    assert_eq!(attachment.subnet.to_string(), "10.77.0.0/24");
    let id = |id: &Option<RelayId>| id.as_ref().map(ToString::to_string);
    assert_eq!(id(&attachment.info.circuit_id).as_deref(), Some("ge-17"));
    assert_eq!(id(&attachment.info.remote_id).as_deref(), Some("0x00ff"));
}

#[test]
fn a_client_without_a_relay_is_told_without_one() {
    let lan = Lan::new();
    assert!(lan.machine("52:54:00:00:00:01").udhcpc(&[]).is_some());
    let told = lan.attached.0.lock().unwrap();
    let [(mac, attachment)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((*mac, attachment.relay), (CLIENT, None));
    assert_eq!(attachment.info, bootsvc_server::RelayInfo::default());
}
