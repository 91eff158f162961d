//! What of the SMBIOS tables the kernel does not show by itself (DMTF DSP0134).
//!
//! Of the crates that read these tables, one reads through unchecked pointers and the
//! other knows everything and is a hundred times as long.

/// Longest tables that are read, in bytes.
pub const BYTES_MAX: u64 = 1 << 20;

/// What is of interest here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Smbios {
    /// What kind of chassis the machine is in.
    pub chassis_kind: Option<&'static str>,
    /// Serial number of the enclosure around the chassis of a blade.
    pub enclosure_serial: Option<String>,
    /// Where in the chassis the main board is.
    pub slot: Option<String>,
    /// The sum of the memory modules, in bytes; none where no module tells its size.
    pub fitted_bytes: Option<u64>,
}

const BASE_BOARD: u8 = 2;
const CHASSIS: u8 = 3;
const MEMORY_DEVICE: u8 = 17;
const END: u8 = 127;

/// Chassis that hold blades, among [`KINDS`].
const BLADE_ENCLOSURE: u8 = 0x1d;

/// Section 7.4.1; "other" and "unknown" say nothing.
const KINDS: [(u8, &str); 27] = [
    (0x03, "desktop"),
    (0x04, "low-profile-desktop"),
    (0x05, "pizza-box"),
    (0x06, "mini-tower"),
    (0x07, "tower"),
    (0x08, "portable"),
    (0x09, "laptop"),
    (0x0a, "notebook"),
    (0x0b, "hand-held"),
    (0x0d, "all-in-one"),
    (0x0e, "sub-notebook"),
    (0x0f, "space-saving"),
    (0x10, "lunch-box"),
    (0x11, "main-server"),
    (0x12, "expansion"),
    (0x15, "peripheral"),
    (0x16, "raid"),
    (0x17, "rack-mount"),
    (0x18, "sealed-case"),
    (0x19, "multi-system"),
    (0x1c, "blade"),
    (BLADE_ENCLOSURE, "blade-enclosure"),
    (0x1e, "tablet"),
    (0x1f, "convertible"),
    (0x22, "embedded"),
    (0x23, "mini-pc"),
    (0x24, "stick-pc"),
];

/// One structure: its formatted part and the texts behind it.
struct Structure<'a> {
    kind: u8,
    formatted: &'a [u8],
    texts: &'a [u8],
}

/// Reads the tables, as far as they are sound.
pub fn read(tables: &[u8]) -> Smbios {
    let mut found = Smbios::default();
    for structure in Structures(tables) {
        match structure.kind {
            BASE_BOARD => found.slot = found.slot.or_else(|| structure.text(0x0a)),
            CHASSIS => {
                // The highest bit says that the chassis has a lock.
                let kind = structure.byte(0x05).map(|kind| kind & 0x7f);
                if kind == Some(BLADE_ENCLOSURE) {
                    found.enclosure_serial =
                        found.enclosure_serial.or_else(|| structure.text(0x07));
                }
                let name = KINDS.iter().find(|(code, _)| Some(*code) == kind).map(|(_, n)| *n);
                // The machine's own comes first, what is around it later.
                found.chassis_kind = found.chassis_kind.or(name);
            }
            MEMORY_DEVICE => {
                if let Some(bytes) = module_bytes(&structure) {
                    found.fitted_bytes =
                        Some(found.fitted_bytes.unwrap_or(0).saturating_add(bytes));
                }
            }
            _ => {}
        }
    }
    found.fitted_bytes = found.fitted_bytes.filter(|&bytes| bytes > 0);
    found
}

/// Section 7.18; none where the slot does not tell.
fn module_bytes(structure: &Structure<'_>) -> Option<u64> {
    let word = |at| Some(u16::from_le_bytes([structure.byte(at)?, structure.byte(at + 1)?]));
    match word(0x0c)? {
        0xffff => None,
        0x7fff => {
            let mib = u32::from(word(0x1c)?) | u32::from(word(0x1e)?) << 16;
            Some(u64::from(mib & 0x7fff_ffff) << 20)
        }
        size if size & 0x8000 != 0 => Some(u64::from(size & 0x7fff) << 10),
        size => Some(u64::from(size) << 20),
    }
}

