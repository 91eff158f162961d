//! The `Range` header (RFC 9110, section 14.2), single ranges only.

use std::ops::Range;

/// What a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// These bytes.
    Part(Range<u64>),
    /// Bytes that are not there.
    Outside,
}

/// Reads the header's value for a resource of `len` bytes.
///
/// A unit other than bytes, several ranges, or anything that is not a range
/// means that the header is ignored, as the RFC allows: who asks for several
/// ranges gets everything once instead of an answer in parts.
pub fn wanted(value: Option<&str>, len: u64) -> Wanted {
    let Some((unit, spec)) = value.and_then(|value| value.split_once('=')) else {
        return Wanted::All;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::All;
    }
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::All };
    match (number(first), number(last)) {
        (Ok(None), Ok(Some(suffix))) => match suffix.min(len) {
            0 => Wanted::Outside,
            some => Wanted::Part(len - some..len),
        },
        (Ok(Some(first)), Ok(last)) => {
            if last.is_some_and(|last| last < first) {
                return Wanted::All;
            }
            if first >= len {
                return Wanted::Outside;
            }
            let end = last.map_or(len, |last| last.saturating_add(1).min(len));
            Wanted::Part(first..end)
        }
        _ => Wanted::All,
    }
}

/// Digits, or nothing. What is larger than 64 bits can say is past every end.
fn number(text: &str) -> Result<Option<u64>, ()> {
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true if text.is_empty() => Ok(None),
        true => Ok(Some(text.parse().unwrap_or(u64::MAX))),
        false => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_ranges_are_cut_to_what_is_there() {
        for (value, range) in [
            ("bytes=0-9", 0..10),
            ("bytes=0-0", 0..1),
            ("bytes=90-200", 90..100),
            ("bytes=90-", 90..100),
            ("bytes=-10", 90..100),
            ("bytes=-1000", 0..100),
            ("Bytes= 5-6 ", 5..7),
            ("bytes=99-99999999999999999999999999", 99..100),
            (" bytes=2-5", 2..6),
        ] {
            assert_eq!(wanted(Some(value), 100), Wanted::Part(range), "{value}");
        }
    }

    #[test]
    fn what_is_not_there_is_outside() {
        for value in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(wanted(Some(value), 100), Wanted::Outside, "{value}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Outside);
    }

    #[test]
    fn everything_else_is_ignored() {
        let many = ["bytes=0-1,3-4", "bytes=0-1, 3-4", "bytes=5-2", "bytes=-", "bytes=", "bytes"];
        let odd = ["lines=0-1", "bytes=a-b", "bytes=1-2-3", "", "bytes=+1-2", "bytes=0x1-2"];
        for value in many.into_iter().chain(odd) {
            assert_eq!(wanted(Some(value), 100), Wanted::All, "{value}");
        }
        assert_eq!(wanted(None, 100), Wanted::All);
    }
}
