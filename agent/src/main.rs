//! `ingot-agent`: the first and only process of a machine that boots over the network.

use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent::agent::Agent;
use agent::boot;
use agent::config::Config;
use agent::console::Console;
use agent::controller::Controller;
use agent::events::EventLog;
use agent::inventory::{self, Reached, Roots};
use agent::kmsg;
use agent::net::held::Held;
use agent::net::{Network, lldp};
use agent::report::Report;
use agent::start::{self, Exit};
use agent::uevent::Uevents;
use store_remote::{Options, SystemTiming, Timing};
use wire::{EventKind, Step};

const HELP: &str = "ingot-agent runs as the first process of a machine that boots over the network.\n\
                    Here it only answers:\n\
                    \x20 --inventory  what it would report of this machine, as JSON\n\
                    \x20 --version    its version";

/// How long a failure at the very end may take to reach the controller.
const LAST_WORDS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if std::process::id() == 1 {
        first_process()
    }
    match std::env::args().nth(1).as_deref() {
        Some("--version") => println!("ingot-agent {}", env!("CARGO_PKG_VERSION")),
        Some("--inventory") => match print_inventory() {
            Ok(()) => {}
            Err(error) => {
                eprintln!("ingot-agent: {error:#}");
                return ExitCode::FAILURE;
            }
        },
        Some("--help") => println!("{HELP}"),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn print_inventory() -> anyhow::Result<()> {
    println!(
        "{}",
        serde_json::to_string_pretty(&inventory::read(&Roots::default(), &Reached::default()))?
    );
    Ok(())
}

/// Never returns: the kernel panics when its first process ends.
fn first_process() -> ! {
    boot::mount_all();
    let roots = Roots::default();
    let console = Arc::new(Console::open(&roots.sys, &roots.dev));
    let file = fs::read_to_string("/etc/ingot/agent.json").ok();
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let config = Config::read(file.as_deref(), &cmdline);
    let patience = config.as_ref().map_or(Duration::from_secs(60), |config| config.panic);
    restart_on_panic(Arc::clone(&console), patience);
    console.say(concat!("ingot agent ", env!("CARGO_PKG_VERSION")));
    let exit = match config {
        Ok(config) => work(config, roots, &console),
        Err(error) => {
            console.say(&error.to_string());
            console.say(&format!("restarting in {} s", patience.as_secs()));
            std::thread::sleep(patience);
            Exit::Reboot
        }
    };
    leave(exit, &console)
}

/// A defect must not leave a machine dead: it says so, then starts again.
fn restart_on_panic(console: Arc<Console>, patience: Duration) {
    std::panic::set_hook(Box::new(move |info| {
        console.say(&format!("ingot agent: a defect: {info}"));
        console.say(&format!("restarting in {} s", patience.as_secs()));
        std::thread::sleep(patience);
        leave(Exit::Reboot, &console)
    }));
}

fn leave(exit: Exit, console: &Console) -> ! {
    let word = match exit {
        Exit::Kexec => "starting the installed OS",
        Exit::Reboot => "restarting",
        Exit::PowerOff => "switching off",
    };
    console.say(word);
    let error = start::leave(exit);
    console.say(&format!("{word} failed: {error}"));
    // Where not even a restart works there is only waiting for a person.
    loop {
        std::thread::sleep(Duration::from_secs(60));
        console.say(&format!("{word} failed: {}", start::leave(Exit::Reboot)));
    }
}

fn work(config: Config, roots: Roots, console: &Arc<Console>) -> Exit {
    let timing: Arc<dyn Timing> = Arc::new(SystemTiming::default());
    let boot = random_name();
    let log = Arc::new(EventLog::new(boot.clone()));
    let report = Report { console: Arc::clone(console), log: Arc::clone(&log), timing };
    if let Ok(kernel) = fs::File::open(roots.dev.join("kmsg")) {
        let report = report.clone();
        std::thread::spawn(move || {
            kmsg::follow(kernel, |line| report.event(EventKind::Log { line }))
        });
    }
    find_hardware(&roots, &report);

    // From now on, as switches speak up twice a minute only.
    let heard = lldp::listen(&roots.sys, &report.timing);
    let network = Arc::new(Network {
        sys: roots.sys.clone(),
        boot_mac: config.boot_mac,
        server: config.server.clone(),
        timing: Arc::clone(&report.timing),
    });
    let up = || Ok::<_, std::convert::Infallible>(network.bring_up(&|l| report.say(l)));
    let Ok(connected) = report.step(Step::Network, |_| up());
    let held = Held::of(connected.lease.clone());
    let reached = Reached { card: Some(connected.link.name.clone()), lease: held.clone(), heard };
    let keeper = report.clone();
    std::thread::spawn(move || network.keep(connected, &held, |line| keeper.say(line)));

    let sender = report.clone();
    let server = Controller::new(&config.server);
    std::thread::spawn(move || {
        let say = |line: &str| sender.console.say(line);
        sender.log.send_all(&*sender.timing, |batch| server.events(batch), say)
    });
    let controller = Controller::new(&config.server);
    let agent = Agent {
        server: config.server,
        roots,
        boot,
        work: "/run/ingot".into(),
        reached,
        report: report.clone(),
        options: Options::default(),
    };
    let exit = agent.run(&controller);
    if exit != Exit::Kexec {
        return exit;
    }
    console.say("starting the installed OS");
    // A step that was told done can fail yet.
    let _ = report.step(Step::Start, |_| Err::<(), _>(start::leave(exit)));
    report.log.flush(LAST_WORDS);
    Exit::Reboot
}

fn find_hardware(roots: &Roots, report: &Report) {
    let found = report.step(Step::Inventory, |_| {
        let uevents = Uevents::open().ok();
        let mut modules = boot::modules();
        let say = |line: &str| report.say(line);
        boot::load_drivers(roots, modules.as_mut(), uevents.as_ref(), &*report.timing, &say);
        boot::mount_efivars(modules.as_mut());
        for disk in inventory::disks(roots) {
            say(&format!("disk: {}", agent::choose::describe(&disk)));
        }
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(()) = found;
}

/// 32 hex digits that no other boot has.
fn random_name() -> String {
    let mut bytes = [0; 16];
    // Does not fail for so few bytes; were it to, a fixed name would only merge two logs.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
