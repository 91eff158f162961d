//! A unified kernel image: an EFI stub with the kernel, the ramdisk and the command line as
//! further PE sections, made by appending to the stub's file.
//!
//! Format: PE/COFF specification, sections 2 to 5; the names of the sections are those of
//! the UAPI group's UKI specification.

use object::LittleEndian as LE;
use object::endian::{U16, U32};
use object::pe;
use object::pod::{bytes_of, bytes_of_mut, from_bytes, slice_from_bytes};

/// Firmware maps pages of 4 KiB, whatever the stub's own alignment is.
const PAGE_BYTES: u32 = 4096;
/// The most sections that loaders accept.
const SECTIONS_MAX: usize = 96;
/// Firmware counts addresses in an image with 32 bits, some with signed ones.
const IMAGE_BYTES_MAX: u32 = i32::MAX as u32;

const NT_HEADERS_BYTES: usize = size_of::<pe::ImageNtHeaders64>();
const SECTION_BYTES: usize = size_of::<pe::ImageSectionHeader>();

/// One section to append.
#[derive(Clone, Copy, Debug)]
pub struct Section<'a> {
    /// At most 8 bytes, for example `.linux`.
    pub name: &'a str,
    /// What is in it.
    pub content: &'a [u8],
}

/// Why sections cannot be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UkiError {
    /// The file is not what is expected.
    #[error("the stub is no x86-64 EFI program: {0}")]
    NotStub(&'static str),
    /// The stub has the section already, or it was asked for twice.
    #[error("the stub has a section {0} already; use one without a kernel in it")]
    Duplicate(String),
    /// A name is too long.
    #[error("section name {0:?} must have 1 to 8 bytes")]
    Name(String),
    /// The header cannot take that many sections.
    #[error("the stub's header has room for {room} more sections, {wanted} are needed")]
    HeaderRoom {
        /// How many fit.
        room: usize,
        /// How many were asked for.
        wanted: usize,
    },
    /// 2 GiB are reached.
    #[error("the image would have 2 GiB or more; firmware cannot load that")]
    TooLarge,
}

