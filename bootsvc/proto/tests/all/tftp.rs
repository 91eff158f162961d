//! Transfers between the server and clients made of bytes, in virtual time.

use std::net::SocketAddrV4;
use std::time::Duration;

use bootsvc_proto::tftp::{Event, Limits, Server};
use bytes::Bytes;

const PEER: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(192, 0, 2, 9), 2070);

fn peer(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(*PEER.ip(), port)
}

fn file(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect::<Vec<u8>>().into()
}

fn rrq(options: &[(&str, &str)]) -> Vec<u8> {
    named("ingot.efi", "octet", options)
}

fn named(name: &str, mode: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0, 1];
    let pairs = options.iter().flat_map(|(option, value)| [*option, *value]);
    for string in [name, mode].into_iter().chain(pairs) {
        out.extend(string.as_bytes());
        out.push(0);
    }
    out
}

fn ack(number: u16) -> Vec<u8> {
    [[0, 4], number.to_be_bytes()].concat()
}

fn error(number: u16) -> Vec<u8> {
    [&[0, 5], number.to_be_bytes().as_slice(), b"x\0"].concat()
}

struct Wire {
    server: Server,
    now: Duration,
    file: Bytes,
}

impl Wire {
    fn new(len: usize) -> Wire {
        let server = Server::new(Limits::default());
        Wire { server, now: Duration::from_secs(1), file: file(len) }
    }

    fn send(&mut self, from: SocketAddrV4, bytes: &[u8]) -> Vec<Vec<u8>> {
        let file = self.file.clone();
        let open = |name: &str| (name == "ingot.efi").then_some(file);
        self.server.receive(self.now, from, bytes, open);
        self.sent(from)
    }

    fn sent(&mut self, to: SocketAddrV4) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut out = Vec::new();
        while let Some(peer) = self.server.transmit(&mut out) {
            assert_eq!(peer, to);
            all.push(out.clone());
        }
        all
    }

    fn pass(&mut self, seconds: u64) -> Vec<Vec<u8>> {
        self.now += Duration::from_secs(seconds);
        self.server.expire(self.now);
        self.sent(PEER)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.server.next_event()).collect()
    }

    /// Fetches the whole file, acknowledging as RFC 7440 says.
    fn fetch(&mut self, options: &[(&str, &str)]) -> Vec<u8> {
        let value = |name| options.iter().find(|(o, _)| *o == name).map(|(_, v)| *v);
        let size = value("blksize").map_or(512, |v| v.parse::<usize>().unwrap().min(1468));
        let mut got = Vec::new();
        let mut next = 1_u16;
        let mut packets = self.send(PEER, &rrq(options));
        if !options.is_empty() {
            assert_eq!(packets.len(), 1, "one small packet before the client proved its address");
            assert_eq!(packets[0][..2], [0, 6]);
            packets = self.send(PEER, &ack(0));
        }
        loop {
            let mut last = None;
            for packet in &packets {
                assert_eq!(packet[..2], [0, 3]);
                assert_eq!(packet[2..4], next.to_be_bytes());
                got.extend(&packet[4..]);
                last = Some((next, packet.len() - 4));
                next = next.wrapping_add(1);
            }
            let (number, len) = last.expect("the server stopped");
            packets = self.send(PEER, &ack(number));
            if len < size {
                assert_eq!(packets, Vec::<Vec<u8>>::new());
                return got;
            }
        }
    }
}

fn oack_text(packet: &[u8]) -> String {
    assert_eq!(packet[..2], [0, 6]);
    String::from_utf8_lossy(&packet[2..]).replace('\0', " ").trim_end().to_owned()
}

#[test]
fn q14_files_of_every_awkward_length_arrive_whole() {
    for len in [0, 1, 511, 512, 513, 1024, 1467, 1468, 1469, 2936] {
        let windowed: &[_] = &[("blksize", "1468"), ("windowsize", "4")];
        for options in [&[], windowed, &[("blksize", "8")]] {
            let mut wire = Wire::new(len);
            assert_eq!(wire.fetch(options), wire.file, "{len} bytes with {options:?}");
            assert_eq!(wire.server.transfers(), 0);
            let last = wire.events().pop();
            assert!(matches!(last, Some(Event::Finished { repeated: 0, .. })), "{last:?}");
        }
    }
}

