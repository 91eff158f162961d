//! Recipes as people write them, right and wrong.

use super::*;

const HEAD: &str = "recipe = \"web\"\n";
const BASE: &str = "[base]\ndistro = \"debian/bookworm\"\n";

fn load(text: &str) -> Result<Recipe, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("files")).unwrap();
    for (name, mode) in [("plain", 0o600), ("tool", 0o700)] {
        let path = dir.path().join("files").join(name);
        std::fs::write(&path, name).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&path, mode).unwrap();
    }
    std::fs::write(dir.path().join("binary"), [0x7f, 0xff]).unwrap();
    std::fs::write(dir.path().join("large"), vec![b'#'; (1 << 20) + 1]).unwrap();
    let path = dir.path().join("r.toml");
    std::fs::write(&path, text).unwrap();
    Recipe::load(&path)
        .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
}

#[test]
fn the_shortest_recipe_has_all_defaults() {
    let recipe = load(&format!("{HEAD}{BASE}")).unwrap();
    assert_eq!(recipe.name, "web");
    assert_eq!(recipe.base.distro, Distro::Bookworm);
    assert_eq!(recipe.base.components, ["main"]);
    assert_eq!(recipe.steps, [Step { name: "web".to_owned(), ..Step::default() }]);
    assert_eq!(
        recipe.system,
        System { hostname: "web".to_owned(), root_password: None, dhcp: true }
    );
    assert_eq!(recipe.disk, Disk { size: RootSize::Fit, cmdline: String::new() });
    assert_eq!(recipe.target, None);
    assert_eq!(recipe.check.boot, []);
    assert_eq!(recipe.check.expect, "login:");
}

#[test]
fn every_part_of_a_recipe_is_read() {
    let text = r#"
        recipe = "all_in.1"
        uses = ["label.role", "cpu.arch", "label.role"]
        packages = ["nginx-light", "curl=7.88.1-10+deb12u5", "curl=7.88.1-10+deb12u5"]
        script = "echo one"
        [base]
        distro = "debian/trixie"
        components = ["main", "non-free-firmware"]
        packages = ["linux-image-amd64", "g++"]
        [files]
        "etc/a" = "files/plain"
        "/usr/bin/b" = "files/tool"
        "etc/c" = { from = "files/plain", mode = "0440" }
        "etc/d" = { text = "hello\n" }
        [[step]]
        name = "second"
        script = """
        #!/bin/sh
        true
        """
        [[step]]
        name = "third"
        script = "files/tool"
        [system]
        hostname = "a.example"
        root-password = "$6$salt$hash"
        dhcp = false
        [disk]
        size = "2 GiB"
        cmdline = "quiet mitigations=off"
        [check]
        script = "test -e /etc/a"
        boot = ["uefi", "bios", "uefi"]
        expect = "ready"
        timeout = 60
    "#;
    let recipe = load(text).unwrap();
    assert_eq!(recipe.base.packages, ["g++", "linux-image-amd64"]);
    assert_eq!(recipe.uses, ["cpu.arch", "label.role"]);
    assert_eq!(recipe.steps.len(), 3);
    let first = &recipe.steps[0];
    assert_eq!(first.packages, ["curl=7.88.1-10+deb12u5", "nginx-light"]);
    let modes: Vec<_> = first.files.iter().map(|(path, file)| (path.as_str(), file.mode)).collect();
    assert_eq!(modes, [("etc/a", 0o644), ("etc/c", 0o440), ("etc/d", 0o644), ("usr/bin/b", 0o755)]);
    assert_eq!(first.files["etc/d"].bytes, b"hello\n");
    assert_eq!(recipe.steps[2].script.as_ref().unwrap().bytes, b"tool");
    assert_eq!(recipe.disk.size, RootSize::Bytes(2 << 30));
    assert_eq!(recipe.check.boot, [Firmware::Bios, Firmware::Uefi]);
    assert_eq!((recipe.check.expect.as_str(), recipe.check.timeout_secs), ("ready", 60));
}

