//! Network namespaces: a wire of one's own for each test.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::owner::Owner;

const PREFIX: &str = "ingot-rig-";
const FOLDER: &str = "/run/netns";
const BRIDGE: &str = "br0";
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
const HTTP_BYTES_MAX: u64 = 1 << 20;

/// A network namespace with a unique name; removed on drop with all that is in it.
pub struct Namespace {
    name: String,
    next: AtomicU32,
}

/// A TAP interface on the bridge of a [`Namespace`], for one machine at a time.
#[derive(Clone, Debug)]
pub struct Tap {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Namespace {
    /// A namespace with only its loopback interface, up. First removes the namespaces of
    /// owners that died without doing so.
    pub fn new() -> Result<Namespace> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_stale()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", Owner::current().tag());
        ip(&["netns", "add", &name])?;
        let namespace = Namespace { name, next: AtomicU32::new(0) };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A namespace whose bridge `br0` has this address, for example `10.77.0.1/24`.
    pub fn with_bridge(address: &str) -> Result<Namespace> {
        let namespace = Namespace::new()?;
        namespace.ip(&["link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"])?;
        namespace.ip(&["address", "add", address, "dev", BRIDGE])?;
        namespace.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(namespace)
    }

    /// The name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new TAP interface on the bridge.
    pub fn tap(&self) -> Result<Tap> {
        let name = self.next_name("tap");
        self.ip(&["tuntap", "add", &name, "mode", "tap"])?;
        self.enslave(&name)?;
        Ok(Tap { namespace: self.name.clone(), name })
    }

    /// Another namespace on this bridge, as a computer of its own: its interface `eth0` is up,
    /// with this MAC address and no IP address.
    pub fn neighbour(&self, mac: &str) -> Result<Namespace> {
        let other = Namespace::new()?;
        let port = self.next_name("veth");
        self.ip(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "address",
            mac,
            "netns",
            &other.name,
        ])?;
        self.enslave(&port)?;
        other.ip(&["link", "set", "eth0", "up"])?;
        Ok(other)
    }

    /// A command that will run inside; a relative program with a slash is taken from the
    /// current folder.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        command_in(&self.name, program)
    }

    /// Runs a command inside to its end and returns what it printed; fails unless it succeeds.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let (program, arguments) = words.split_first().context("no command given")?;
        output(self.command(program).args(arguments))
    }

    /// Runs `work` in a thread inside; threads that it starts (a runtime's, for example) are
    /// inside too.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new(FOLDER).join(&self.name);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("enter {}", path.display()))?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The status and body that `http://ADDRESS:PORT/PATH` answers from inside.
    pub fn http_get(&self, url: &str) -> Result<(u16, Vec<u8>)> {
        self.within(|| http_get(url))?.with_context(|| format!("GET {url}"))
    }

    /// Waits until the URL answers with any status below 400.
    pub fn wait_http(&self, url: &str, timeout: Duration) -> Result<Vec<u8>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.http_get(url) {
                Ok((status, body)) if status < 400 => return Ok(body),
                Ok((status, _)) if Instant::now() >= deadline => {
                    bail!("{url} still answers {status} after {timeout:?}")
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("no answer in {timeout:?}")));
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn enslave(&self, link: &str) -> Result<()> {
        self.ip(&["link", "set", link, "master", BRIDGE, "up"])
    }

    fn next_name(&self, kind: &str) -> String {
        format!("{kind}{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.name], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

pub(crate) fn command_in(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// Ends what still runs inside and removes the namespace. Interfaces go with it.
fn remove(name: &str) -> Result<()> {
    let pids = output(Command::new("ip").args(["netns", "pids", name]))?;
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
        // A thread that entered by `within` belongs to this process, and ends by itself.
        if pid != rustix::process::getpid() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    ip(&["netns", "delete", name])
}

fn remove_stale() -> Result<()> {
    let Ok(entries) = fs::read_dir(FOLDER) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(Owner::from_tag);
        if owner.is_some_and(|owner| !owner.is_alive()) {
            // Another process may be doing the same.
            let _ = remove(&name);
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new("ip").args(arguments)).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let result = command
        .output()
        .with_context(|| format!("run {command:?} (Debian package iproute2 has ip)"))?;
    let printed = String::from_utf8_lossy(&result.stdout).into_owned();
    ensure!(
        result.status.success(),
        "{command:?}: {}\n{printed}{}(namespaces need root)",
        result.status,
        String::from_utf8_lossy(&result.stderr)
    );
    Ok(printed)
}

/// HTTP/1.0, so that the body ends with the connection.
fn http_get(url: &str) -> Result<(u16, Vec<u8>)> {
    let rest = url.strip_prefix("http://").context("only http:// URLs")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let address: SocketAddr = address.parse().context("the host must be an IP address")?;
    let mut stream = TcpStream::connect_timeout(&address, HTTP_TIMEOUT)?;
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reply = Vec::new();
    stream.take(HTTP_BYTES_MAX).read_to_end(&mut reply)?;
    let head_end = reply.windows(4).position(|w| w == b"\r\n\r\n").context("no end of header")?;
    let body = reply.split_off(head_end + 4);
    let head = String::from_utf8_lossy(&reply);
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    Ok((status.with_context(|| format!("no status in {head:?}"))?, body))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn exists(name: &str) -> bool {
        Path::new(FOLDER).join(name).exists()
    }

    #[test]
    fn goes_with_its_owner_even_in_a_panic() {
        let name = std::thread::spawn(|| {
            let namespace = Namespace::with_bridge("10.77.0.1/24").unwrap();
            namespace.tap().unwrap();
            let sleeper = namespace.command("sleep").arg("1000").spawn().unwrap();
            assert!(exists(namespace.name()));
            std::panic::panic_any((namespace.name().to_owned(), sleeper));
        });
        let panic = name.join().unwrap_err().downcast::<(String, std::process::Child)>();
        let (name, mut sleeper) = *panic.unwrap();
        assert!(!exists(&name));
        assert!(!sleeper.wait().unwrap().success(), "what ran inside was killed");
    }

    #[test]
    fn removes_what_the_dead_left() {
        let stale = format!("{PREFIX}4194305-1-0");
        ip(&["netns", "add", &stale]).unwrap();
        let mine = Namespace::new().unwrap();
        let other = Namespace::new().unwrap();
        assert!(!exists(&stale));
        assert!(exists(mine.name()) && exists(other.name()));
    }

    #[test]
    fn neighbours_reach_each_other_and_nothing_else() {
        let wire = Namespace::with_bridge("10.77.0.1/24").unwrap();
        let client = wire.neighbour("52:54:00:00:00:05").unwrap();
        client.run(&["ip", "address", "add", "10.77.0.2/24", "dev", "eth0"]).unwrap();
        assert!(client.run(&["ip", "link"]).unwrap().contains("52:54:00:00:00:05"));

        let listener = wire.within(|| TcpListener::bind("10.77.0.1:80")).unwrap().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        });
        assert_eq!(client.wait_http("http://10.77.0.1/x", LONG).unwrap(), b"hello");
        server.join().unwrap();
        let refused = client.wait_http("http://10.77.0.1/x", Duration::ZERO).unwrap_err();
        assert!(format!("{refused:#}").contains("GET http://10.77.0.1/x"), "{refused:#}");
    }

    #[test]
    fn failed_commands_say_what_failed() {
        let namespace = Namespace::new().unwrap();
        let error = namespace.run(&["sh", "-c", "echo no such thing >&2; exit 1"]).unwrap_err();
        assert!(error.to_string().contains("no such thing"), "{error}");
    }
}