#[test]
fn q14_block_numbers_wrap_to_zero() {
    for (len, options) in [
        (8 * 65_536, [("blksize", "8")].as_slice()),
        (8 * 70_000 + 3, &[("blksize", "8")]),
        (8 * 140_000, &[("blksize", "8"), ("windowsize", "64")]),
    ] {
        let mut wire = Wire::new(len);
        assert_eq!(wire.fetch(options), wire.file);
    }
}

#[test]
fn q14_blksize_and_window_are_clamped_and_only_what_was_asked_is_answered() {
    let mut wire = Wire::new(5000);
    let options = [("BLKSIZE", "65464"), ("windowsize", "65535"), ("tsize", "0"), ("foo", "1")];
    let oack = wire.send(PEER, &rrq(&options));
    assert_eq!(oack_text(&oack[0]), "blksize 1468 tsize 5000 windowsize 64");
    let plain = Wire::new(5000).send(PEER, &rrq(&[("foo", "1")]));
    assert_eq!(plain[0][..4], [0, 3, 0, 1], "no option known: data at once");
    let empty = Wire::new(0).send(PEER, &rrq(&[("tsize", "0")]));
    assert_eq!(empty, [[0, 3, 0, 1]], "clients refuse a size of zero");
    let timeout = Wire::new(1).send(PEER, &rrq(&[("timeout", "3")]));
    assert_eq!(oack_text(&timeout[0]), "timeout 3");
}

#[test]
fn q14_a_duplicate_acknowledgement_sends_nothing_again() {
    let mut wire = Wire::new(5000);
    wire.send(PEER, &rrq(&[]));
    assert_eq!(wire.send(PEER, &ack(1)).len(), 1);
    assert_eq!(wire.send(PEER, &ack(1)), Vec::<Vec<u8>>::new());
    assert_eq!(wire.send(PEER, &ack(0)), Vec::<Vec<u8>>::new());
    assert_eq!(wire.send(PEER, &ack(9)), Vec::<Vec<u8>>::new(), "never sent");
}

#[test]
fn a_gap_in_a_window_is_filled_at_once_but_only_once() {
    let mut wire = Wire::new(512 * 20);
    wire.send(PEER, &rrq(&[("windowsize", "4")]));
    assert_eq!(wire.send(PEER, &ack(0)).len(), 4);
    let numbers = |packets: Vec<Vec<u8>>| packets.iter().map(|p| p[3]).collect::<Vec<_>>();
    assert_eq!(numbers(wire.send(PEER, &ack(2))), [3, 4, 5, 6], "block 3 was lost");
    assert_eq!(numbers(wire.send(PEER, &ack(2))), [3, 4, 5, 6], "and again");
    assert_eq!(numbers(wire.send(PEER, &ack(2))), [0_u8; 0]);
    assert_eq!(numbers(wire.send(PEER, &ack(6))), [7, 8, 9, 10]);
}

#[test]
fn q13_the_size_probe_of_uefi_is_no_failure() {
    let mut wire = Wire::new(5000);
    let probe = [("tsize", "0"), ("blksize", "1468"), ("windowsize", "4")];
    let oack = wire.send(PEER, &rrq(&probe));
    assert_eq!(oack_text(&oack[0]), "blksize 1468 tsize 5000 windowsize 4");
    assert_eq!(wire.send(PEER, &error(8)), Vec::<Vec<u8>>::new());
    let name = "ingot.efi".to_owned();
    assert_eq!(wire.events().pop(), Some(Event::Probed { peer: PEER, name }));
    assert_eq!(wire.fetch(&probe[1..]), wire.file);
}

#[test]
fn q13_a_missing_file_is_answered_at_once_without_any_path() {
    let mut wire = Wire::new(1);
    for name in ["autoexec.ipxe", "/etc/passwd", "..\\..\\secret", "../ingot.efi"] {
        let sent = wire.send(PEER, &named(name, "octet", &[]));
        assert_eq!(sent, [b"\0\x05\0\x01file not found\0".to_vec()], "{name}");
        assert!(matches!(wire.events().pop(), Some(Event::Missing { .. })));
    }
}

