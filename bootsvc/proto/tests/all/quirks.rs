//! Each quirk of a client that this part must live with, by its number in
//! `docs/boot.md`.

use crate::support::*;
use bootsvc_proto::Intent::{Disk, Loader};
use bootsvc_proto::dhcp::{Packet, PacketError, Request, code};
use bootsvc_proto::{Client, Platform, Program, Stage};
use std::net::Ipv4Addr;

fn client(raw: &Raw) -> Client {
    Request::decode(&raw.bytes()).unwrap().unwrap().client
}

#[test]
fn q02_ipxe_is_told_not_to_wait_for_proxy_offers() {
    let mut lan = Lan::new();
    for arch in [0, 7] {
        let seen = Seen::of(&lan.reply(&ipxe(DISCOVER, mac(1), arch), Loader));
        assert_eq!(seen.option(code::IPXE), Some([176, 1, 1].as_slice()));
    }
    assert!(!Seen::of(&lan.reply(&uefi_pxe(DISCOVER, mac(1)), Loader)).has(code::IPXE));
}

#[test]
fn q03_a_boot_file_comes_with_a_next_server() {
    let mut lan = Lan::new();
    for raw in [ipxe(DISCOVER, mac(1), 0), uefi_pxe(DISCOVER, mac(2)), uefi_http(DISCOVER, mac(3))]
    {
        assert_eq!(Seen::of(&lan.reply(&raw, Loader)).message.siaddr(), SERVER);
    }
    let plain = Seen::of(&lan.reply(&udhcpc(DISCOVER, mac(4)), Loader));
    assert_eq!(plain.message.siaddr(), Ipv4Addr::UNSPECIFIED);
}

#[test]
fn q04_class_pxeclient_comes_with_discovery_control() {
    let mut lan = Lan::new();
    for raw in [uefi_pxe(DISCOVER, mac(1)), bios_pxe(DISCOVER, mac(1))] {
        let seen = Seen::of(&lan.reply(&raw, Loader));
        assert_eq!(seen.option(code::CLASS), Some(b"PXEClient".as_slice()));
        assert_eq!(seen.option(code::VENDOR), Some([6, 1, 8, 255].as_slice()));
    }
}

#[test]
fn q06_a_machine_can_be_answered_without_class() {
    let mut lan = Lan::new();
    let seen = Seen::of(&lan.reply(&uefi_pxe(DISCOVER, UNMARKED), Loader));
    assert!(!seen.has(code::CLASS) && !seen.has(code::VENDOR));
    assert_eq!(seen.file().as_deref(), Some("ingot.efi"));
}

#[test]
fn q07_http_boot_is_answered_with_its_class_a_url_and_no_vendor_options() {
    let mut lan = Lan::new();
    let seen = Seen::of(&lan.reply(&uefi_http(DISCOVER, mac(1)), Loader));
    assert_eq!(seen.option(code::CLASS), Some(b"HTTPClient".as_slice()));
    assert!(!seen.has(code::VENDOR));
    assert_eq!(seen.file().as_deref(), Some(LOADER_URL));
}

#[test]
fn q08_the_boot_file_stands_in_both_places_and_ends_in_zero() {
    let mut lan = Lan::new();
    let reply = lan.reply(&uefi_pxe(DISCOVER, mac(1)), Loader);
    assert_eq!(Seen::of(&reply).file().as_deref(), Some("ingot.efi"));
    assert_eq!(&reply.bytes[108..118], b"ingot.efi\0");
    assert_eq!(reply.bytes[235], 0);
}

#[test]
fn q09_arch_7_and_9_are_one_and_lists_are_read_to_their_end() {
    for (archs, platform) in [
        ([0_u16, 0].as_slice(), Platform::Bios),
        (&[7], Platform::UefiX64),
        (&[9], Platform::UefiX64),
        (&[16], Platform::UefiX64),
        (&[6, 7], Platform::UefiX64),
        (&[11], Platform::Other(11)),
        (&[], Platform::Unknown),
    ] {
        let bytes: Vec<u8> = archs.iter().flat_map(|arch| arch.to_be_bytes()).collect();
        let raw = Raw::new(DISCOVER, mac(1)).option(93, bytes);
        assert_eq!(client(&raw).platform(), platform, "{archs:?}");
    }
}

