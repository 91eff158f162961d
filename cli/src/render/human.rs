//! Numbers and times for people. JSON never uses these: it has bytes,
//! milliseconds and RFC 3339 times.

use std::time::Duration;

use jiff::Timestamp;

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number of bytes: `512 B`, `1.5 KiB`, `64.0 MiB`.
pub fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut divisor = 1_u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1024 {
        unit += 1;
        divisor *= 1024;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = u128::from(bytes) * 10 / u128::from(divisor);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A rate, given what was moved and how long it took.
pub fn rate(bytes: u64, elapsed: Duration) -> String {
    let millis = elapsed.as_millis().max(1);
    let per_second = u128::from(bytes) * 1000 / millis;
    format!("{}/s", size(u64::try_from(per_second).unwrap_or(u64::MAX)))
}

/// How long something took: `12 ms`, `3.4 s`, `2 min 5 s`, `1 h 3 min`.
pub fn duration(elapsed: Duration) -> String {
    let millis = elapsed.as_millis();
    let secs = elapsed.as_secs();
    match secs {
        0 => format!("{millis} ms"),
        1..60 => format!("{secs}.{} s", (millis % 1000) / 100),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        _ => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
    }
}

/// When something happened, seen from now: `just now`, `3 min ago`, `2 days ago`;
/// the date for what is older than a month.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let secs = now.as_second().saturating_sub(then.as_second());
    match secs {
        i64::MIN..=-60 => then.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        -59..5 => "just now".to_owned(),
        5..60 => format!("{secs} s ago"),
        60..3600 => format!("{} min ago", secs / 60),
        3600..86_400 => format!("{} h ago", secs / 3600),
        86_400..2_678_400 => format!("{} ago", count(secs.unsigned_abs() / 86_400, "day")),
        _ => then.strftime("%Y-%m-%d").to_string(),
    }
}

/// [`ago`] of milliseconds since 1970; far-off values are clamped.
pub fn ago_ms(then_ms: u64, now: Timestamp) -> String {
    let then = i64::try_from(then_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    ago(then.unwrap_or(Timestamp::MAX), now)
}

/// So many things: `1 pack`, `3 packs`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// How much more one is than the other: `2.3:1`; nothing is as much as nothing.
pub fn ratio(more: u64, less: u64) -> String {
    let (more, less) = (u128::from(more), u128::from(less));
    let tenths = (more * 10 + less / 2).checked_div(less).unwrap_or(10);
    format!("{}.{}:1", tenths / 10, tenths % 10)
}

/// Text from elsewhere, with nothing in it that a terminal would obey.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => printable.extend(character.escape_default()),
            false => printable.push(character),
        }
    }
    printable
}

/// A share in percent, rounded down; an empty whole is complete.
pub fn percent(part: u64, whole: u64) -> u64 {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole)).unwrap_or(100);
    u64::try_from(percent).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well_at_every_edge() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1 << 20, "1.0 MiB"),
            ((2 << 30) - 1, "1.9 GiB"),
            (2 << 30, "2.0 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_and_rates_read_well() {
        for (millis, text) in
            [(0, "0 ms"), (999, "999 ms"), (3450, "3.4 s"), (125_000, "2 min 5 s")]
        {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration(Duration::from_secs(3780)), "1 h 3 min");
        assert_eq!(rate(10 << 20, Duration::from_secs(2)), "5.0 MiB/s");
        assert_eq!(rate(1, Duration::ZERO), "1000 B/s");
    }

    #[test]
    fn times_are_relative_until_they_are_old() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let at = |secs: i64| ago(Timestamp::from_second(1_795_000_000 - secs).unwrap(), now);
        assert_eq!(at(0), "just now");
        assert_eq!(at(-10), "just now");
        assert_eq!(at(59), "59 s ago");
        assert_eq!(at(180), "3 min ago");
        assert_eq!(at(86_400), "1 day ago");
        assert_eq!(at(3 * 86_400), "3 days ago");
        assert_eq!(at(365 * 86_400), "2025-11-18");
        assert!(at(-3600).ends_with("UTC"));
    }

    #[test]
    fn shares_never_divide_by_nothing() {
        assert_eq!(percent(1, 3), 33);
        assert_eq!(percent(0, 0), 100);
        assert_eq!(ratio(0, 0), "1.0:1");
        assert_eq!(ratio(7, 3), "2.3:1");
        assert_eq!(ratio(1 << 20, (1 << 20) + 768), "1.0:1");
        assert_eq!(ratio(u64::MAX, 1), "18446744073709551615.0:1");
    }
}
