//! Several images for one machine, each on a disk of its own.

use std::fs;
use std::path::Path;

use crate::support::target::{Cut, MemoryDisk};
use crate::support::{Sample, Server, client, events, machine, member, order, report, sample};
use crate::whole::{add_disk, boot, controller, outcomes, roots};
use agent::install::{Job, Purpose, install};
use agent::receipt;
use agent::start::Exit;
use wire::{DeployOrder, DiskChoice, EventKind, ImageOrder, Order, Outcome, ReceiptState};
use wire::{Start, Step};

const STEPS: [Step; 4] = [Step::Plan, Step::Transfer, Step::Verify, Step::Seal];

/// An order of two images; the first is for the disk S-1 and the other for S-2.
fn set(system: &Sample, data: &Sample) -> DeployOrder {
    let of = |sample: &Sample, serial: &str| ImageOrder {
        disk: DiskChoice { serial: Some(serial.into()), ..DiskChoice::default() },
        ..order(sample).system
    };
    DeployOrder {
        system: of(system, "S-1"),
        others: vec![of(data, "S-2")],
        start: Start::PowerOff,
        ..order(system)
    }
}

fn receipt_on(disk: &[u8]) -> Option<wire::Receipt> {
    let at = usize::try_from(receipt::START).unwrap();
    receipt::decode(&disk[at..at + receipt::BYTES]).ok()
}

/// Whether a disk is an image, but for the receipt.
fn is(disk: &[u8], image: &[u8]) -> bool {
    let slot = usize::try_from(receipt::START).unwrap()..usize::try_from(receipt::END).unwrap();
    disk[..slot.start] == image[..slot.start] && disk[slot.end..] == image[slot.end..]
}

fn is_installed(disk: &[u8], sample: &Sample) -> bool {
    let receipt = receipt_on(disk);
    receipt.is_some_and(|receipt| {
        (receipt.state, receipt.image) == (ReceiptState::Installed, sample.digest())
    }) && is(disk, &sample.disk)
}

fn disk(root: &Path, name: &str) -> Vec<u8> {
    fs::read(root.join("dev").join(name)).unwrap()
}

#[test]
fn every_image_is_installed_and_what_is_there_is_not_touched_again() {
    let (system, data, newer) = (sample(512, 1), sample(512, 2), sample(512, 3));
    let server = Server::start(&[&system, &data, &newer]);
    let root = tempfile::tempdir().unwrap();
    for (name, serial) in [("vda", "S-1"), ("vdb", "S-2")] {
        add_disk(root.path(), name, serial, &vec![0x5a; system.disk.len()]);
    }
    let roots = roots(root.path());
    let heard = controller(&server, vec![Order::Deploy(set(&system, &data))]);
    assert_eq!(boot(&server, &roots).0, Exit::PowerOff);
    assert!(is_installed(&disk(root.path(), "vda"), &system));
    assert!(is_installed(&disk(root.path(), "vdb"), &data));
    let done = |steps: &[Step]| steps.iter().map(|s| (*s, Outcome::Done)).collect::<Vec<_>>();
    let all = [&STEPS[..], &[Step::Start]].concat();
    assert_eq!(outcomes(&heard.lock().unwrap().events), done(&all), "one of each for both");
    let planned: Vec<_> = heard
        .lock()
        .unwrap()
        .events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Planned { image, .. } => Some(*image),
            _ => None,
        })
        .collect();
    assert_eq!(planned, [system.digest(), data.digest()], "once per member");

    // All there: nothing moves.
    server.take_pack_bytes();
    let before = [disk(root.path(), "vda"), disk(root.path(), "vdb")];
    let heard = controller(&server, vec![Order::Deploy(set(&system, &data))]);
    assert_eq!(boot(&server, &roots).0, Exit::PowerOff);
    assert_eq!(server.take_pack_bytes(), 0);
    assert!(before == [disk(root.path(), "vda"), disk(root.path(), "vdb")]);
    let skipped = outcomes(&heard.lock().unwrap().events);
    for (step, outcome) in &skipped[..4] {
        assert!(
            matches!(outcome, Outcome::Skipped { reason } if reason.contains("receipts on vda")),
            "{step:?} {outcome:?}"
        );
    }

    // Another image for one of the disks leaves the other alone, which still is what starts.
    let heard = controller(&server, vec![Order::Deploy(set(&system, &newer))]);
    assert_eq!(boot(&server, &roots).0, Exit::PowerOff);
    assert!(disk(root.path(), "vda") == before[0], "not a byte of what is there is written");
    assert!(is_installed(&disk(root.path(), "vdb"), &newer));
    assert_eq!(outcomes(&heard.lock().unwrap().events), done(&all));
    let update = server.take_pack_bytes();
    assert!((300_000..420_000).contains(&update), "of the one image: {update}");
}

