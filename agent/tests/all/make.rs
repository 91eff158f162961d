//! Images that an agent makes on its machine. Needs root: loop devices, mounts.

mod as_root {
    use std::fs;
    use std::os::unix::fs::{FileExt, OpenOptionsExt, symlink};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::{Arc, Mutex};
    use std::thread::JoinHandle;
    use std::time::Duration;

    use crate::capture::configuration;
    use crate::support::server::Fault;
    use crate::support::store::Store;
    use crate::support::system::{self, PARTITIONS, ROOT, debugfs, run};
    use crate::support::{Server, machine};
    use crate::whole::{add_disk, boot_with, outcomes, roots};
    use agent::receipt;
    use agent::start::Exit;
    use rustix::fs::OFlags;
    use wire::api::{CHECK_IN, CheckIn, CheckedIn, EventBatch, EventsSeen, MADE, Made};
    use wire::{
        DeployOrder, Digest, DiskChoice, Event, EventKind, ImageOrder, MakeOrder, Making, Order,
        Outcome, Receipt, ReceiptState, Start, Step,
    };

    /// A block device over a part of a file; gone when it is dropped.
    struct Loop(String);

    impl Loop {
        fn over(disk: &Path, (offset, bytes): (u64, u64)) -> Loop {
            let (offset, bytes) = (offset.to_string(), bytes.to_string());
            let args = ["--find", "--show", "--offset", &offset, "--sizelimit", &bytes];
            Loop(run(Command::new("losetup").args(args).arg(disk)).trim().to_owned())
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }

    /// A machine whose disk is larger than the image, with its partitions: devices over one
    /// file, each of which the kernel caches for itself.
    struct Machine {
        root: tempfile::TempDir,
        _devices: Vec<Loop>,
    }

    impl Machine {
        fn new() -> Machine {
            let root = tempfile::tempdir().unwrap();
            let bytes = usize::try_from(system::BYTES).unwrap() + (9 << 20);
            add_disk(root.path(), "vda", "S-1", &vec![0x5a; bytes]);
            let (disk, file) = (root.path().join("dev/vda"), root.path().join("medium"));
            fs::rename(&disk, &file).unwrap();
            let whole = Loop::over(&file, (0, bytes as u64));
            symlink(&whole.0, &disk).unwrap();
            let mut devices = Vec::from(PARTITIONS.map(|place| Loop::over(&file, place)));
            for ((number, (start, bytes)), device) in (1..).zip(PARTITIONS).zip(&devices) {
                let name = format!("vda{number}");
                let folder = root.path().join("sys/block/vda").join(&name);
                fs::create_dir(&folder).unwrap();
                for (file, value) in
                    [("partition", number), ("start", start / 512), ("size", bytes / 512)]
                {
                    fs::write(folder.join(file), value.to_string()).unwrap();
                }
                symlink(&device.0, root.path().join("dev").join(&name)).unwrap();
            }
            fs::create_dir(root.path().join("proc")).unwrap();
            // What the kernel knows: no module is loaded into that of whoever runs the tests.
            let known = fs::read_to_string("/proc/filesystems").unwrap() + "\tvfat\n\text4\n";
            fs::write(root.path().join("proc/filesystems"), known).unwrap();
            devices.push(whole);
            Machine { root, _devices: devices }
        }

        fn disk(&self) -> PathBuf {
            self.root.path().join("dev/vda")
        }

        fn is_mounted(&self) -> bool {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            mounts.contains(&self.root.path().display().to_string())
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            // What an agent that restarts the machine leaves mounted, the inner first.
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let root = self.root.path().display().to_string();
            let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
            for place in places.filter(|place| place.starts_with(&root)) {
                let _ = Command::new("umount").arg(place).status();
            }
        }
    }

    fn receipt_on(disk: &Path) -> Option<Receipt> {
        let mut slot = vec![0; receipt::BYTES];
        fs::File::open(disk).unwrap().read_exact_at(&mut slot, receipt::START).unwrap();
        receipt::decode(&slot).ok()
    }

