//! A power cut at every single write of an installation.

use crate::support::target::{Cut, MemoryDisk};
use crate::support::{Sample, Server, client, machine, member, order, report, sample};
use agent::install::{InstallError, Job, Purpose, install};
use agent::receipt;
use wire::ReceiptState;

fn run(server: &Server, sample: &Sample, disk: &MemoryDisk) -> Result<(), InstallError> {
    let console = tempfile::NamedTempFile::new().unwrap();
    let (report, order) = (report(console.path()), order(sample));
    let (machine, client) = (machine(), client(server));
    let members = vec![member(&order.system, sample, disk)];
    let (run, purpose) = (&order.run, Purpose::Start);
    let job = Job { run, machine: &machine, members, purpose, client: &client, report: &report };
    install(&job).map_err(|failed| *failed.error)
}

fn receipt_on(disk: &[u8]) -> Option<wire::Receipt> {
    let at = usize::try_from(receipt::START).unwrap();
    receipt::decode(&disk[at..at + receipt::BYTES]).ok()
}

/// Whether two disks are equal but for the receipt.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let slot = usize::try_from(receipt::START).unwrap()..usize::try_from(receipt::END).unwrap();
    a[..slot.start] == b[..slot.start] && a[slot.end..] == b[slot.end..]
}

/// Whether firmware would find anything: neither a boot signature nor the
/// record that shields a GPT is in a first sector that is empty.
fn boots(disk: &[u8]) -> bool {
    disk[..512].iter().any(|&byte| byte != 0)
}

/// Checks a disk after a cut: it holds the old OS whole, or does not boot, or
/// holds the new OS whole; the receipt never says more than that.
#[track_caller]
fn check(disk: &[u8], old: &[u8], new: &Sample) {
    let (is_old, is_new) = (equal(disk, old), equal(disk, &new.disk));
    if boots(disk) {
        assert!(is_old || is_new, "boots half an OS");
    }
    if let Some(receipt) = receipt_on(disk)
        && receipt.state == ReceiptState::Installed
    {
        let right = if receipt.image == new.digest() { is_new } else { is_old };
        assert!(right, "a receipt for what is not there");
    }
}

fn cut_everywhere(old: &[u8], new: &Sample, server: &Server) {
    for cut in [
        Cut::KeepsAll,
        Cut::LosesAll,
        Cut::KeepsSome,
        Cut::TearsLast,
        Cut::OnlyLast,
        Cut::OnlyEndOfLast,
    ] {
        for writes in 0.. {
            let disk = MemoryDisk::new(old.to_vec(), 512);
            disk.cut_after(writes, cut);
            if run(server, new, &disk).is_ok() {
                assert!(writes > 5, "there were writes to cut");
                break;
            }
            disk.power_on();
            check(&disk.bytes_now(), old, new);

            // The next try, on what is left, completes.
            run(server, new, &disk).unwrap();
            let bytes = disk.bytes_now();
            assert!(equal(&bytes, &new.disk), "{cut:?} at write {writes}");
            assert_eq!(receipt_on(&bytes).unwrap().state, ReceiptState::Installed);
        }
    }
}

#[test]
fn a_foreign_disk_never_boots_half_an_os() {
    let new = sample(512, 1);
    let server = Server::start(&[&new]);
    // An OS without a receipt, with data where the slot will be.
    let mut old = sample(512, 7).disk;
    old[300_000..700_000].fill(0x77);
    cut_everywhere(&old, &new, &server);
}

#[test]
fn an_update_never_boots_half_an_os() {
    let (first, second) = (sample(512, 1), sample(512, 2));
    let server = Server::start(&[&first, &second]);
    let disk = MemoryDisk::new(vec![0; first.disk.len()], 512);
    run(&server, &first, &disk).unwrap();
    cut_everywhere(&disk.bytes_now(), &second, &server);
}

#[test]
fn after_a_power_cut_only_what_is_missing_is_fetched() {
    let new = sample(512, 1);
    let server = Server::start(&[&new]);
    let old = vec![0x5a; new.disk.len()];
    let disk = MemoryDisk::new(old.clone(), 512);
    run(&server, &new, &disk).unwrap();
    let (whole, writes) = (server.take_pack_bytes(), disk.writes());
    // At the very last write, then at the first that the seal does: all content is there.
    for before_the_end in [1, 4] {
        let disk = MemoryDisk::new(old.clone(), 512);
        disk.cut_after(writes - before_the_end, Cut::KeepsAll);
        run(&server, &new, &disk).unwrap_err();
        disk.power_on();
        server.take_pack_bytes();
        run(&server, &new, &disk).unwrap();
        let again = server.take_pack_bytes();
        assert!(again < 60_000 && whole > 1_000_000, "{again} of {whole}");
    }
}