#[test]
fn q09_a_platform_without_loader_gets_an_address_only() {
    let mut lan = Lan::new();
    let raw = Raw::new(DISCOVER, mac(1)).option(60, "PXEClient:Arch:00011").option(93, [0, 11]);
    let reply = lan.reply(&raw, Loader);
    assert_eq!(reply.boot.as_ref().unwrap().stage, Stage::Unsupported(Platform::Other(11)));
    assert_eq!(Seen::of(&reply).file(), None);
}

#[test]
fn q10_the_user_class_is_read_raw_and_by_rfc_3004() {
    for class in [b"iPXE".as_slice(), b"\x04iPXE", b"\x03foo\x04iPXE"] {
        let raw = Raw::new(DISCOVER, mac(1)).option(60, "PXEClient").option(77, class);
        assert_eq!(client(&raw).program, Program::Ipxe, "{class:?}");
    }
    for class in [b"foo".as_slice(), b"\x09iPXE", b"xiPXE"] {
        let raw = Raw::new(DISCOVER, mac(1)).option(60, "PXEClient").option(77, class);
        assert_eq!(client(&raw).program, Program::Pxe, "{class:?}");
    }
}

#[test]
fn q11_the_program_that_becomes_ipxe_is_never_given_to_ipxe() {
    let mut lan = Lan::new();
    let rom = Seen::of(&lan.reply(&bios_pxe(DISCOVER, mac(1)), Loader));
    assert_eq!(rom.file().as_deref(), Some("undionly.kpxe"));
    let chained = Seen::of(&lan.reply(&ipxe(DISCOVER, mac(1), 0), Loader));
    assert_eq!(chained.file(), Some(format!("{SCRIPT}{}{OF_UUID}", mac(1))));
    assert!(!chained.has(code::CLASS) && !chained.has(code::VENDOR), "no menu for iPXE");
    let features_only = bios_pxe(DISCOVER, mac(1)).option(175, [177, 5, 1]);
    let seen = Seen::of(&lan.reply(&features_only, Loader));
    assert_eq!(seen.file(), Some(format!("{SCRIPT}{}{OF_UUID}", mac(1))));
}

#[test]
fn q12_option_97_is_mirrored_only_where_it_was_sent() {
    let mut lan = Lan::new();
    let with = Seen::of(&lan.reply(&uefi_pxe(DISCOVER, mac(1)), Loader));
    assert_eq!(with.option(code::CLIENT_UUID).map(<[u8]>::len), Some(17));
    let raw = Raw::new(DISCOVER, mac(2)).option(60, "PXEClient").option(93, [0, 0]);
    assert!(!Seen::of(&lan.reply(&raw, Loader)).has(code::CLIENT_UUID));
}

#[test]
fn q20_pxe_and_http_are_both_answered() {
    let mut lan = Lan::new();
    let stage = |lan: &mut Lan, raw: Raw| lan.reply(&raw, Loader).boot.unwrap().stage;
    assert_eq!(stage(&mut lan, uefi_pxe(DISCOVER, mac(1))), Stage::LoaderTftp);
    assert_eq!(stage(&mut lan, uefi_http(DISCOVER, mac(1))), Stage::LoaderHttp);
}

#[test]
fn q21_replies_are_broadcast_flagged_and_as_long_as_bootp() {
    let mut lan = Lan::new();
    let reply = lan.reply(&uefi_pxe(DISCOVER, mac(1)), Loader);
    assert!(reply.to.ip().is_broadcast());
    assert!(Seen::of(&reply).packet.broadcast);
    let plain = lan.reply(&Raw::new(DISCOVER, mac(2)), Loader);
    assert_eq!(plain.bytes.len(), 300);
}

#[test]
fn a_machine_that_is_to_start_its_disk_is_sent_there_the_quickest_way() {
    let mut lan = Lan::new();
    let mut file = |raw: Raw| {
        let reply = lan.reply(&raw, Disk);
        (reply.boot.as_ref().unwrap().stage, Seen::of(&reply).file())
    };
    // A BIOS goes on at once without a file.
    assert_eq!(file(bios_pxe(DISCOVER, mac(1))), (Stage::Disk, None));
    // UEFI asks again for a minute without one, and goes on when it is missing.
    let missing = "start-from-disk.efi";
    assert_eq!(file(uefi_pxe(DISCOVER, mac(2))), (Stage::Disk, Some(missing.into())));
    let url = format!("http://192.0.2.1:8080/boot/{missing}");
    assert_eq!(file(uefi_http(DISCOVER, mac(3))), (Stage::Disk, Some(url)));
    // iPXE is told to by its script.
    let script = format!("{SCRIPT}{}{OF_UUID}", mac(4));
    assert_eq!(file(ipxe(DISCOVER, mac(4), 0)), (Stage::Script, Some(script)));
}