    fn image(image: Digest, reference: &str) -> ImageOrder {
        ImageOrder { image, reference: reference.parse().unwrap(), disk: DiskChoice::default() }
    }

    fn make(base: Digest, attempt: u32, script: &str) -> Order {
        Order::Make(Box::new(MakeOrder {
            run: "r-1".parse().unwrap(),
            attempt,
            base: image(base, "built/gpu:base"),
            reason: "nobody has made it yet".into(),
            making: Making {
                configuration: configuration(),
                script: script.into(),
                environment: [("INGOT_FACT_PCI_MODALIAS".into(), "pci:v1".into())].into(),
                timeout_secs: 60,
            },
        }))
    }

    fn deploy(system: ImageOrder) -> Order {
        let (run, others) = ("r-2".parse().unwrap(), Vec::new());
        Order::Deploy(DeployOrder { run, attempt: 1, system, others, start: Start::PowerOff })
    }

    /// What a controller heard.
    #[derive(Default)]
    struct Heard {
        check_ins: usize,
        events: Vec<Event>,
        made: Vec<Made>,
        /// Of the disk, when an image was told of.
        receipts: Vec<Option<Receipt>>,
    }

    /// A controller that gives these orders in turn, and then has what was made deployed,
    /// or the base where nothing was.
    fn controller(
        server: &Server,
        disk: PathBuf,
        base: Digest,
        orders: Vec<Order>,
    ) -> Arc<Mutex<Heard>> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let shared = Arc::clone(&heard);
        server.on_post(Box::new(move |path, body| {
            let mut heard = shared.lock().unwrap();
            match path {
                CHECK_IN => {
                    let _: CheckIn = serde_json::from_slice(body).unwrap();
                    let last = heard.made.last().map(|made| image(made.image, "built/gpu:whole"));
                    let last = || deploy(last.unwrap_or_else(|| image(base, "built/gpu:base")));
                    let order = orders.get(heard.check_ins).cloned().unwrap_or_else(last);
                    heard.check_ins += 1;
                    serde_json::to_vec(&CheckedIn { machine: machine(), order }).unwrap()
                }
                MADE => {
                    heard.receipts.push(receipt_on(&disk));
                    heard.made.push(serde_json::from_slice(body).unwrap());
                    Vec::new()
                }
                _ => {
                    let batch: EventBatch = serde_json::from_slice(body).unwrap();
                    heard.events.extend(batch.events);
                    let seq = heard.events.last().unwrap().seq;
                    serde_json::to_vec(&EventsSeen { seq }).unwrap()
                }
            }
        }));
        heard
    }

    /// A store with an image of a system, whose disk is in a folder.
    fn stocked() -> (Store, tempfile::TempDir, Digest) {
        let store = Store::start();
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("base");
        system::disk(folder.path(), &source);
        let base = store.import(&source, system::options());
        (store, folder, base)
    }

    const BASE: [Step; 4] = [Step::Plan, Step::Transfer, Step::Verify, Step::Seal];

