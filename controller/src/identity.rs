//! Which machine is this? Recognition by weighted identifiers, so that a
//! machine stays itself when a card or a disk is swapped, and two machines
//! that share an identifier stay two. Doubt is told, never guessed away.
//!
//! The rules, with their reasons, are in `docs/controller.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use wire::{Inventory, MachineId};

/// What kind of identifier it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SMBIOS UUID of the system.
    Uuid,
    /// Serial number of the system, with its manufacturer and model.
    Serial,
    /// Serial number of the main board, with the manufacturer.
    Board,
    /// Serial number of the chassis, with the manufacturer.
    Chassis,
    /// Permanent hardware address of a network card.
    Mac,
    /// World-wide id or serial number of a disk.
    Disk,
}

/// The kinds of which a machine has one, and what each weighs, for when two
/// say the same and against when they differ.
const SINGLE: [(Kind, i32); 4] =
    [(Kind::Uuid, 4), (Kind::Serial, 4), (Kind::Board, 2), (Kind::Chassis, 2)];

/// What a shared network card weighs: less than a UUID, as cards move.
const MAC_SHARED: i32 = 3;

/// What it weighs that both have cards, and none in common: as much as a UUID,
/// so that a UUID alone, which vendors have given out twice, decides nothing.
const MAC_DISJOINT: i32 = 4;

/// What a shared disk weighs: too little to decide, as disks move, and enough for doubt.
const DISK_SHARED: i32 = 1;

/// What has to speak for a machine for it to be that one; what is less, and not against
/// it, is doubt.
const ENOUGH: i32 = 2;

/// Most disks that a machine is recognised by, the first in their order.
const DISKS_MAX: usize = 64;

/// UUIDs that boards are sold with by the thousand.
const UUIDS_BAD: [&str; 3] = [
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
];

/// Words that stand where nobody wrote a serial number.
const SERIALS_BAD: [&str; 11] = [
    "none",
    "n/a",
    "unknown",
    "default string",
    "not specified",
    "not applicable",
    "not available",
    "to be filled by o.e.m.",
    "system serial number",
    "123456789",
    "0123456789",
];

/// One thing that a machine is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identifier {
    /// What kind it is.
    pub kind: Kind,
    /// Its value, in one form however it was written.
    pub value: String,
}

/// Everything that a machine is recognised by.
pub type Fingerprint = BTreeSet<Identifier>;

/// Which machine it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recognised {
    /// None that is known.
    New,
    /// This one.
    Known(MachineId),
    /// It may be one of these, or none.
    Doubtful(Vec<MachineId>),
}

/// The identifiers of an inventory, without those that identify nothing.
pub fn fingerprint(inventory: &Inventory) -> Fingerprint {
    let system = &inventory.system;
    let maker = clean(&system.manufacturer).unwrap_or_default();
    let product = clean(&system.product).unwrap_or_default();
    let serial = |text: &Option<String>| clean(text).filter(|serial| is_serial(serial));
    let single = [
        (Kind::Uuid, clean(&system.uuid).filter(|uuid| is_uuid(uuid))),
        (Kind::Serial, serial(&system.serial).map(|serial| format!("{maker}/{product}/{serial}"))),
        (Kind::Board, serial(&system.board_serial).map(|serial| format!("{maker}/{serial}"))),
        (Kind::Chassis, serial(&system.chassis_serial).map(|serial| format!("{maker}/{serial}"))),
    ];
    let single = single.into_iter().filter_map(|(kind, value)| Some((kind, value?)));
    let macs = inventory.nics.iter().filter_map(|nic| mac(&nic.mac)).map(|mac| (Kind::Mac, mac));
    let disks: BTreeSet<_> = inventory.disks.iter().filter_map(disk).collect();
    let disks = disks.into_iter().take(DISKS_MAX).map(|disk| (Kind::Disk, disk));
    single.chain(macs).chain(disks).map(|(kind, value)| Identifier { kind, value }).collect()
}

/// Which disk it is. What can be pulled out without a tool is no part of the machine.
fn disk(disk: &wire::Disk) -> Option<String> {
    let fixed = !disk.removable && disk.bus != Some(wire::Bus::Usb);
    let serial = |text: &Option<String>| clean(text).filter(|serial| is_serial(serial));
    let told = serial(&disk.wwid).or_else(|| {
        // QM00001 is what an emulator calls its first disk, for everybody.
        let serial = serial(&disk.serial).filter(|serial| !serial.starts_with("qm0000"))?;
        Some(format!("{}/{serial}", clean(&disk.model)?))
    });
    told.filter(|_| fixed)
}

/// The identifiers by which to look for known machines: those of a fingerprint, and its
/// UUID in the other byte order, in which the same machine may have told it before.
pub(crate) fn sought(fingerprint: &Fingerprint) -> Fingerprint {
    let swapped = of(fingerprint, Kind::Uuid).filter_map(uuid_swapped);
    let swapped = swapped.map(|value| Identifier { kind: Kind::Uuid, value });
    fingerprint.iter().cloned().chain(swapped).collect()
}

