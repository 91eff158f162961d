//! Which addresses are given to machines that have none of their own.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::config::Pool;

/// Most addresses of a pool that was not asked for: plenty for one interface.
const CHOSEN_MAX: u32 = 4096;

/// The pool as configured; a chosen one is the longest range of the network
/// that none of `taken` is in.
pub fn resolve(pool: &Pool, net: Ipv4Net, taken: &[Ipv4Addr]) -> Option<RangeInclusive<Ipv4Addr>> {
    match *pool {
        Pool::Nobody => None,
        Pool::Range(first, last) => Some(first..=last),
        Pool::Chosen => longest_free(net, taken),
    }
}

fn longest_free(net: Ipv4Net, taken: &[Ipv4Addr]) -> Option<RangeInclusive<Ipv4Addr>> {
    let (network, broadcast) = (net.network().to_bits(), net.broadcast().to_bits());
    let inside = |bits: &u32| (network..=broadcast).contains(bits);
    let mut edges: Vec<_> = taken.iter().map(|address| address.to_bits()).filter(inside).collect();
    edges.extend([network, broadcast]);
    edges.sort_unstable();
    let gaps = edges.windows(2).map(|edge| (edge[1].saturating_sub(edge[0]), edge[0]));
    let (width, before) = gaps.max()?;
    let count = width.saturating_sub(1).min(CHOSEN_MAX);
    let first = before.checked_add(1)?;
    (count > 0).then(|| Ipv4Addr::from_bits(first)..=Ipv4Addr::from_bits(first + count - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(net: &str, taken: &[&str]) -> Option<String> {
        let taken: Vec<_> = taken.iter().map(|address| address.parse().unwrap()).collect();
        let range = resolve(&Pool::Chosen, net.parse().unwrap(), &taken)?;
        Some(format!("{}-{}", range.start(), range.end()))
    }

    #[test]
    fn the_longest_free_range_is_chosen() {
        let table = [
            ("10.0.0.1/24", &["10.0.0.1"][..], Some("10.0.0.2-10.0.0.254")),
            ("10.0.0.0/24", &["10.0.0.1", "10.0.0.254"], Some("10.0.0.2-10.0.0.253")),
            ("10.0.0.0/24", &["10.0.0.200"], Some("10.0.0.1-10.0.0.199")),
            ("10.0.0.0/30", &["10.0.0.1"], Some("10.0.0.2-10.0.0.2")),
            ("10.0.0.0/30", &["10.0.0.1", "10.0.0.2"], None),
            ("10.0.0.0/8", &["10.0.0.1", "1.1.1.1"], Some("10.0.0.2-10.0.16.1")),
        ];
        for (net, taken, expected) in table {
            assert_eq!(chosen(net, taken).as_deref(), expected, "{net} {taken:?}");
        }
    }
}
