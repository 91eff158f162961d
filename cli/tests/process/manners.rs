//! Help, colours, exit codes: what holds for every command.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::{World, end};

/// A port that nothing listens on: bound and given back.
fn dead_server() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn help_goes_to_stdout_and_teaches() {
    let help = World::new().ok(["--help"]);
    for text in ["Getting started:", "Exit codes:", "--store", "INGOT_STORE", "machine"] {
        assert!(help.contains(text), "{text} is not in\n{help}");
    }
    let help = World::new().ok(["machine", "ls", "--help"]);
    assert!(help.contains("Examples:") && help.contains("Global options:"), "{help}");
}

#[test]
fn usage_errors_end_with_2_and_suggest() {
    let world = World::new();
    assert!(world.fails(2, ["machines"]).contains("machine"));
    assert!(world.fails(2, ["machine", "show", "a/b"]).contains("is not a machine id"));
    assert!(world.fails(2, ["machine", "ls", "-q", "-v"]).contains("cannot be used with"));
    world.fails(2, Vec::<&str>::new());
}

#[test]
fn a_server_that_is_away_ends_with_7_and_the_way_out() {
    let world = World::new();
    let server = dead_server();
    for command in [&["machine", "ls"][..], &["run", "ls"], &["run", "logs", "r-1"]] {
        let complaint = world.fails(7, command.iter().copied().chain(["--server", &server]));
        assert!(complaint.starts_with("error: cannot get "), "{complaint}");
        assert!(complaint.contains("because: ") && complaint.contains("try: "), "{complaint}");
        assert!(complaint.contains(&server), "{complaint}");
    }
}

#[test]
fn with_json_an_error_is_one_line_of_json() {
    let world = World::new();
    let mut command = world.command(["machine", "ls", "--json"]);
    let ended = end(command.env("INGOT_SERVER", dead_server()));
    assert_eq!((ended.code, ended.stdout.as_str()), (7, ""));
    let error: Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!(error["exit_code"], 7);
    assert_eq!(error["error"], "cannot get the machines");
    assert!(error["causes"].as_array().is_some_and(|causes| !causes.is_empty()));
    assert!(error["next"].as_str().is_some_and(|next| next.contains("ingot serve")));
}

#[test]
fn colour_only_where_it_is_asked_for() {
    let world = World::new();
    let server = dead_server();
    let coloured = |args: &[&str], no_colour: Option<&str>| {
        let mut command = world.command(["machine", "ls", "--server", &server]);
        if let Some(value) = no_colour {
            command.env("NO_COLOR", value);
        }
        end(command.args(args)).stderr.contains('\u{1b}')
    };
    assert!(!coloured(&[], None), "not a terminal");
    assert!(coloured(&["--color", "always"], None));
    assert!(coloured(&["--color", "always"], Some("1")), "said on the command line wins");
}

#[test]
fn on_a_terminal_there_is_colour_unless_it_is_forbidden() {
    let world = World::new();
    let server = dead_server();
    let coloured = |option: &str, no_colour: Option<&str>| {
        let ingot = env!("CARGO_BIN_EXE_ingot");
        let line = format!("'{ingot}' machine ls --server {server} {option}");
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(world.path("."));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", world.path(".")).env("TERM", "xterm").env("SHELL", "/bin/sh");
        command.envs(no_colour.map(|value| ("NO_COLOR", value)));
        let ended = end(command.stdin(Stdio::null()));
        assert_eq!(ended.code, 7, "{ended:#?}");
        assert!(ended.stdout.contains("cannot get the machines"), "{ended:#?}");
        ended.stdout.contains("\u{1b}[3")
    };
    assert!(coloured("", None), "a terminal");
    assert!(coloured("", Some("")), "empty is as good as unset");
    assert!(!coloured("", Some("1")));
    assert!(!coloured("--color never", None));
    assert!(coloured("--color always", Some("1")), "said on the command line wins");
}

#[test]
fn a_mistake_in_a_recipe_ends_with_5_and_shows_its_place() {
    let world = World::new();
    let base = "recipe = \"web\"\n[base]\ndistro = \"debian/bookworm\"\n";
    let table = [
        (format!("{base}packges = [\"less\"]\n"), "web.toml:4:1: unknown field `packges`"),
        (format!("{base}packages = 3\n"), "web.toml:4:12: "),
        ("recipe = \n".to_owned(), "web.toml:1:"),
    ];
    for (recipe, place) in table {
        world.file("web.toml", &recipe);
        let complaint = world.fails(5, ["build", "web.toml", "-t", "lab/web:1"]);
        assert!(complaint.starts_with("error: cannot build lab/web:1\n"), "{complaint}");
        assert!(complaint.contains(place), "{place} is not in\n{complaint}");
        assert!(complaint.contains("\n  try: "), "{complaint}");
    }
    assert_eq!(world.names("."), ["web.toml"], "no store is made, nothing is fetched");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let world = World::new();
    let mut command = world.command(["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn completions_exist_for_every_shell() {
    let world = World::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = world.ok(["completions", shell]);
        assert!(script.contains("machine") && script.contains("ingot"), "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let world = World::new();
    world.ok(["man", "--out", "pages"]);
    let pages = world.names("pages");
    for page in ["ingot.1", "ingot-machine-show.1", "ingot-run-logs.1"] {
        assert!(pages.iter().any(|name| name == page), "{page} is not in {pages:?}");
    }
    let page = std::fs::read_to_string(world.path("pages/ingot-run-logs.1")).unwrap();
    assert!(page.contains("Examples:"), "{page}");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let world = World::new();
    world.file("taken", "");
    let complaint = world.fails(1, ["man", "--out", "taken/pages"]);
    assert!(complaint.contains("cannot make the folder taken/pages"), "{complaint}");
}
