//! The URL at which machines reach the server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::exit::{Code, Failure};

/// As configured, else derived from where HTTP is answered and, where that is
/// everywhere, from our address on the interface that machines are booted on.
pub fn url(
    given: Option<&str>,
    bound: SocketAddr,
    on_interface: Option<Ipv4Addr>,
) -> anyhow::Result<String> {
    if let Some(given) = given {
        return checked(given);
    }
    let ip = match (bound.ip(), on_interface) {
        (ip, Some(address)) if ip.is_unspecified() => IpAddr::V4(address),
        (ip, Some(address)) if ip.is_loopback() && !address.is_loopback() => {
            let what = format!("HTTP is answered on {bound}, where no other machine can ask");
            let next = format!("set [http] listen to \"{address}:{}\"", bound.port());
            return Err(Failure::new(Code::Mistake, what).next(next).into());
        }
        (ip, None) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (ip, _) => ip,
    };
    Ok(format!("http://{}", SocketAddr::new(ip, bound.port())))
}

/// Agents talk plain HTTP over IPv4, resolve no names, and are told to start
/// paths with a slash.
fn checked(given: &str) -> anyhow::Result<String> {
    let url = given.trim_end_matches('/');
    let host = url.strip_prefix("http://").unwrap_or_default();
    if host.parse::<SocketAddrV4>().is_ok() || host.parse::<Ipv4Addr>().is_ok() {
        return Ok(url.to_owned());
    }
    let what = format!(
        "[http] advertise {given:?} is not http:// and an IPv4 address: \
         machines that start over the network resolve no names"
    );
    let next = "give http://ADDRESS:PORT without a path, such as http://10.0.0.1:8460";
    Err(Failure::new(Code::Mistake, what).next(next).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH: Option<Ipv4Addr> = Some(Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn what_is_given_wins_and_what_is_not_is_derived() {
        let table = [
            (Some("http://10.9.9.9:80/"), "0.0.0.0:8460", ETH, "http://10.9.9.9:80"),
            (Some("http://10.9.9.9"), "0.0.0.0:8460", ETH, "http://10.9.9.9"),
            (None, "0.0.0.0:8460", ETH, "http://10.0.0.1:8460"),
            (None, "[::]:8460", ETH, "http://10.0.0.1:8460"),
            (None, "10.0.0.1:1", ETH, "http://10.0.0.1:1"),
            (None, "127.0.0.1:1", None, "http://127.0.0.1:1"),
            (None, "0.0.0.0:1", None, "http://127.0.0.1:1"),
        ];
        for (given, bound, on_interface, expected) in table {
            let url = url(given, bound.parse().unwrap(), on_interface).unwrap();
            assert_eq!(url, expected);
        }
    }

    #[test]
    fn what_no_machine_can_reach_is_refused() {
        let bound = "127.0.0.1:1".parse().unwrap();
        assert!(url(None, bound, ETH).is_err());
        for given in [
            "10.0.0.1",
            "https://10.0.0.1",
            "http://",
            "http://10.0.0.1/x",
            "http://10.0.0.1:x",
            "http://[fd00::1]:8460",
            "http://lab",
            "http://lab.example.org:8460",
        ] {
            let error = url(Some(given), bound, ETH).unwrap_err();
            assert!(error.to_string().contains("resolve no names"), "{given}: {error:?}");
            assert_eq!(crate::exit::code_of(&error), Code::Mistake, "{given}");
        }
    }
}