/// The structures of a table, up to the first that is not whole.
struct Structures<'a>(&'a [u8]);

impl<'a> Iterator for Structures<'a> {
    type Item = Structure<'a>;

    fn next(&mut self) -> Option<Structure<'a>> {
        let &[kind, length, ..] = self.0 else { return None };
        let length = usize::from(length);
        if length < 4 || kind == END {
            return None;
        }
        let (formatted, behind) = self.0.split_at_checked(length)?;
        let end = behind.windows(2).position(|pair| pair == [0, 0])?;
        let (texts, rest) = behind.split_at_checked(end + 2)?;
        self.0 = rest;
        Some(Structure { kind, formatted, texts })
    }
}

impl Structure<'_> {
    fn byte(&self, at: usize) -> Option<u8> {
        self.formatted.get(at).copied()
    }

    /// The text whose number stands at an offset.
    fn text(&self, at: usize) -> Option<String> {
        let number = usize::from(self.byte(at)?).checked_sub(1)?;
        let bytes = self.texts.split(|&byte| byte == 0).nth(number)?;
        let text = super::short(String::from_utf8_lossy(bytes).trim());
        (!super::is_placeholder(&text)).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn structure(kind: u8, fields: &[(usize, &[u8])], length: usize, texts: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0; length];
        (bytes[0], bytes[1]) = (kind, u8::try_from(length).unwrap());
        for (at, value) in fields {
            bytes[*at..at + value.len()].copy_from_slice(value);
        }
        for text in texts {
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        bytes.extend(if texts.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }

    fn blade() -> Vec<u8> {
        let memory = |size: u16, more: u32| {
            let fields: [(usize, &[u8]); 2] =
                [(0x0c, &size.to_le_bytes()), (0x1c, &more.to_le_bytes())];
            structure(MEMORY_DEVICE, &fields, 0x22, &["DIMM A1"])
        };
        [
            structure(0, &[], 0x18, &["Dell Inc."]),
            structure(BASE_BOARD, &[(0x0a, &[2])], 0x0f, &["Dell Inc.", "Slot 07"]),
            structure(CHASSIS, &[(0x05, &[0x9c]), (0x07, &[1])], 0x15, &["BLADE1"]),
            structure(CHASSIS, &[(0x05, &[0x1d]), (0x07, &[1])], 0x15, &["ENC9"]),
            memory(0x7fff, 32 << 10),
            memory(16 << 10, 0),
            memory(0x8000 | 512, 0),
            memory(0, 0),
            memory(0xffff, 0),
            structure(END, &[], 4, &[]),
            structure(BASE_BOARD, &[(0x0a, &[1])], 0x0f, &["behind the end"]),
        ]
        .concat()
    }

    #[test]
    fn a_blade_tells_its_slot_enclosure_and_modules() {
        let expected = Smbios {
            chassis_kind: Some("blade"),
            enclosure_serial: Some("ENC9".into()),
            slot: Some("Slot 07".into()),
            fitted_bytes: Some((48 << 30) + (512 << 10)),
        };
        assert_eq!(read(&blade()), expected);
    }

    #[test]
    fn what_is_not_said_is_not_reported() {
        let silent = [
            structure(BASE_BOARD, &[(0x0a, &[0])], 0x0f, &[]),
            structure(BASE_BOARD, &[(0x0a, &[9])], 0x0f, &["x"]),
            structure(BASE_BOARD, &[(0x0a, &[1])], 0x0f, &["Not Specified"]),
            structure(BASE_BOARD, &[], 8, &["too old to have one"]),
            structure(CHASSIS, &[(0x05, &[2])], 0x15, &[]),
            structure(MEMORY_DEVICE, &[], 0x22, &[]),
        ];
        assert_eq!(read(&silent.concat()), Smbios::default());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..400, cut in 0usize..400,
        ) {
            read(&bytes);
            let mut tables = blade();
            tables.truncate(cut);
            read(&tables);
            let mut tables = blade();
            let at = at.min(tables.len());
            tables.splice(at.., bytes);
            read(&tables);
        }
    }
}