    #[test]
    fn a_script_makes_an_image_that_is_installed_next_and_by_others() {
        let (store, folder, base) = stocked();
        let there = Machine::new();
        let server = Server::start(&[]);
        let script = "test \"$INGOT_FACT_PCI_MODALIAS\" = pci:v1\n\
                      grep -q 10.9.8.7 /etc/resolv.conf\n\
                      echo for $INGOT_RECIPE > /etc/driver\n\
                      echo data > /srv/data\n\
                      echo scratch > /tmp/scratch; echo scratch > /run/scratch\n\
                      mount | grep -c ' on /srv \\| on /proc \\| on /sys \\| on /dev \\| on /tmp '\n\
                      rm /etc/large; echo all done >&2\n";
        // A controller that is away for a moment is told again.
        server.fault(MADE, Fault::Hang);
        server.fault(MADE, Fault::Status(503));
        let heard = controller(&server, there.disk(), base, vec![make(base, 1, script)]);
        let (exit, console) = boot_with(&server, &store.base, &roots(there.root.path()));
        assert_eq!(exit, Exit::PowerOff, "{console}");
        for said in ["nobody has made it yet", "| 5", "| all done", "capture: "] {
            assert!(console.contains(said), "{said}: {console}");
        }
        assert!(!there.is_mounted());
        let heard = heard.lock().unwrap();
        let steps = [&BASE[..], &[Step::Script, Step::Capture], &BASE[..], &[Step::Start]].concat();
        let done: Vec<_> = steps.into_iter().map(|step| (step, Outcome::Done)).collect();
        assert_eq!(outcomes(&heard.events), done);
        assert_eq!(server.faults_left(), 0);
        let [made] = &heard.made[..] else { panic!("{:?}", heard.made) };
        assert_eq!((made.machine.clone(), made.attempt), (machine(), 1));
        assert_eq!((made.run.to_string(), made.boot.as_str()), ("r-1".into(), "boot"));
        assert_eq!(store.images()[&made.image], None);
        let then = heard.receipts[0].clone().unwrap();
        assert_eq!((then.state, then.image), (ReceiptState::Installing, base));
        let now = receipt_on(&there.disk()).unwrap();
        assert_eq!((now.state, now.image), (ReceiptState::Installed, made.image));

        // What others get.
        let exported = folder.path().join("whole");
        store.export(&made.image, &exported);
        let read = |path: &str| debugfs(&exported, ROOT, &format!("cat {path}"));
        assert_eq!(read("/etc/driver"), "for gpu\n");
        assert_eq!(debugfs(&exported, 3, "cat /data"), "data\n");
        for gone in ["/tmp/scratch", "/run/scratch", "/run/ingot/script", "/etc/large"] {
            assert_eq!(read(gone), "", "{gone}");
        }
        let link = debugfs(&exported, ROOT, "stat /etc/resolv.conf");
        assert!(link.contains("../run/systemd/resolve/stub-resolv.conf"), "{link}");
        let envelope = store.envelope(&made.image);
        let base = store.envelope(&base);
        assert_eq!((&envelope.boot, &envelope.table), (&base.boot, &base.table));
        let pairs = envelope.regions.iter().zip(&base.regions);
        let changed = pairs.filter(|(now, was)| now.digest != was.digest);
        let changed: Vec<_> = changed.map(|(now, _)| now.partition).collect();
        assert_eq!(changed, [Some(ROOT), Some(3)], "the disk was larger, and the image is not");
        // The base's chunks were there: what travelled is the small files and what names them.
        let written = heard.events.iter().rev().find_map(|event| match &event.kind {
            EventKind::Log { line } => {
                line.strip_prefix("capture: ").filter(|l| l.ends_with(" sent"))
            }
            _ => None,
        });
        assert!(written.is_some_and(|line| line.contains("KiB")), "{written:?}");
    }