/// What is wrong with a recipe, as the message has it behind `r.toml:`.
#[test]
fn a_mistake_says_where_it_is_and_what_is_allowed() {
    let cases = [
        (String::new(), "1:1: missing field `recipe`"),
        ("recipe = ".to_owned(), "1:10: string values must be quoted"),
        (HEAD.to_owned(), "1:1: missing field `base`"),
        (
            format!("{HEAD}pakages = []\n{BASE}"),
            "2:1: unknown field `pakages`, expected one of `recipe`, `uses`, `base`, `packages`, `files`, \
             `script`, `step`, `system`, `disk`, `check`, `target`",
        ),
        (format!("recipe = \"Web\"\n{BASE}"), "1:10: \"Web\" is not a recipe name"),
        (format!("{HEAD}{BASE}[target]\n"), "4:1: missing field `script`"),
        (
            format!("{HEAD}{BASE}[target]\nscript = \"a b\"\ntimout = 4\n"),
            "6:1: unknown field `timout`, expected one of `script`, `uses`, `timeout`",
        ),
        (
            format!("{HEAD}{BASE}[target]\nscript = \"absent.sh\"\n"),
            "5:10: cannot read absent.sh: No such file",
        ),
        (format!("{HEAD}{BASE}[target]\nscript = \" \"\n"), "5:10: an empty script"),
        (
            format!("{HEAD}{BASE}[target]\nscript = \"binary\"\n"),
            "5:10: a script for a machine is text in UTF-8",
        ),
        (
            format!("{HEAD}{BASE}[target]\nscript = \"large\"\n"),
            "5:10: a script for a machine has at most 1048576 bytes",
        ),
        (
            format!("{HEAD}{BASE}[target]\nscript = \"a b\"\ntimeout = 0\n"),
            "6:11: expected 1 to 86400 seconds",
        ),
        (
            format!("{HEAD}{BASE}[target]\nscript = \"a b\"\ntimeout = 86401\n"),
            "6:11: expected 1 to 86400 seconds",
        ),
        (
            format!("{HEAD}{BASE}[target]\nscript = \"a b\"\nuses = [\"cpu.cuont\"]\n"),
            "6:9: no machine reports \"cpu.cuont\": did you mean cpu.count?",
        ),
        (
            format!(
                "{HEAD}uses = [\"label.a-b\"]\n{BASE}[target]\nscript = \"a b\"\n\
                 uses = [\"label.a_b\"]\n"
            ),
            "7:9: \"label.a_b\" and \"label.a-b\" would both be INGOT_LABEL_A_B",
        ),
        (
            format!("{HEAD}uses = [\"cpu.arch\", \"cpu.cuont\"]\n{BASE}"),
            "2:21: no machine reports \"cpu.cuont\": did you mean cpu.count?",
        ),
        (
            format!("{HEAD}uses = [\"label.\"]\n{BASE}"),
            "2:9: \"label.\" is not a label: expected one like \"label.role\"",
        ),
        (
            format!("{HEAD}uses = [\"answer.role\", \"answer.a b\"]\n{BASE}"),
            "2:24: \"answer.a b\" is not an answer: expected one like \"answer.role\"",
        ),
        (
            format!("{HEAD}uses = [\"label.a-b\", \"label.a_b\"]\n{BASE}"),
            "2:22: \"label.a_b\" and \"label.a-b\" would both be INGOT_LABEL_A_B",
        ),
        (
            format!("{HEAD}[base]\ndistro = \"debian/woody\"\n"),
            "3:10: unknown distro \"debian/woody\": expected \"debian/bookworm\" or \
             \"debian/trixie\"",
        ),
        (
            format!("{HEAD}packages = [\"ok\", \"--purge\"]\n{BASE}"),
            "2:19: \"--purge\" is not a package",
        ),
        (format!("{HEAD}packages = [\"nano-\"]\n{BASE}"), "2:13: \"nano-\" is not a package"),
        (format!("{HEAD}packages = \"nano\"\n{BASE}"), "2:12: invalid type: string \"nano\""),
        (
            format!("{HEAD}{BASE}[files]\n\"etc/../../x\" = \"files/plain\"\n"),
            "5:1: \"etc/../../x\" is not the path of a file",
        ),
        (
            format!("{HEAD}{BASE}[files]\n\"run/x\" = \"files/plain\"\n"),
            "5:1: /run/ is empty in an image",
        ),
        (
            format!("{HEAD}{BASE}[files]\n\"etc/x\" = \"files/none\"\n"),
            "5:11: cannot read files/none: No such file",
        ),
        (
            format!("{HEAD}{BASE}[files]\n\"etc/x\" = {{ mode = \"0644\" }}\n"),
            "5:11: a file needs either `from`",
        ),
        (
            format!("{HEAD}{BASE}[files]\n\"etc/x\" = {{ text = \"\", mode = \"rw\" }}\n"),
            "5:31: expected the mode in octal digits",
        ),
        (
            format!("{HEAD}{BASE}[files]\n\"etc/x\" = {{ txt = \"\" }}\n"),
            "5:13: unknown field `txt`, expected one of `from`, `text`, `mode`",
        ),
        (
            format!("{HEAD}{BASE}[files]\n\"etc/x\" = 5\n"),
            "5:11: invalid type: integer `5`, expected the path of a file, or a table",
        ),
        (
            format!(
                "{HEAD}{BASE}[files]\n\"etc/x\" = \"files/tool\"\n\"/etc/x\" = \"files/tool\"\n"
            ),
            "5:1: etc/x is there twice",
        ),
        (format!("{HEAD}{BASE}[[step]]\n"), "4:1: missing field `name`"),
        (
            format!("{HEAD}{BASE}[[step]]\nname = \"a\"\n[[step]]\nname = \"a\"\n"),
            "7:8: two steps have the name \"a\"",
        ),
        (
            format!("{HEAD}{BASE}[system]\nhostname = \"-a\"\n"),
            "5:12: \"-a\" is not a host name (RFC 1123)",
        ),
        (
            format!("{HEAD}{BASE}[system]\nroot-password = \"secret\"\n"),
            "5:17: expected the crypt(3) hash of a password",
        ),
        (format!("{HEAD}{BASE}[disk]\nsize = \"big\"\n"), "5:8: expected \"fit\" or a size"),
        (format!("{HEAD}{BASE}[disk]\nsize = \"1 MiB\"\n"), "5:8: expected \"fit\" or a size"),
        (
            format!("{HEAD}{BASE}[disk]\ncmdline = \"a; reboot\"\n"),
            "5:11: expected kernel parameters",
        ),
        (
            format!("{HEAD}{BASE}[check]\nboot = [\"bios\", \"coreboot\"]\n"),
            "5:17: unknown firmware \"coreboot\": expected bios or uefi",
        ),
        (
            format!("{HEAD}{BASE}[check]\nboot = \"yes\"\n"),
            "5:8: invalid type: string \"yes\", expected true, false or a list of firmware",
        ),
        (format!("{HEAD}{BASE}[check]\ntimeout = 0\n"), "5:11: expected 1 to 3600 seconds"),
        (format!("{HEAD}{BASE}[check]\nexpect = \"\"\n"), "5:10: expected 1 to 256 bytes"),
    ];
    for (text, expected) in cases {
        let error = load(&text).expect_err(&text);
        let message = error.strip_prefix("r.toml:").unwrap_or(&error);
        assert!(message.starts_with(expected), "{text}\n  {message}\n  {expected}");
    }
}

