//! The few kernel calls that no safe wrapper offers. The only unsafe code of the agent.

#![expect(unsafe_code, reason = "these system calls have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr::null;

use libc::{c_char, c_int, c_short, c_ulong, ifreq, sockaddr, sockaddr_in, sockaddr_ll, socklen_t};

// linux/fs.h; not in libc.
const BLKRRPART: c_ulong = 0x125f;
const BLKFLSBUF: c_ulong = 0x1261;
const BLKZEROOUT: c_ulong = 0x127f;
const BLKGETSIZE64: c_ulong = 0x8008_1272;
// linux/sockios.h, linux/ethtool.h and linux/kexec.h.
const SIOCETHTOOL: c_ulong = 0x8946;
const ETHTOOL_GPERMADDR: u32 = 0x20;
const KEXEC_FILE_NO_INITRAMFS: c_ulong = 4;
// linux/if_ether.h and linux/if_packet.h.
const ETH_P_LLDP: u16 = 0x88cc;
const PACKET_ADD_MEMBERSHIP: c_int = 1;
const PACKET_MR_MULTICAST: u16 = 0;

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Size of a block device in bytes.
pub fn block_bytes(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: BLKGETSIZE64 writes one u64 through the pointer, which is valid for it.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) })?;
    Ok(bytes)
}

/// Makes a sector-aligned range of a block device read as zero.
pub fn block_zero(device: BorrowedFd<'_>, start: u64, bytes: u64) -> io::Result<()> {
    let range = [start, bytes];
    // SAFETY: BLKZEROOUT reads two u64 through the pointer, which is valid for them.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKZEROOUT, &raw const range) })
}

/// Writes out and forgets what the kernel has cached of a block device.
pub fn block_drop_cache(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF, 0) })
}

/// Makes the kernel read a disk's partition table again.
pub fn block_reread_table(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKRRPART, 0) })
}

/// What this thread starts from now on is in a process namespace of its own, of
/// which the first child is the first process: with it all others end. Nothing
/// can be started any more after that.
pub fn unshare_processes() -> io::Result<()> {
    // SAFETY: unshare(CLONE_NEWPID) takes no pointers, and changes no memory, descriptors or
    // ids that the other threads of this process share.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) })
}

/// Makes a program see a folder as its root, without a terminal of ours. What it mounts is
/// seen by itself and by what it starts, and gone with the last of them.
pub fn confine(command: &mut Command, root: &Path) -> io::Result<()> {
    let nul = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let root = CString::new(root.as_os_str().as_bytes()).map_err(nul)?;
    let enter = move || {
        // SAFETY: all paths end in a NUL and live as long as the calls, which are all
        // that happens here: each is a system call that may be made after fork(). mount() takes
        // null pointers where only the propagation changes.
        unsafe {
            check(libc::setsid())?;
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let flags = libc::MS_REC | libc::MS_PRIVATE;
            check(libc::mount(null(), c"/".as_ptr(), null(), flags, null()))?;
            check(libc::chroot(root.as_ptr()))?;
            check(libc::chdir(c"/".as_ptr()))
        }
    };
    // SAFETY: the closure allocates nothing, takes no lock, and makes system calls only.
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// Loads a kernel, and an initial ramdisk where there is one, for
/// `reboot(RebootCommand::Kexec)`.
pub fn kexec_file_load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    cmdline: &CStr,
) -> io::Result<()> {
    let flags = if initrd.is_some() { 0 } else { KEXEC_FILE_NO_INITRAMFS };
    // SAFETY: both descriptors are open, the command line ends in the NUL that its length
    // counts, and the kernel copies everything before it returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            kernel.as_raw_fd(),
            initrd.map_or(-1, |fd| fd.as_raw_fd()),
            cmdline.to_bytes_with_nul().len() as c_ulong,
            cmdline.as_ptr(),
            flags,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An `ifreq` that names an interface and says nothing else.
fn request(name: &str) -> io::Result<ifreq> {
    // SAFETY: ifreq is plain data, for which all zeroes are a valid value.
    let mut request: ifreq = unsafe { zeroed() };
    if name.len() >= request.ifr_name.len() || name.bytes().any(|b| b == 0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an interface name"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

fn address(ip: Ipv4Addr) -> sockaddr {
    // SAFETY: sockaddr_in is plain data, for which all zeroes are a valid value.
    let mut address: sockaddr_in = unsafe { zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
    const { assert!(size_of::<sockaddr_in>() == size_of::<sockaddr>()) };
    // SAFETY: both are plain data of the same size; AF_INET says which one it is.
    unsafe { std::mem::transmute::<sockaddr_in, sockaddr>(address) }
}

/// Switches a network card on.
pub fn interface_up(socket: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let mut request = request(name)?;
    // SAFETY: both calls read and write one ifreq, which `request` is; the flags member is
    // the one that SIOCGIFFLAGS filled in.
    unsafe {
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request))?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request))
    }
}

