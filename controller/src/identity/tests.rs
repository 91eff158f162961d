use proptest::prelude::*;
use wire::{Nic, System};

use super::*;

fn seen(text: &str) -> Fingerprint {
    text.split_whitespace()
        .map(|item| {
            let (kind, value) = item.split_once(':').unwrap();
            Identifier { kind: Kind::from_name(kind).unwrap(), value: value.into() }
        })
        .collect()
}

fn check(now: &str, stored: &[&str]) -> String {
    let known: BTreeMap<_, _> = stored
        .iter()
        .enumerate()
        .map(|(i, text)| (format!("m{i}").parse().unwrap(), seen(text)))
        .collect();
    match recognise(&seen(now), &known) {
        Recognised::New => "new".into(),
        Recognised::Known(id) => id.to_string(),
        Recognised::Doubtful(ids) => {
            ids.iter().map(|id| format!("{id}?")).collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn machines_are_recognised_or_told_apart_or_in_doubt() {
    let full = "uuid:u serial:s board:b chassis:c mac:1";
    let table: [(&str, &[&str], &str, &str); 26] = [
        ("never seen", &[], full, "new"),
        ("nothing in common", &[full], "uuid:v mac:2", "new"),
        ("itself", &[full], full, "m0"),
        ("another card", &[full], "uuid:u serial:s board:b chassis:c mac:2", "m0"),
        ("one card more", &[full], "uuid:u serial:s board:b chassis:c mac:1 mac:2", "m0"),
        ("another UUID after an update", &[full], "uuid:v serial:s board:b chassis:c mac:1", "m0"),
        ("UUID not reported", &[full], "serial:s board:b chassis:c mac:1", "m0"),
        ("another board with its cards", &[full], "uuid:v serial:s board:d chassis:c mac:2", "new"),
        ("only a card", &["mac:1"], "mac:1", "m0"),
        ("a card and what was not known before", &["mac:1"], "uuid:u mac:1", "m0"),
        ("two machines with one card address", &["uuid:u mac:1"], "uuid:v mac:1", "new"),
        (
            "a card moved from one known machine to another",
            &["uuid:u mac:1", "uuid:v mac:2"],
            "uuid:v mac:1 mac:2",
            "m1",
        ),
        ("one UUID in two machines, or a new card", &["uuid:u mac:1"], "uuid:u mac:2", "m0?"),
        (
            "the same once more, with its own record",
            &["uuid:u mac:1", "uuid:u mac:2"],
            "uuid:u mac:2",
            "m1",
        ),
        ("the other of the two", &["uuid:u mac:1", "uuid:u mac:2"], "uuid:u mac:1", "m0"),
        ("a third one", &["uuid:u mac:1", "uuid:u mac:2"], "uuid:u mac:3", "m0? m1?"),
        ("cards of two machines in one", &["mac:1", "mac:2"], "mac:1 mac:2", "m0? m1?"),
        ("another disk", &["uuid:u serial:s mac:1 disk:a"], "uuid:u serial:s mac:1 disk:b", "m0"),
        (
            "another card and another disk",
            &["uuid:u serial:s mac:1 disk:a"],
            "uuid:u serial:s mac:2 disk:b",
            "m0",
        ),
        (
            "a disk moved to a machine that is not known",
            &["uuid:u serial:s mac:1 disk:a"],
            "uuid:v serial:t mac:2 disk:a",
            "new",
        ),
        (
            "a disk moved from one known machine to another",
            &["uuid:u mac:1 disk:a", "uuid:v mac:2 disk:b"],
            "uuid:v mac:2 disk:a disk:b",
            "m1",
        ),
        (
            "card and disk in another board, or in another machine",
            &["uuid:u mac:1 disk:a"],
            "uuid:v mac:1 disk:a",
            "m0?",
        ),
        (
            "one UUID in two machines and a disk moved, or a new card",
            &["uuid:u mac:1 disk:a"],
            "uuid:u mac:2 disk:a",
            "m0?",
        ),
        ("only a disk", &["disk:a"], "disk:a mac:1", "m0?"),
        ("a card in another board", &["board:b mac:1"], "board:d mac:1", "m0?"),
        (
            "no card reported, one UUID in two",
            &["uuid:u mac:1", "uuid:u mac:2"],
            "uuid:u",
            "m0? m1?",
        ),
    ];
    for (what, stored, now, expected) in table {
        assert_eq!(check(now, stored), expected, "{what}");
    }
}

#[test]
fn only_what_identifies_is_taken() {
    let inventory = |uuid: &str, serial: &str, macs: &[&str]| Inventory {
        system: System {
            manufacturer: Some(" Acme ".into()),
            product: Some("X1".into()),
            uuid: Some(uuid.into()),
            serial: Some(serial.into()),
            ..System::default()
        },
        nics: macs.iter().map(|m| Nic { mac: (*m).into(), ..Nic::default() }).collect(),
        ..Inventory::default()
    };
    let names = |inventory: &Inventory| {
        fingerprint(inventory).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let good = inventory("4C4C4544-0042-3510-8052-B4C04F4E3132", "ABC123", &["52-54-00-AB-CD-EF"]);
    assert_eq!(
        names(&good),
        [
            "uuid:4c4c4544-0042-3510-8052-b4c04f4e3132",
            "serial:acme/x1/abc123",
            "mac:52:54:00:ab:cd:ef"
        ]
    );
    for uuid in [
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
        "not a uuid",
        "",
    ] {
        assert_eq!(names(&inventory(uuid, "ABC123", &[])), ["serial:acme/x1/abc123"], "{uuid}");
    }
    let uuid = "4c4c4544-0042-3510-8052-b4c04f4e3132";
    for serial in ["", " ", "0", "00000000", "To Be Filled By O.E.M.", "Default string", "N/A"] {
        assert_eq!(names(&inventory(uuid, serial, &[])).len(), 1, "{serial}");
    }
    let macs = ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "52:54", "x", "ö"];
    assert_eq!(names(&inventory("", "", &macs)), Vec::<String>::new());
}

#[test]
fn a_disk_that_nobody_can_pull_out_is_an_identifier() {
    let disk = |change: fn(&mut wire::Disk)| {
        let mut disk = wire::Disk {
            model: Some("PM9A3".into()),
            serial: Some("S123".into()),
            ..wire::Disk::default()
        };
        change(&mut disk);
        let inventory = Inventory { disks: vec![disk.clone(), disk], ..Inventory::default() };
        fingerprint(&inventory).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(disk(|_| {}), "disk:pm9a3/s123");
    assert_eq!(disk(|disk| disk.wwid = Some("eui.0025".into())), "disk:eui.0025");
    assert_eq!(disk(|disk| disk.serial = None), "");
    assert_eq!(disk(|disk| disk.model = None), "");
    assert_eq!(disk(|disk| disk.serial = Some("QM00001".into())), "");
    assert_eq!(disk(|disk| disk.serial = Some("0000".into())), "");
    assert_eq!(disk(|disk| disk.removable = true), "");
    assert_eq!(disk(|disk| disk.bus = Some(wire::Bus::Usb)), "");
}

#[test]
fn firmware_may_change_the_byte_order_of_its_uuid() {
    let (old, new) =
        ("4c4c4544-0042-3510-8052-b4c04f4e3132", "44454c4c-4200-1035-8052-b4c04f4e3132");
    let stored = format!("uuid:{old} mac:1");
    assert_eq!(check(&format!("uuid:{new} mac:1"), &[&stored]), "m0");
    assert_eq!(check(&format!("uuid:{new}"), &[&stored]), "m0");
    assert_eq!(check(&format!("uuid:{new} mac:2"), &[&stored]), "m0?");
    let names = |fingerprint: Fingerprint| fingerprint.iter().map(ToString::to_string).collect();
    let both: Vec<String> = names(sought(&seen(&format!("uuid:{old}"))));
    assert_eq!(both, [format!("uuid:{new}"), format!("uuid:{old}")]);
}

#[test]
fn a_uuid_has_two_byte_orders() {
    let swapped = uuid_swapped("4c4c4544-0042-3510-8052-b4c04f4e3132");
    assert_eq!(swapped.as_deref(), Some("44454c4c-4200-1035-8052-b4c04f4e3132"));
    assert_eq!(uuid_swapped("x"), None);
    assert_eq!(uuid_swapped("é-é-é-é-é"), None);
}

fn machines() -> impl Strategy<Value = Vec<Fingerprint>> {
    let identifier = prop::sample::select(vec![
        "uuid:u",
        "uuid:v",
        "serial:s",
        "serial:t",
        "board:b",
        "board:d",
        "chassis:c",
        "mac:1",
        "mac:2",
        "mac:3",
        "disk:a",
        "disk:b",
    ]);
    let machine = prop::collection::btree_set(identifier, 1..6);
    let machine = machine.prop_map(|ids| seen(&ids.into_iter().collect::<Vec<_>>().join(" ")));
    prop::collection::vec(machine, 1..6)
}

fn records(machines: &[Fingerprint], names: &[usize]) -> BTreeMap<MachineId, Fingerprint> {
    let id = |n: usize| -> MachineId { format!("m{n}").parse().unwrap() };
    machines.iter().zip(names).map(|(m, n)| (id(*n), m.clone())).collect()
}

proptest! {
    /// Whoever may be one of two is never taken for one of them.
    #[test]
    fn a_machine_that_has_a_double_is_never_guessed(
        mut machines in machines(), now in machines(), double in any::<prop::sample::Index>(),
    ) {
        let chosen = double.index(machines.len());
        machines.push(machines[chosen].clone());
        let names: Vec<usize> = (0..machines.len()).collect();
        let known = records(&machines, &names);
        let ids: Vec<MachineId> = known.keys().cloned().collect();
        let twins = [&ids[chosen], &ids[ids.len() - 1]];
        match recognise(&now[0], &known) {
            Recognised::Known(id) => prop_assert!(!twins.contains(&&id), "{id} was guessed"),
            // Both or none of them are shown to the person who decides.
            Recognised::Doubtful(ids) => {
                prop_assert_eq!(ids.contains(twins[0]), ids.contains(twins[1]));
            }
            Recognised::New => {}
        }
    }

    /// In which order machines were recorded decides nothing.
    #[test]
    fn the_names_of_the_records_do_not_matter(
        machines in machines(), now in machines(), shift in 0usize..6,
    ) {
        let count = machines.len();
        let names: Vec<usize> = (0..count).collect();
        let turned: Vec<usize> = (0..count).map(|n| (n + shift) % count).collect();
        let turn = |id: &MachineId| -> MachineId {
            let n: usize = id.as_str()[1..].parse().unwrap();
            format!("m{}", turned[n]).parse().unwrap()
        };
        let expected = match recognise(&now[0], &records(&machines, &names)) {
            Recognised::New => Recognised::New,
            Recognised::Known(id) => Recognised::Known(turn(&id)),
            Recognised::Doubtful(ids) => {
                let ids: BTreeSet<_> = ids.iter().map(turn).collect();
                Recognised::Doubtful(ids.into_iter().collect())
            }
        };
        prop_assert_eq!(recognise(&now[0], &records(&machines, &turned)), expected);
    }

    /// In which order a machine names its cards and disks, and how often, decides nothing.
    #[test]
    fn order_and_repetition_of_parts_do_not_matter(
        parts in prop::collection::vec((0u8..5, any::<bool>()), 0..8), turn in 0usize..8,
    ) {
        let inventory = |parts: &[(u8, bool)]| {
            let mut inventory = Inventory::default();
            for (n, is_card) in parts {
                match is_card {
                    true => inventory.nics.push(Nic {
                        mac: format!("52:54:00:00:00:0{n}"), ..Nic::default()
                    }),
                    false => inventory.disks.push(wire::Disk {
                        wwid: Some(format!("eui.000{n}")), ..wire::Disk::default()
                    }),
                }
            }
            inventory
        };
        let mut turned = parts.clone();
        turned.rotate_left(turn.min(parts.len()));
        turned.extend(parts.clone());
        prop_assert_eq!(fingerprint(&inventory(&parts)), fingerprint(&inventory(&turned)));
    }
}