/// Appends sections to an EFI program, in this order, each on a page of its own after the
/// last one. The kernel must come last: it is unpacked in place and needs the space behind.
///
/// The result depends on nothing but the arguments.
pub fn append_sections(stub: &[u8], sections: &[Section<'_>]) -> Result<Vec<u8>, UkiError> {
    let layout = Layout::of(stub)?;
    layout.check_names(sections)?;
    if sections.len() > layout.room {
        return Err(UkiError::HeaderRoom { room: layout.room, wanted: sections.len() });
    }
    let added: usize = sections.iter().map(|section| section.content.len()).sum();
    let mut image = Vec::with_capacity(stub.len() + added + 4096 * sections.len());
    image.extend_from_slice(stub);
    let mut headers = layout.headers;
    let mut address = layout.address_end;
    for (index, section) in sections.iter().enumerate() {
        pad(&mut image, layout.file_alignment)?;
        address = round_up(address, PAGE_BYTES.max(layout.section_alignment))?;
        let start = size_u32(image.len())?;
        image.extend_from_slice(section.content);
        pad(&mut image, layout.file_alignment)?;
        let raw = size_u32(image.len())? - start;
        let header = section_header(section, address, start, raw)?;
        let slot = layout.table_end + index * SECTION_BYTES;
        image[slot..slot + SECTION_BYTES].copy_from_slice(bytes_of(&header));
        address = add(address, size_u32(section.content.len())?)?;
        let optional = &mut headers.optional_header;
        let data = add(optional.size_of_initialized_data.get(LE), raw)?;
        optional.size_of_initialized_data.set(LE, data);
    }
    let count = size_u16(layout.sections.len() + sections.len())?;
    headers.file_header.number_of_sections = U16::new(LE, count);
    let end = round_up(address, layout.section_alignment)?;
    headers.optional_header.size_of_image.set(LE, end);
    headers.optional_header.check_sum.set(LE, 0);
    put(&mut image, layout.headers_at, &headers);
    headers.optional_header.check_sum.set(LE, checksum(&image)?);
    put(&mut image, layout.headers_at, &headers);
    Ok(image)
}

/// What matters of the stub's headers, checked.
struct Layout {
    headers: pe::ImageNtHeaders64,
    headers_at: usize,
    sections: Vec<pe::ImageSectionHeader>,
    /// Where the next entry of the section table goes.
    table_end: usize,
    /// How many more entries fit.
    room: usize,
    address_end: u32,
    section_alignment: u32,
    file_alignment: u32,
}

impl Layout {
    fn of(stub: &[u8]) -> Result<Layout, UkiError> {
        let not = UkiError::NotStub;
        size_u32(stub.len())?;
        let (dos, _) =
            from_bytes::<pe::ImageDosHeader>(stub).map_err(|()| not("it is too short"))?;
        if dos.e_magic.get(LE) != pe::IMAGE_DOS_SIGNATURE {
            return Err(not("it does not begin with MZ"));
        }
        let headers_at = usize::try_from(dos.e_lfanew.get(LE)).map_err(|_| UkiError::TooLarge)?;
        let rest = stub.get(headers_at..).ok_or(not("it is too short"))?;
        let (headers, _) =
            from_bytes::<pe::ImageNtHeaders64>(rest).map_err(|()| not("it is too short"))?;
        check_headers(headers)?;
        let optional = usize::from(headers.file_header.size_of_optional_header.get(LE));
        let table_at = NT_HEADERS_BYTES - size_of::<pe::ImageOptionalHeader64>() + optional;
        let directories = rest.get(NT_HEADERS_BYTES..table_at);
        check_unsigned(headers, directories.ok_or(not("its optional header is too short"))?)?;
        let count = usize::from(headers.file_header.number_of_sections.get(LE));
        let table = &rest[table_at..];
        let (sections, _) = slice_from_bytes::<pe::ImageSectionHeader>(table, count)
            .map_err(|()| not("its section table is cut off"))?;
        let table_end = headers_at + table_at + count * SECTION_BYTES;
        Ok(Layout {
            headers: *headers,
            headers_at,
            sections: sections.to_vec(),
            table_end,
            room: room(stub, headers, sections, table_end),
            address_end: address_end(stub, sections)?,
            section_alignment: headers.optional_header.section_alignment.get(LE),
            file_alignment: headers.optional_header.file_alignment.get(LE),
        })
    }

    fn check_names(&self, sections: &[Section<'_>]) -> Result<(), UkiError> {
        let mut names: Vec<[u8; 8]> = self.sections.iter().map(|section| section.name).collect();
        for section in sections {
            let name = short_name(section.name)?;
            if names.contains(&name) {
                return Err(UkiError::Duplicate(section.name.to_owned()));
            }
            names.push(name);
        }
        Ok(())
    }
}

fn check_headers(headers: &pe::ImageNtHeaders64) -> Result<(), UkiError> {
    let optional = &headers.optional_header;
    let power = |alignment: u32| alignment.is_power_of_two() && (16..=65536).contains(&alignment);
    let wrong = if headers.signature.get(LE) != pe::IMAGE_NT_SIGNATURE {
        "it has no PE signature"
    } else if headers.file_header.machine.get(LE) != pe::IMAGE_FILE_MACHINE_AMD64 {
        "it is for another processor"
    } else if optional.magic.get(LE) != pe::IMAGE_NT_OPTIONAL_HDR64_MAGIC {
        "it is not PE32+"
    } else if optional.subsystem.get(LE) != pe::IMAGE_SUBSYSTEM_EFI_APPLICATION {
        "it is for another system"
    } else if !power(optional.section_alignment.get(LE)) || !power(optional.file_alignment.get(LE))
    {
        "its alignment is not a power of two from 16 to 65536"
    } else {
        return Ok(());
    };
    Err(UkiError::NotStub(wrong))
}

/// A signature would not hold for the result, and stands where sections are appended.
fn check_unsigned(headers: &pe::ImageNtHeaders64, directories: &[u8]) -> Result<(), UkiError> {
    let given = headers.optional_header.number_of_rva_and_sizes.get(LE);
    let fitting = directories.len() / size_of::<pe::ImageDataDirectory>();
    let count = usize::try_from(given).map_or(fitting, |given| given.min(fitting));
    let (directories, _) = slice_from_bytes::<pe::ImageDataDirectory>(directories, count)
        .map_err(|()| UkiError::NotStub("its optional header is too short"))?;
    match directories.get(pe::IMAGE_DIRECTORY_ENTRY_SECURITY) {
        Some(signature) if signature.size.get(LE) != 0 => {
            Err(UkiError::NotStub("it is signed; take the unsigned one and sign the result"))
        }
        _ => Ok(()),
    }
}

/// How many entries fit between the section table and what follows it.
fn room(
    stub: &[u8],
    headers: &pe::ImageNtHeaders64,
    sections: &[pe::ImageSectionHeader],
    table_end: usize,
) -> usize {
    let starts = sections.iter().map(|section| section.pointer_to_raw_data.get(LE));
    let first = starts.filter(|&start| start != 0).min().unwrap_or(u32::MAX);
    let end = first.min(headers.optional_header.size_of_headers.get(LE));
    let end = usize::try_from(end).unwrap_or(usize::MAX).min(stub.len());
    let gap = stub.get(table_end..end).unwrap_or_default();
    let free = gap.iter().take_while(|&&byte| byte == 0).count();
    (free / SECTION_BYTES).min(SECTIONS_MAX.saturating_sub(sections.len()))
}

/// The first address after all sections; also checks that they are in the file.
fn address_end(stub: &[u8], sections: &[pe::ImageSectionHeader]) -> Result<u32, UkiError> {
    let mut end = PAGE_BYTES;
    for section in sections {
        let raw = section.size_of_raw_data.get(LE);
        let raw_end = add(section.pointer_to_raw_data.get(LE), raw)?;
        if raw_end > size_u32(stub.len())? {
            return Err(UkiError::NotStub("a section is cut off"));
        }
        let size = raw.max(section.virtual_size.get(LE));
        end = end.max(add(section.virtual_address.get(LE), size)?);
    }
    Ok(end)
}

fn section_header(
    section: &Section<'_>,
    address: u32,
    start: u32,
    raw: u32,
) -> Result<pe::ImageSectionHeader, UkiError> {
    let flags = pe::IMAGE_SCN_CNT_INITIALIZED_DATA | pe::IMAGE_SCN_MEM_READ;
    Ok(pe::ImageSectionHeader {
        name: short_name(section.name)?,
        virtual_size: U32::new(LE, size_u32(section.content.len())?),
        virtual_address: U32::new(LE, address),
        size_of_raw_data: U32::new(LE, raw),
        pointer_to_raw_data: U32::new(LE, start),
        pointer_to_relocations: U32::new(LE, 0),
        pointer_to_linenumbers: U32::new(LE, 0),
        number_of_relocations: U16::new(LE, 0),
        number_of_linenumbers: U16::new(LE, 0),
        characteristics: U32::new(LE, flags),
    })
}

fn short_name(name: &str) -> Result<[u8; 8], UkiError> {
    let mut short = [0; 8];
    match short.get_mut(..name.len()) {
        Some(place) if !name.is_empty() => place.copy_from_slice(name.as_bytes()),
        _ => return Err(UkiError::Name(name.to_owned())),
    }
    Ok(short)
}

/// The PE checksum: the sum of all 16-bit words with the carries added back, plus the length.
/// The field itself must be zero.
fn checksum(image: &[u8]) -> Result<u32, UkiError> {
    // Adding carries back makes sums of wider words come out the same.
    let (words, rest) = image.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]);
    let mut sum: u64 = words.map(|&word| u64::from(u32::from_le_bytes(word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u32::try_from(sum).map_err(|_| UkiError::TooLarge)?;
    add(sum, size_u32(image.len())?)
}

fn put(image: &mut [u8], at: usize, headers: &pe::ImageNtHeaders64) {
    let mut headers = *headers;
    image[at..at + NT_HEADERS_BYTES].copy_from_slice(bytes_of_mut(&mut headers));
}

fn pad(image: &mut Vec<u8>, alignment: u32) -> Result<(), UkiError> {
    let end = round_up(size_u32(image.len())?, alignment)?;
    image.resize(usize::try_from(end).map_err(|_| UkiError::TooLarge)?, 0);
    Ok(())
}

fn round_up(value: u32, alignment: u32) -> Result<u32, UkiError> {
    limit(value.checked_next_multiple_of(alignment))
}

fn add(a: u32, b: u32) -> Result<u32, UkiError> {
    limit(a.checked_add(b))
}

fn limit(value: Option<u32>) -> Result<u32, UkiError> {
    value.filter(|&value| value < IMAGE_BYTES_MAX).ok_or(UkiError::TooLarge)
}

fn size_u32(size: usize) -> Result<u32, UkiError> {
    limit(u32::try_from(size).ok())
}

fn size_u16(size: usize) -> Result<u16, UkiError> {
    u16::try_from(size).map_err(|_| UkiError::TooLarge)
}

#[cfg(test)]
mod tests;