/// Holds what was seen against machines that share an identifier with it.
pub fn recognise(seen: &Fingerprint, known: &BTreeMap<MachineId, Fingerprint>) -> Recognised {
    // All identifiers the same: it has been in doubt before, and is no longer.
    let same: Vec<_> = known.iter().filter(|(_, stored)| *stored == seen).collect();
    if let [(id, _)] = same[..] {
        return Recognised::Known(id.clone());
    }
    let scored: Vec<_> =
        known.iter().filter_map(|(id, stored)| Some((id, score(seen, stored)?))).collect();
    let for_it: Vec<_> = scored.iter().filter(|(_, score)| *score >= ENOUGH).collect();
    let undecided = scored.iter().filter(|(_, score)| *score >= 0);
    match for_it[..] {
        [(id, _)] => Recognised::Known((*id).clone()),
        _ => match undecided.map(|(id, _)| (*id).clone()).collect::<Vec<_>>() {
            ids if ids.is_empty() => Recognised::New,
            ids => Recognised::Doubtful(ids),
        },
    }
}

/// How much speaks for two fingerprints being of one machine; none where they
/// share nothing.
fn score(seen: &Fingerprint, stored: &Fingerprint) -> Option<i32> {
    sought(seen).intersection(stored).next()?;
    let mut score = 0;
    for (kind, weight) in SINGLE {
        if let (Some(seen), Some(stored)) = (of(seen, kind).next(), of(stored, kind).next()) {
            score += if same(kind, seen, stored) { weight } else { -weight };
        }
    }
    let cards: BTreeSet<_> = of(seen, Kind::Mac).collect();
    let stored_cards: BTreeSet<_> = of(stored, Kind::Mac).collect();
    if !cards.is_disjoint(&stored_cards) {
        score += MAC_SHARED;
    } else if !cards.is_empty() && !stored_cards.is_empty() {
        score -= MAC_DISJOINT;
    }
    let disks: BTreeSet<_> = of(seen, Kind::Disk).collect();
    if of(stored, Kind::Disk).any(|disk| disks.contains(disk)) {
        score += DISK_SHARED;
    }
    Some(score)
}

fn same(kind: Kind, seen: &str, stored: &str) -> bool {
    seen == stored || kind == Kind::Uuid && uuid_swapped(seen).as_deref() == Some(stored)
}

fn of(fingerprint: &Fingerprint, kind: Kind) -> impl Iterator<Item = &str> {
    fingerprint.iter().filter(move |id| id.kind == kind).map(|id| id.value.as_str())
}

/// A UUID in the byte order of the other convention: firmware older than
/// SMBIOS 2.6, and some DHCP clients, write its first three groups reversed.
pub fn uuid_swapped(uuid: &str) -> Option<String> {
    let groups: Vec<&str> = uuid.split('-').collect();
    let [a, b, c, d, e] = groups[..] else { return None };
    let reversed = |group: &str| -> Option<String> {
        let mut bytes = hex_pairs(group)?;
        bytes.reverse();
        Some(bytes.concat())
    };
    Some(format!("{}-{}-{}-{d}-{e}", reversed(a)?, reversed(b)?, reversed(c)?))
}

fn hex_pairs(text: &str) -> Option<Vec<&str>> {
    let ok = text.len().is_multiple_of(2) && text.bytes().all(|b| b.is_ascii_hexdigit());
    ok.then(|| (0..text.len()).step_by(2).map(|i| &text[i..i + 2]).collect())
}

fn clean(text: &Option<String>) -> Option<String> {
    let text = text.as_deref()?.trim().to_lowercase();
    (!text.is_empty()).then_some(text)
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let digits = text.replace('-', "");
    // One byte sixteen times over: all zero, all FF, all FE.
    let varied = hex_pairs(&digits).is_some_and(|pairs| BTreeSet::from_iter(pairs).len() > 1);
    groups == [8, 4, 4, 4, 12] && varied && !UUIDS_BAD.contains(&text)
}

fn is_serial(text: &str) -> bool {
    let first = text.chars().next();
    text.len() > 2
        && text.chars().any(|c| Some(c) != first)
        && !text.contains("o.e.m")
        && !SERIALS_BAD.contains(&text)
}

/// A hardware address in lower case with colons, unless it cannot be one
/// card's own: all zero, or a group address.
pub fn mac(text: &str) -> Option<String> {
    let digits = text.trim().to_lowercase().replace([':', '-'], "");
    let pairs = hex_pairs(&digits)?;
    let first = u8::from_str_radix(pairs.first()?, 16).ok()?;
    let own = pairs.len() == 6 && first & 1 == 0 && pairs.iter().any(|pair| *pair != "00");
    own.then(|| pairs.join(":"))
}

impl Kind {
    /// Its name in the database and in lists.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Uuid => "uuid",
            Kind::Serial => "serial",
            Kind::Board => "board",
            Kind::Chassis => "chassis",
            Kind::Mac => "mac",
            Kind::Disk => "disk",
        }
    }

    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Kind> {
        use Kind::{Board, Chassis, Disk, Mac, Serial, Uuid};
        let kinds = [Uuid, Serial, Board, Chassis, Mac, Disk];
        kinds.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.value)
    }
}

#[cfg(test)]
mod tests;