#[test]
fn a_file_that_cannot_be_read_as_a_recipe_is_named() {
    let error = Recipe::load(Path::new("/no/such/recipe.toml")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the recipe /no/such/recipe.toml");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.toml");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(Recipe::load(&path), Err(RecipeError::Read { .. })));
}

#[test]
fn too_much_of_anything_is_refused() {
    let many = |line: &str, count: usize| -> String {
        (0..count).map(|i| line.replace('#', &i.to_string())).collect()
    };
    let packages = many("\"p#x\",", PACKAGES_MAX + 1);
    let steps = many("[[step]]\nname = \"s#\"\n", STEPS_MAX);
    let files = many("\"etc/f#\" = { text = \"\" }\n", FILES_MAX + 1);
    for text in [
        format!("{HEAD}packages = [{packages}]\n{BASE}"),
        format!("{HEAD}{BASE}{steps}"),
        format!("{HEAD}{BASE}[files]\n{files}"),
    ] {
        assert!(load(&text).unwrap_err().contains("more than"), "accepted {} bytes", text.len());
    }
    let uses = many("\"label.l#\",", USES_MAX + 1);
    assert!(load(&format!("{HEAD}uses = [{uses}]\n{BASE}")).unwrap_err().contains("more than"));
    let long = format!("{HEAD}{BASE}#{}", "x".repeat(RECIPE_BYTES_MAX as usize));
    assert!(load(&long).unwrap_err().contains("cannot read"));
}

#[test]
fn the_recipes_of_this_tree_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|name| name == "toml") {
            let recipe = Recipe::load(&path).unwrap();
            assert_eq!(Some(recipe.name.as_str()), path.file_stem().and_then(|name| name.to_str()));
            count += 1;
        }
    }
    assert!(count >= 2);
}