#[test]
fn nothing_is_written_before_all_disks_are_chosen_and_all_images_known() {
    let (system, data, missing) = (sample(512, 1), sample(512, 2), sample(512, 3));
    let server = Server::start(&[&system, &data]);
    let root = tempfile::tempdir().unwrap();
    let old = vec![0x5a; system.disk.len()];
    for (name, serial) in [("vda", "S-1"), ("vdb", "S-2")] {
        add_disk(root.path(), name, serial, &old);
    }
    let on = |choice: DiskChoice| {
        let mut order = set(&system, &data);
        order.others[0].disk = choice;
        Order::Deploy(order)
    };
    let serial = |serial: &str| DiskChoice { serial: Some(serial.into()), ..DiskChoice::default() };
    let orders = vec![
        on(DiskChoice::default()),
        on(serial("S-1")),
        on(serial("S-3")),
        Order::Deploy(set(&system, &missing)),
        Order::Deploy(set(&system, &data)),
    ];
    let (path, untouched) = (root.path().to_owned(), old.clone());
    let heard = crate::whole::controller_with(&server, orders, move |turn| {
        if turn < 5 {
            assert!(disk(&path, "vda") == untouched && disk(&path, "vdb") == untouched, "{turn}");
        }
    });
    assert_eq!(boot(&server, &roots(root.path())).0, Exit::PowerOff);
    let causes = outcomes(&heard.lock().unwrap().events).into_iter().filter_map(|outcome| {
        let (Step::Plan, Outcome::Failed { cause }) = outcome else { return None };
        Some(cause)
    });
    let expected = ["2 disks fit", "fits test/image:1 and test/image:1", "no disk fits", "404"];
    let causes: Vec<String> = causes.collect();
    assert_eq!(causes.len(), expected.len(), "{causes:?}");
    for (cause, part) in causes.iter().zip(expected) {
        assert!(cause.contains(part), "{cause}");
    }
    assert!(is_installed(&disk(root.path(), "vda"), &system));
}

/// Installs both onto disks in memory.
fn run(server: &Server, samples: [&Sample; 2], disks: [&MemoryDisk; 2]) -> Result<(), String> {
    let console = tempfile::NamedTempFile::new().unwrap();
    let (report, order) = (report(console.path()), set(samples[0], samples[1]));
    let (machine, client) = (machine(), client(server));
    let members = vec![
        member(&order.system, samples[0], disks[0]),
        member(&order.others[0], samples[1], disks[1]),
    ];
    let (run, purpose) = (&order.run, Purpose::Start);
    let job = Job { run, machine: &machine, members, purpose, client: &client, report: &report };
    let result = install(&job).map_err(|failed| wire::chain(&failed));
    assert!(!events(&report).is_empty());
    result
}

#[test]
fn wherever_power_fails_what_starts_has_all_its_data() {
    let (system, data) = (sample(512, 1), sample(512, 2));
    let server = Server::start(&[&system, &data]);
    // An OS and its data, which are given up for the new ones.
    let (old_system, old_data) = (sample(512, 7).disk, sample(512, 8).disk);
    for cut_disk in [0, 1] {
        for cut in [Cut::KeepsAll, Cut::LosesAll] {
            for writes in 0.. {
                let disks = [&old_system, &old_data].map(|old| MemoryDisk::new(old.clone(), 512));
                disks[cut_disk].cut_after(writes, cut);
                if run(&server, [&system, &data], [&disks[0], &disks[1]]).is_ok() {
                    assert!(writes > 5, "there were writes to cut");
                    break;
                }
                disks.iter().for_each(MemoryDisk::power_on);
                let [first, second] = [disks[0].bytes_now(), disks[1].bytes_now()];
                let boots = first[..512].iter().any(|&byte| byte != 0);
                let old = is(&first, &old_system) && is(&second, &old_data);
                let new = is(&first, &system.disk) && is_installed(&second, &data);
                assert!(!boots || old || new, "disk {cut_disk}, {cut:?}, write {writes}");
                if cut == Cut::KeepsAll {
                    continue;
                }
                // The next try, on what is left, completes.
                run(&server, [&system, &data], [&disks[0], &disks[1]]).unwrap();
                assert!(is_installed(&disks[0].bytes_now(), &system));
                assert!(is_installed(&disks[1].bytes_now(), &data));
            }
        }
    }
}
