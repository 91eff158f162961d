//! What the kernel says about devices that come and go.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The kernel's device events since this was opened.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

/// The group that the kernel itself sends to; user space has others.
const KERNEL: u32 = 1;

impl Uevents {
    /// Starts listening.
    pub fn open() -> rustix::io::Result<Uevents> {
        let flags = SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::NETLINK, SocketType::DGRAM);
        let socket = socket_with(family, kind, flags, Some(KOBJECT_UEVENT))?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Uevents { socket })
    }

    /// The modalias of the next device that appears; `Some("")` for an event
    /// without one, `None` where nothing happens for so long.
    pub fn next(&self, patience: Duration) -> Option<String> {
        let wait = Timespec::try_from(patience).ok()?;
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        if !matches!(poll(&mut ready, Some(&wait)), Ok(count) if count > 0) {
            return None;
        }
        let mut buffer = [0; 8192];
        // Events that were lost because too many came at once are made up for
        // by looking through sysfs again, as after any other event.
        let length = recv(&self.socket, &mut buffer[..], RecvFlags::empty()).map_or(0, |got| got.0);
        Some(modalias(&buffer[..length]).unwrap_or_default())
    }
}

/// Zero-terminated `KEY=value` texts behind a summary.
fn modalias(event: &[u8]) -> Option<String> {
    let mut texts = event.split(|&byte| byte == 0);
    let value = texts.find_map(|text| text.strip_prefix(b"MODALIAS="))?;
    String::from_utf8(value.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_modalias() {
        let event = b"add@/devices/x\0ACTION=add\0MODALIAS=pci:v1\0SEQNUM=7\0";
        assert_eq!(modalias(event).as_deref(), Some("pci:v1"));
        assert_eq!(modalias(b"remove@/x\0ACTION=remove\0"), None);
        assert_eq!(modalias(b""), None);
    }
}
