//! Whatever comes from the network, nothing panics and every reply is sound.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use crate::support::{Lan, Raw, mac};
use bootsvc_proto::dhcp::{Op, Options, Outcome, Packet, Request};
use bootsvc_proto::{Intent, Mac, tftp};
use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn intent() -> impl Strategy<Value = Intent> {
    prop_oneof![Just(Intent::Loader), Just(Intent::Disk), Just(Intent::Ignore)]
}

/// Messages that get past the header, with options as they may come.
fn messages() -> impl Strategy<Value = Raw> {
    let code = prop_oneof![
        Just(50),
        Just(52),
        Just(53),
        Just(54),
        Just(57),
        Just(60),
        Just(61),
        Just(77),
        Just(82),
        Just(93),
        Just(97),
        Just(175),
        any::<u8>(),
    ];
    let options = vec((code, vec(any::<u8>(), 0..300)), 0..12);
    (0..9_u8, 0..40_u16, options, 95..115_u8, any::<bool>()).prop_map(
        |(kind, n, options, last, known)| {
            let mut raw = Raw::new(kind, mac(n));
            if known {
                raw = raw.wants(Ipv4Addr::new(192, 0, 2, last));
            }
            raw.options.extend(options);
            raw
        },
    )
}

fn packets() -> impl Strategy<Value = Packet> {
    let options: BoxedStrategy<BTreeMap<u8, Vec<u8>>> = btree_map(
        (1..=254_u8).prop_filter("overload moves options", |c| *c != 52),
        vec(any::<u8>(), 0..600),
        0..4,
    )
    .boxed();
    let header = (any::<[u8; 6]>(), any::<u8>(), any::<u32>(), any::<u16>(), any::<bool>());
    let addresses = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let op = prop_oneof![Just(Op::Request), Just(Op::Reply)];
    (op, header, addresses, vec(1..=255_u8, 0..=127), options).prop_map(
        |(op, (mut mac, hops, xid, secs, broadcast), (a, b, c, d), file, options)| {
            mac[0] = mac[0] & 0xfe | 2;
            let mut list = Options::default();
            for (code, value) in options.iter().filter(|(code, _)| **code != 82) {
                list.push(*code, value);
            }
            if let Some(value) = options.get(&82) {
                list.push(82, value);
            }
            Packet {
                op,
                mac: Mac(mac),
                hops,
                xid,
                secs,
                broadcast,
                ciaddr: a.into(),
                yiaddr: b.into(),
                siaddr: c.into(),
                giaddr: d.into(),
                file,
                options: list,
            }
        },
    )
}

proptest! {
    // Failures are told with their input; a regression becomes a test by name.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn dhcp_messages_round_trip(packet in packets()) {
        prop_assert_eq!(Packet::decode(&packet.encode(65_535)), Ok(packet));
    }

    #[test]
    fn any_datagram_is_read(mut bytes in vec(any::<u8>(), 0..700), plausible: bool) {
        if plausible && bytes.len() >= 240 {
            bytes[..3].copy_from_slice(&[1, 1, 6]);
            bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        }
        if let Ok(Some(request)) = Request::decode(&bytes) {
            let mut lan = Lan::new();
            lan.server.handle(lan.now, &request, Intent::Loader);
        }
    }

    #[test]
    fn no_address_is_ever_held_by_two(
        script in vec((messages(), intent(), 0..4000_u64), 0..60)
    ) {
        let mut lan = Lan::new();
        let mut recorded = BTreeMap::new();
        for (raw, intent, seconds) in script {
            lan.pass(seconds);
            let answer = lan.ask(&raw, intent);
            for change in answer.changes {
                match change {
                    bootsvc_proto::dhcp::Change::Set(lease) => {
                        recorded.insert(lease.address, lease.mac);
                    }
                    bootsvc_proto::dhcp::Change::Drop(address) => {
                        recorded.remove(&address);
                    }
                }
            }
            if let Outcome::Reply(reply) = answer.outcome {
                prop_assert!((300..=1472).contains(&reply.bytes.len()));
                let packet = Packet::decode(&reply.bytes).unwrap();
                prop_assert_eq!((packet.op, packet.mac), (Op::Reply, raw.mac));
            }
            let held: BTreeMap<_, _> = lan.leases().iter().map(|l| (l.address, l.mac)).collect();
            prop_assert_eq!(&held, &recorded, "records and memory agree");
            let mut machines: Vec<_> = held.values().collect();
            machines.sort();
            machines.dedup();
            prop_assert_eq!(machines.len(), held.len(), "one address per machine");
        }
    }

    #[test]
    fn any_tftp_datagrams_are_served(
        datagrams in vec((0..4_u16, prop_oneof![
            vec(any::<u8>(), 0..80),
            (1..7_u8, vec(any::<u8>(), 0..6)).prop_map(|(op, rest)| [vec![0, op], rest].concat()),
            (0..4_u16).prop_map(|n| [[0, 4], n.to_be_bytes()].concat()),
            Just(b"\0\x01f\0octet\0blksize\x0030\0windowsize\x003\0".to_vec()),
        ], 0..3000_u64), 0..60)
    ) {
        let mut server = tftp::Server::new(tftp::Limits::default());
        let mut now = Duration::ZERO;
        let mut out = Vec::new();
        for (port, bytes, millis) in datagrams {
            now += Duration::from_millis(millis);
            server.expire(now);
            let peer = SocketAddrV4::new([192, 0, 2, 9].into(), 2000 + port);
            server.receive(now, peer, &bytes, |_| Some(Bytes::from_static(&[7; 100])));
            let mut sent = 0;
            while server.transmit(&mut out).is_some() {
                sent += 1;
                prop_assert!((4..=520).contains(&out.len()));
            }
            prop_assert!(sent <= 16, "{sent} packets for one");
        }
    }
}