#[test]
fn an_operating_system_gets_no_boot_fields() {
    let mut lan = Lan::new();
    let seen = Seen::of(&lan.reply(&udhcpc(DISCOVER, mac(1)), Loader));
    assert_eq!(seen.file(), None);
    for code in [code::CLASS, code::VENDOR, code::IPXE] {
        assert!(!seen.has(code), "{code}");
    }
}

/// The messages on which `dhcproto` panics or loses options.
mod lenient_reading {
    use super::*;

    #[test]
    fn a_hardware_address_longer_than_its_field_is_refused() {
        let mut bytes = uefi_pxe(DISCOVER, mac(1)).bytes();
        bytes[2] = 17;
        let wrong = PacketError::Hardware { htype: 1, hlen: 17 };
        assert_eq!(Request::decode(&bytes), Err(wrong));
    }

    #[test]
    fn a_broken_option_hides_no_other() {
        for (code, value) in [(12, b"\xff\xfe".as_slice()), (57, b"\x05"), (150, b"12345678")] {
            let mut raw = Raw::new(DISCOVER, mac(1)).option(code, value);
            raw = raw.option(60, "HTTPClient").option(93, [0, 16]);
            let client = client(&raw);
            assert_eq!(client.program, Program::Http, "behind option {code}");
            assert_eq!(client.platform(), Platform::UefiX64);
        }
        for code in [80, 81, 94] {
            let raw = Raw::new(DISCOVER, mac(1)).option(code, [1]).option(60, "PXEClient");
            assert_eq!(client(&raw).program, Program::Pxe, "behind option {code}");
        }
    }

    #[test]
    fn without_the_cookie_it_is_no_dhcp() {
        let mut bytes = uefi_pxe(DISCOVER, mac(1)).bytes();
        bytes[236] = 0;
        assert_eq!(Request::decode(&bytes), Err(PacketError::Cookie));
    }

    #[test]
    fn split_options_are_joined_wherever_their_parts_stand() {
        let raw = Raw::new(DISCOVER, mac(1)).option(60, "HTTP").option(93, [0, 16]);
        assert_eq!(client(&raw.option(60, "Client:Arch")).program, Program::Http);
        let long = Raw::new(DISCOVER, mac(1)).option(61, [7; 300]);
        let packet = Packet::decode(&long.bytes()).unwrap();
        assert_eq!(packet.options.get(61).map(<[u8]>::len), Some(300));
        assert_eq!(Packet::decode(&packet.encode(1472)).unwrap().options, packet.options);
    }

    #[test]
    fn options_in_the_file_and_sname_fields_are_found() {
        let mut bytes = Raw::new(DISCOVER, mac(1)).option(52, [3]).bytes();
        bytes[108..108 + 12].copy_from_slice(b"\x3c\x09PXEClient\xff");
        bytes[44..44 + 5].copy_from_slice(&[93, 2, 0, 7, 255]);
        let request = Request::decode(&bytes).unwrap().unwrap();
        assert_eq!(request.client.program, Program::Pxe);
        assert_eq!(request.client.platform(), Platform::UefiX64);
        assert_eq!(request.packet.file, b"");
    }

    #[test]
    fn a_cut_message_keeps_what_came_whole() {
        let whole = uefi_pxe(DISCOVER, mac(1)).bytes();
        let cut = Request::decode(&whole[..whole.len() - 8]).unwrap().unwrap();
        assert_eq!(cut.client.program, Program::Pxe);
        assert_eq!(Request::decode(&whole[..200]), Err(PacketError::Short(200)));
    }

    #[test]
    fn replies_of_other_servers_are_passed_over() {
        let mut bytes = uefi_pxe(DISCOVER, mac(1)).bytes();
        bytes[0] = 2;
        assert_eq!(Request::decode(&bytes), Ok(None));
    }
}
