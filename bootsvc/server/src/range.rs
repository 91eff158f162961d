//! `Range` of HTTP requests (RFC 9110 §14).

use std::ops::Range;

/// What part of a file is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// All: no range, several, or one that makes no sense.
    Whole,
    /// These bytes.
    Range(Range<usize>),
    /// A range beyond the end.
    Beyond,
}

/// The part that the value of a `Range` header means for a file of `len` bytes.
pub(crate) fn part(header: Option<&str>, len: usize) -> Part {
    let spec = header.and_then(|text| text.trim().strip_prefix("bytes="));
    let Some((first, last)) = spec.and_then(|spec| spec.trim().split_once('-')) else {
        return Part::Whole;
    };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        // Too many digits are beyond any end.
        true => Some(text.parse::<usize>().unwrap_or(usize::MAX)),
        false => None,
    };
    let range = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Part::Whole,
        (true, false) => number(last).map(|count| len.saturating_sub(count)..len),
        (false, true) => number(first).map(|first| first..len),
        (false, false) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => {
                Some(first..last.saturating_add(1).min(len))
            }
            _ => None,
        },
    };
    match range {
        None => Part::Whole,
        Some(range) if range.start >= len || range.is_empty() => Part::Beyond,
        Some(range) => Part::Range(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (header, expected) in [
            ("bytes=0-0", Part::Range(0..1)),
            ("bytes=2-5", Part::Range(2..6)),
            ("bytes=2-", Part::Range(2..10)),
            ("bytes=-3", Part::Range(7..10)),
            ("bytes=-99", Part::Range(0..10)),
            ("bytes=0-99999999999999999999999", Part::Range(0..10)),
            ("bytes=10-", Part::Beyond),
            ("bytes=99999999999999999999999-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=5-2", Part::Whole),
            ("bytes=0-1,4-5", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("items=0-1", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 10), expected, "{header}");
        }
        assert_eq!(part(None, 10), Part::Whole);
        assert_eq!(part(Some("bytes=0-"), 0), Part::Beyond);
    }
}