/// Gives a network card an address and the mask of its subnet.
pub fn interface_address(
    socket: BorrowedFd<'_>,
    name: &str,
    ip: Ipv4Addr,
    mask: Ipv4Addr,
) -> io::Result<()> {
    let mut request = request(name)?;
    for (operation, value) in [(libc::SIOCSIFADDR, ip), (libc::SIOCSIFNETMASK, mask)] {
        request.ifr_ifru.ifru_addr = address(value);
        // SAFETY: both operations read one ifreq with the address member set.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), operation as _, &raw const request) })?;
    }
    Ok(())
}

/// Sends what has no better route through a gateway.
pub fn default_route(socket: BorrowedFd<'_>, name: &str, gateway: Ipv4Addr) -> io::Result<()> {
    let mut device = request(name)?.ifr_name;
    // SAFETY: rtentry is plain data, for which all zeroes are a valid value.
    let mut route: libc::rtentry = unsafe { zeroed() };
    route.rt_dst = address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    route.rt_dev = device.as_mut_ptr();
    // SAFETY: SIOCADDRT reads one rtentry; the device name it points to outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) })
}

/// Hardware address that a card was made with; `None` where its driver does not say.
pub fn permanent_mac(socket: BorrowedFd<'_>, name: &str) -> Option<[u8; 6]> {
    #[repr(C)]
    struct Query {
        command: u32,
        size: u32,
        data: [u8; 32],
    }
    let mut query = Query { command: ETHTOOL_GPERMADDR, size: 32, data: [0; 32] };
    let mut request = request(name).ok()?;
    request.ifr_ifru.ifru_data = (&raw mut query).cast();
    // SAFETY: SIOCETHTOOL reads one ifreq and writes at most `size` bytes to the query's data.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw const request) }).ok()?;
    let mac: [u8; 6] = query.data.get(..6)?.try_into().ok()?;
    (query.size == 6 && mac != [0; 6]).then_some(mac)
}

/// A socket that receives the LLDP frames of one card, by its index, without their headers.
pub fn lldp_socket(index: c_int) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Membership {
        index: c_int,
        kind: u16,
        length: u16,
        address: [u8; 8],
    }
    // SAFETY: socket() takes no pointers; what it returns is ours and open.
    let socket = unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(socket)?;
        OwnedFd::from_raw_fd(socket)
    };
    // SAFETY: sockaddr_ll is plain data, for which all zeroes are a valid value.
    let mut address: sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_LLDP.to_be();
    address.sll_ifindex = index;
    // The address that frames to the nearest bridge have (IEEE 802.1AB section 7.1).
    let group = [0x01, 0x80, 0xc2, 0, 0, 0x0e, 0, 0];
    let membership = Membership { index, kind: PACKET_MR_MULTICAST, length: 6, address: group };
    // SAFETY: both calls read as many bytes as they are told, which is the size of the
    // values that the pointers are to.
    unsafe {
        let bytes = size_of_val(&address) as socklen_t;
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes))?;
        check(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_ADD_MEMBERSHIP,
            (&raw const membership).cast(),
            size_of_val(&membership) as socklen_t,
        ))?;
    }
    Ok(socket)
}
