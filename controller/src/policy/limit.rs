//! How many machines get what a rule says, and when.

use std::fmt;

use jiff::Timestamp;
use wire::admin::UnixMs;

/// A limit of a rule. What is absent is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limit {
    /// Most machines in all.
    pub machines: Option<u32>,
    /// Most machines at a time.
    pub at_once: Option<u32>,
    /// Not before this time.
    pub from: Option<Timestamp>,
    /// Not from this time on.
    pub until: Option<Timestamp>,
}

impl Limit {
    /// Why nothing begins now; none where it may.
    pub(crate) fn closed(&self, now: UnixMs) -> Option<String> {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let is_past = |time: &Timestamp| now >= time.as_millisecond();
        match (&self.from, &self.until) {
            (Some(from), _) if !is_past(from) => Some(format!("begins nothing before {from}")),
            (_, Some(until)) if is_past(until) => Some(format!("begins nothing from {until} on")),
            _ => None,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.machines.map(|machines| format!("at most {machines} machines in all")),
            self.at_once.map(|at_once| format!("at most {at_once} at a time")),
            self.from.map(|from| format!("from {from}")),
            self.until.map(|until| format!("until {until}")),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_opens_and_closes_at_its_times() {
        let time = |secs| Timestamp::from_second(secs).ok();
        let limit = Limit { from: time(10), until: time(20), ..Limit::default() };
        let closed = |ms| limit.closed(ms);
        assert_eq!(closed(9_999).unwrap(), "begins nothing before 1970-01-01T00:00:10Z");
        assert_eq!((closed(10_000), closed(19_999)), (None, None));
        assert_eq!(closed(20_000).unwrap(), "begins nothing from 1970-01-01T00:00:20Z on");
        assert!(closed(u64::MAX).is_some());
        assert_eq!(Limit::default().closed(0), None);
        assert_eq!(limit.to_string(), "from 1970-01-01T00:00:10Z, until 1970-01-01T00:00:20Z");
        let numbers = Limit { machines: Some(10), at_once: Some(2), ..Limit::default() };
        assert_eq!(numbers.to_string(), "at most 10 machines in all, at most 2 at a time");
    }
}
