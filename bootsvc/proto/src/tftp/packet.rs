//! The bytes of TFTP messages. Any bytes are read without panic.

/// Longest request (RFC 2347).
const REQUEST_LEN_MAX: usize = 512;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// It wants a file.
    Read(ReadRequest),
    /// It wants to send one.
    Write,
    /// It has all blocks up to this number.
    Ack(u16),
    /// It gives up, or refuses the options.
    Error(u16),
    /// What only a server sends.
    Stray,
}

/// A request for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The name as it was sent.
    pub name: String,
    /// How the file is to be sent.
    pub mode: Mode,
    /// Options that it understands, absent where absent or nonsense.
    pub blksize: Option<u16>,
    /// It asks for the size of the file.
    pub tsize: bool,
    /// Seconds until a block is sent again, 1 to 255.
    pub timeout: Option<u8>,
    /// Blocks per acknowledgement, from 1.
    pub windowsize: Option<u16>,
}

/// How a file is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As it is.
    Octet,
    /// With translated line ends, or as mail; not served.
    Other,
}

/// Numbers of errors that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// See the text.
    Other,
    /// No such file.
    NotFound,
    /// Not allowed.
    Access,
    /// Not a TFTP message.
    Illegal,
    /// No such transfer.
    UnknownTransfer,
}

/// Why bytes are not a TFTP message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than any message.
    #[error("{0} bytes are too short for a TFTP message")]
    Short(usize),
    /// No such operation.
    #[error("TFTP knows no operation {0}")]
    Operation(u16),
    /// The strings of a request are missing or too long.
    #[error("the TFTP request is broken: its name or mode is missing or too long")]
    Request,
}

impl Packet {
    /// Reads what came from a client.
    pub fn decode(bytes: &[u8]) -> Result<Packet, PacketError> {
        let Some((head, rest)) = bytes.split_first_chunk::<2>() else {
            return Err(PacketError::Short(bytes.len()));
        };
        let number = || rest.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
        match u16::from_be_bytes(*head) {
            1 => ReadRequest::decode(rest).map(Packet::Read),
            2 => Ok(Packet::Write),
            4 => number().map(Packet::Ack).ok_or(PacketError::Short(bytes.len())),
            // Some clients send nothing after the operation.
            5 => Ok(Packet::Error(number().unwrap_or(0))),
            3 | 6 => Ok(Packet::Stray),
            other => Err(PacketError::Operation(other)),
        }
    }
}

impl ReadRequest {
    fn decode(bytes: &[u8]) -> Result<ReadRequest, PacketError> {
        if bytes.len() > REQUEST_LEN_MAX {
            return Err(PacketError::Request);
        }
        let mut strings = strings(bytes);
        let (Some(name), Some(mode)) = (strings.next(), strings.next()) else {
            return Err(PacketError::Request);
        };
        let octet = mode.eq_ignore_ascii_case(b"octet");
        let mut request = ReadRequest {
            name: String::from_utf8_lossy(name).into_owned(),
            mode: if octet { Mode::Octet } else { Mode::Other },
            blksize: None,
            tsize: false,
            timeout: None,
            windowsize: None,
        };
        while let (Some(option), Some(value)) = (strings.next(), strings.next()) {
            request.option(option, value);
        }
        Ok(request)
    }

    /// Takes one option; what is unknown or out of range is as if not sent.
    fn option(&mut self, option: &[u8], value: &[u8]) {
        let number = str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok());
        let Some(number) = number else { return };
        match option.to_ascii_lowercase().as_slice() {
            b"blksize" => self.blksize = u16::try_from(number).ok().filter(|n| *n >= 8),
            b"tsize" => self.tsize = true,
            b"timeout" => self.timeout = u8::try_from(number).ok().filter(|n| *n >= 1),
            b"windowsize" => self.windowsize = u16::try_from(number).ok().filter(|n| *n >= 1),
            _ => {}
        }
    }
}

/// The zero-terminated strings in `bytes`; one without its zero is not one.
fn strings(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        let string = &bytes[..end];
        bytes = &bytes[end + 1..];
        Some(string)
    })
}

/// The name of a file as we know it: `\` counts as `/`, slashes at the start
/// and repeated ones as nothing.
pub fn clean_name(name: &str) -> String {
    let parts = name.split(['/', '\\']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("/")
}

/// An OACK with the given options.
pub(super) fn oack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut out = vec![0, 6];
    for (name, value) in options {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(value.to_string().as_bytes());
        out.push(0);
    }
    out
}

/// A DATA block, into `out`.
pub(super) fn data(out: &mut Vec<u8>, number: u16, bytes: &[u8]) {
    out.extend_from_slice(&[0, 3]);
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// An ERROR. `text` must name nothing of this machine.
pub(super) fn error(code: ErrorCode, text: &str) -> Vec<u8> {
    let number: u8 = match code {
        ErrorCode::Other => 0,
        ErrorCode::NotFound => 1,
        ErrorCode::Access => 2,
        ErrorCode::Illegal => 4,
        ErrorCode::UnknownTransfer => 5,
    };
    let mut out = vec![0, 5, 0, number];
    out.extend_from_slice(text.as_bytes());
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q25_backslashes_and_leading_slashes_are_accepted() {
        for name in ["ingot.efi", "/ingot.efi", "\\ingot.efi", "//ingot.efi"] {
            assert_eq!(clean_name(name), "ingot.efi");
        }
        assert_eq!(clean_name("\\a\\b//c"), "a/b/c");
    }

    #[test]
    fn options_out_of_range_are_as_if_not_sent() {
        let bytes = b"\0\x01f\0OCTET\0blksize\x007\0timeout\x00256\0windowsize\x000\0tsize\0x\0";
        let Ok(Packet::Read(request)) = Packet::decode(bytes) else { panic!("a request") };
        assert_eq!(request.mode, Mode::Octet);
        assert_eq!((request.blksize, request.timeout, request.windowsize), (None, None, None));
        assert!(!request.tsize);
    }

    #[test]
    fn requests_without_name_or_mode_or_too_long_are_refused() {
        let long = [b"\0\x01".as_slice(), &[b'a'; 600], b"\0octet\0"].concat();
        for bytes in [b"\0\x01".as_slice(), b"\0\x01f", b"\0\x01f\0", b"\0\x01f\0oct", &long] {
            assert_eq!(Packet::decode(bytes), Err(PacketError::Request), "{bytes:?}");
        }
    }
}