    #[test]
    fn a_script_that_fails_is_told_and_the_disk_is_installed_anew() {
        let store = Store::start();
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("base");
        system::disk(folder.path(), &source);
        // Name servers of its own, which are covered and come back.
        let file = folder.path().join("resolv.conf");
        fs::write(&file, "nameserver 10.0.0.1\n").unwrap();
        debugfs(&source, ROOT, "rm /etc/resolv.conf");
        debugfs(&source, ROOT, &format!("write {} /etc/resolv.conf", file.display()));
        let base = store.import(&source, system::options());
        let there = Machine::new();
        let server = Server::start(&[]);
        let orders = vec![
            // Whose daemon and mounts would keep the file systems in use.
            make(
                base,
                1,
                "setsid sleep 1000 > /srv/log & echo broken > /etc/fstab; cat /etc/resolv.conf\n\
                 mount -t tmpfs left /boot; mkdir /srv/left; mount -t tmpfs left /srv/left; exit 7",
            ),
            make(base, 2, "grep -q PARTUUID /etc/fstab && rm /vmlinuz"),
            make(base, 3, "echo good"),
        ];
        server.fault(MADE, Fault::Status(409));
        let heard = controller(&server, there.disk(), base, orders);
        let (exit, console) = boot_with(&server, &store.base, &roots(there.root.path()));
        assert_eq!(exit, Exit::PowerOff, "{console}");
        assert!(!there.is_mounted());
        let heard = heard.lock().unwrap();
        assert!(heard.made.is_empty());
        let failed =
            outcomes(&heard.events).into_iter().filter_map(|(step, outcome)| match outcome {
                Outcome::Failed { cause } => Some((step, cause)),
                _ => None,
            });
        let failed: Vec<_> = failed.collect();
        assert_eq!(
            failed.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
            [Step::Script, Step::Capture, Step::Capture]
        );
        assert!(
            failed[0].1.contains("exit status: 7") && failed[0].1.contains("nameserver 10.9.8.7"),
            "{failed:?}"
        );
        assert!(failed[1].1.contains("/vmlinuz"), "{failed:?}");
        assert!(failed[2].1.contains("the controller does not take it: "), "{failed:?}");
        assert_eq!((server.faults_left(), heard.check_ins), (0, 4), "asked after each");
        // Deployed afterwards: the receipt never said that the base is installed.
        let now = receipt_on(&there.disk()).unwrap();
        assert_eq!((now.state, now.image), (ReceiptState::Installed, base));
        let bytes = fs::read(there.disk()).unwrap();
        let from = usize::try_from(PARTITIONS[0].0).unwrap();
        let to = usize::try_from(PARTITIONS[2].0 + PARTITIONS[2].1).unwrap();
        assert!(bytes[from..to] == fs::read(&source).unwrap()[from..to], "as the image is");
    }

    /// Runs a script up to where it waits, has something done, and lets it go on; gives what
    /// keeps something in use as long as it is there.
    fn meanwhile(
        folder: PathBuf,
        act: impl FnOnce() -> fs::File + Send + 'static,
    ) -> JoinHandle<fs::File> {
        std::thread::spawn(move || {
            while !folder.join("ready").exists() {
                std::thread::sleep(Duration::from_millis(10));
            }
            let held = act();
            fs::write(folder.join("go"), "").unwrap();
            held
        })
    }

    #[test]
    fn a_disk_that_stays_in_use_fails_the_attempt_with_its_cause_and_restarts_the_machine() {
        let (store, _folder, base) = stocked();
        let wait = "echo said; echo > /srv/ready; while test ! -e /srv/go; do sleep 0.1; done\n";
        // A loop device or swap keeps a disk as whoever opens it for itself, and a file
        // system as whoever has a file open in it.
        for (end, mounted) in [("exit 7", false), ("exit 0", true)] {
            let there = Machine::new();
            let server = Server::start(&[]);
            let orders = vec![make(base, 1, &format!("{wait}{end}"))];
            let heard = controller(&server, there.disk(), base, orders);
            let (srv, disk) = (there.root.path().join("run/root/srv"), there.disk());
            let file = srv.join("ready");
            let exclusive = i32::try_from(OFlags::EXCL.bits()).unwrap();
            let holding = meanwhile(srv, move || match mounted {
                true => fs::File::open(file).unwrap(),
                false => fs::File::options().read(true).custom_flags(exclusive).open(disk).unwrap(),
            });
            let (exit, console) = boot_with(&server, &store.base, &roots(there.root.path()));
            assert_eq!(exit, Exit::Reboot, "{console}");
            assert_eq!(there.is_mounted(), mounted);
            drop(holding.join().unwrap());
            let heard = heard.lock().unwrap();
            assert_eq!((heard.check_ins, heard.made.len()), (1, 0), "not tried on this boot");
            let line = |line: &str| EventKind::Log { line: line.into() };
            assert!(heard.events.iter().any(|event| event.kind == line("| said")));
            let Some((Step::Script, Outcome::Failed { cause })) = outcomes(&heard.events).pop()
            else {
                panic!("{console}")
            };
            let parts = match mounted {
                true => ["the script left something", "unmounting"],
                false => ["exit status: 7; its last lines: said", "opening vda"],
            };
            for part in parts.into_iter().chain(["in use", "machine is restarted"]) {
                assert!(cause.contains(part), "{part}: {cause}");
            }
        }
    }
}