#[test]
fn q15_everything_comes_from_one_port_and_clients_are_told_apart() {
    let mut wire = Wire::new(3000);
    for port in 5000..5016 {
        let sent = wire.send(peer(port), &rrq(&[]));
        assert_eq!(sent[0][..4], [0, 3, 0, 1]);
    }
    for block in 1..6 {
        for port in 5000..5016 {
            let sent = wire.send(peer(port), &ack(block));
            assert_eq!(sent[0][2..4], (block + 1).to_be_bytes());
        }
    }
    assert_eq!(wire.server.transfers(), 16);
}

#[test]
fn q25_windows_names_are_served() {
    for name in ["\\ingot.efi", "/ingot.efi", "//ingot.efi"] {
        let sent = Wire::new(4).send(PEER, &named(name, "OcTeT", &[]));
        assert_eq!(sent[0][..4], [0, 3, 0, 1], "{name}");
    }
}

#[test]
fn writing_and_translated_modes_are_refused_in_words() {
    let mut wire = Wire::new(1);
    let sent = wire.send(PEER, &named("ingot.efi", "netascii", &[]));
    assert_eq!(sent, [b"\0\x05\0\0only octet (binary) mode is served\0".to_vec()]);
    let sent = wire.send(PEER, b"\0\x02ingot.efi\0octet\0");
    assert_eq!(sent, [b"\0\x05\0\x02this server only sends files\0".to_vec()]);
}

#[test]
fn a_stranger_is_told_that_it_has_no_transfer_and_an_error_is_never_answered() {
    let mut wire = Wire::new(5000);
    wire.send(PEER, &rrq(&[]));
    assert_eq!(wire.send(peer(9), &ack(1)), Vec::<Vec<u8>>::new(), "low port");
    assert_eq!(wire.send(peer(2071), &ack(1)), [b"\0\x05\0\x05unknown transfer\0".to_vec()]);
    assert_eq!(wire.send(peer(2071), &error(5)), Vec::<Vec<u8>>::new());
    assert_eq!(wire.send(peer(2071), b"\0"), [b"\0\x05\0\x04not a TFTP request\0".to_vec()]);
    assert_eq!(wire.send(PEER, &ack(1)).len(), 1, "the transfer goes on");
}

#[test]
fn silence_is_met_with_five_repetitions_ever_further_apart() {
    let mut wire = Wire::new(5000);
    let first = wire.send(PEER, &rrq(&[]));
    for wait in [1, 2, 4, 8, 16] {
        assert_eq!(wire.pass(wait - 1), Vec::<Vec<u8>>::new());
        assert_eq!(wire.pass(1), first, "after {wait} s");
    }
    assert_eq!(wire.pass(32), Vec::<Vec<u8>>::new());
    assert!(matches!(wire.events().pop(), Some(Event::TimedOut { .. })));
    assert_eq!((wire.server.transfers(), wire.server.deadline()), (0, None));
}

#[test]
fn progress_makes_the_wait_short_again() {
    let mut wire = Wire::new(5000);
    wire.send(PEER, &rrq(&[]));
    assert_eq!(wire.pass(1).len(), 1);
    wire.send(PEER, &ack(1));
    assert_eq!(wire.pass(1).len(), 1);
}

#[test]
fn a_repeated_request_is_answered_again_and_a_new_one_starts_anew() {
    let mut wire = Wire::new(5000);
    let first = wire.send(PEER, &rrq(&[("tsize", "0")]));
    assert_eq!(wire.send(PEER, &rrq(&[("tsize", "0")])), first);
    assert_eq!(wire.send(PEER, &rrq(&[]))[0][..4], [0, 3, 0, 1]);
    wire.send(PEER, &ack(1));
    assert_eq!(wire.send(PEER, &rrq(&[]))[0][..4], [0, 3, 0, 1], "the machine was reset");
    assert_eq!(wire.server.transfers(), 1);
}

#[test]
fn one_address_cannot_take_all_transfers() {
    let mut wire = Wire::new(5000);
    for port in 5000..5032 {
        assert_eq!(wire.send(peer(port), &rrq(&[])).len(), 1);
    }
    assert_eq!(wire.send(peer(6000), &rrq(&[])), Vec::<Vec<u8>>::new());
    assert!(matches!(wire.events().pop(), Some(Event::Refused { .. })));
    let other = SocketAddrV4::new([192, 0, 2, 10].into(), 6000);
    assert_eq!(wire.send(other, &rrq(&[])).len(), 1);
}
