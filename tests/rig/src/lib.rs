//! The bench on which whole machines are tested: network namespaces, virtual
//! machines with real firmware, their consoles, and servers as processes.
//!
//! Everything here belongs to the value that made it: dropping the value, also
//! while a panic unwinds, ends its processes and removes its interfaces. What a
//! killed owner left behind goes when the next [`Namespace`] is made. Needs root
//! and the Debian packages `iproute2`, `qemu-system-x86`, `seabios`, `ipxe-qemu`
//! and `ovmf`.
//!
//! # One machine, switched on twice
//!
//! ```no_run
//! use std::time::Duration;
//! use tests_rig::{Disk, Firmware, Namespace, Process, Vm};
//!
//! # fn main() -> anyhow::Result<()> {
//! let dir = tempfile::tempdir()?;
//! let wire = Namespace::with_bridge("10.77.0.1/24")?;
//!
//! // A server inside the namespace; its output is kept and can be waited for.
//! let mut serve = wire.command("target/debug/ingot");
//! serve.args(["serve", "--config", "ingot.toml"]);
//! let server = Process::spawn(serve, &dir.path().join("serve.log"))?;
//! server.console().wait_for("listening", Duration::from_secs(20))?;
//! wire.wait_http("http://10.77.0.1:8080/healthz", Duration::from_secs(20))?;
//!
//! // A machine with an empty disk, connected to the same bridge.
//! let disk = dir.path().join("disk.img");
//! let machine = Vm::new("one-machine", Firmware::UefiHttp)
//!     .memory_mib(1024)
//!     .smbios("manufacturer", "Example")
//!     .smbios("serial", "SN-0001")
//!     .disk(Disk::new(&disk).size(4 << 30).serial("DISK-0001"))
//!     .network(&wire.tap()?, "52:54:00:00:00:01");
//!
//! let first = machine.start()?;
//! first.console().wait_for("login:", Duration::from_secs(600))?;
//! first.power_off()?;
//!
//! // The same machine again: now nothing may be written.
//! let second = machine.start()?;
//! second.console().wait_for("login:", Duration::from_secs(600))?;
//! assert_eq!(second.disk_io()?[0].written_bytes, 0);
//! # Ok(())
//! # }
//! ```

mod accel;
mod cache;
mod console;
mod namespace;
mod owner;
mod process;
mod qmp;
mod vm;

pub use accel::{Accel, acceleration};
pub use cache::{cached, target_dir};
pub use console::Console;
pub use namespace::{Namespace, Tap};
pub use process::Process;
pub use qmp::DiskIo;
pub use vm::{Boot, Bus, Disk, Firmware, Vm, VmRun};
