//! Policy files, right and wrong.

use controller::Policy;
use controller::policy::{
    ImageSet, Limit, Member, Missing, OnTarget, Outcome, RecipeFacts, Source,
};
use wire::{DiskChoice, FactValue, Facts, Start};

fn facts(pairs: &[(&str, &str)]) -> Facts {
    let text = |value: &str| FactValue::Text(value.to_owned());
    pairs.iter().map(|(path, value)| ((*path).to_owned(), text(value))).collect()
}

#[test]
fn the_first_rule_that_matches_decides_and_why_shows_all() {
    let policy = Policy::parse(
        r#"
        # Comments are welcome.
        [[rule]]
        name = "dell web"
        when = '''
            system.manufacturer like "Dell*"
            and label.role == "web"
        '''
        image = "web:stable"
        disk = { model = "PERC", size-min = "100 GiB", size-max = 2000000000000 }
        start = "power-off"

        [[rule]]
        name = "web"
        when = "label.role == 'web'"
        image = "lab/web@blake3:0000000000000000000000000000000000000000000000000000000000000000"

        [[rule]]
        name = "old"
        when = 'system.manufacturer == "Ancient"'
        fail = "no longer supported"

        [[rule]]
        name = "rest"
        hold = "ask the operators"
        "#,
    )
    .unwrap();
    let Outcome::Images(set) = &policy.rules()[0].outcome else { panic!() };
    assert_eq!((set.start, &set.others), (Start::PowerOff, &vec![]));
    assert_eq!(set.system.source, Source::Image("web:stable".parse().unwrap()));
    let disk = DiskChoice {
        model: Some("PERC".into()),
        size_bytes_min: Some(100 << 30),
        size_bytes_max: Some(2_000_000_000_000),
        ..DiskChoice::default()
    };
    assert_eq!(set.system.disk, disk);

    let table = [
        (facts(&[("system.manufacturer", "Dell Inc."), ("label.role", "web")]), "dell web"),
        (facts(&[("label.role", "web")]), "web"),
        (facts(&[("system.manufacturer", "Ancient")]), "old"),
        (facts(&[]), "rest"),
    ];
    for (facts, winner) in table {
        assert_eq!(policy.decide(&facts).map(|rule| rule.name.as_str()), Some(winner));
        let why = policy.why(&facts);
        assert_eq!(why.len(), 4);
        assert_eq!(
            why.iter().find(|rule| rule.matched).map(|rule| rule.name.as_str()),
            Some(winner)
        );
    }
    let why = policy.why(&facts(&[("label.role", "web")]));
    let comparisons = &why[0].when.as_ref().unwrap().comparisons;
    assert_eq!(comparisons[0].comparison, r#"system.manufacturer like "Dell*""#);
    assert_eq!(comparisons[0].reported, None);
    assert_eq!(
        (why[0].outcome.as_str(), why[3].outcome.as_str()),
        ("image web:stable", "hold: ask the operators")
    );
    assert!(why[3].when.is_none());
}

#[test]
fn an_empty_policy_is_right_and_matches_nothing() {
    let policy = Policy::parse("# nothing yet\n").unwrap();
    assert_eq!(policy.decide(&facts(&[])), None);
}

fn problems(text: &str) -> String {
    let line = |p: &wire::admin::PolicyProblem| format!("{}:{}: {}", p.line, p.column, p.message);
    match Policy::parse(text) {
        Ok(_) => "none".to_owned(),
        Err(problems) => problems.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn every_problem_is_told_with_its_place_and_what_is_allowed() {
    let table = [
        ("[[rule]\n", "1:8: not TOML: unclosed array table, expected `]`"),
        ("[rule]\nname = 'a'", "1:1: rules are written as [[rule]], with two brackets"),
        ("rule = 4", "1:8: rules are written as [[rule]], with two brackets"),
        ("rule = [4]", "1:9: rules are written as [[rule]], with two brackets"),
        (
            "[[rules]]\n",
            "1:3: unknown key \"rules\": did you mean rule? a policy has rule, question",
        ),
        (
            "[[rule]]\nname = 'a'",
            "1:1: this rule says nothing: add one of image, recipe, set, hold or fail",
        ),
        ("[[rule]]\nhold = 'x'", "1:1: this rule has no name: add name = \"…\""),
        ("[[rule]]\nname = ''\nhold = 'x'", "2:8: name is empty"),
        ("[[rule]]\nname = 4\nhold = 'x'", "2:8: name is a text in quotes, not integer"),
        (
            "[[rule]]\nname = \"a\\nb\"\nhold = 'x'",
            "2:8: name has control characters: it is shown on one line of a console",
        ),
        (
            "[[rule]]\nname = 'a'\nhold = 'x'\nfail = 'y'",
            "1:1: this rule has hold and fail: leave only one",
        ),
        (
            "[[rule]]\nname = 'a'\nimgae = 'x'\nhold = 'x'",
            "3:1: unknown key \"imgae\": did you mean image? a rule has name, when, image, recipe, set, missing, disk, start, limit, hold, fail",
        ),
        (
            "[[rule]]\nname = 'a'\nscript = 'x'\nhold = 'x'",
            "3:1: unknown key \"script\": a rule has name, when, image, recipe, set, missing, disk, start, limit, hold, fail",
        ),
        (
            "[[rule]]\nname = 'a'\nhold = 'x'\nstart = 'kexec'",
            "4:9: start goes with image, recipe or set, not with hold",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x'\nmissing = 'hold'",
            "4:11: missing goes with recipe, not with image",
        ),
        (
            "[[rule]]\nname = 'a'\nrecipe = 'x.toml'\nmissing = 'wait'",
            "4:11: missing is one of build, on-target, hold, fail, not \"wait\"",
        ),
        ("[[rule]]\nname = 'a'\nrecipe = 4", "3:10: recipe is a text in quotes, not integer"),
        (
            "[[rule]]\nname = 'a'\nrecipe = 'x.toml'\nimage = 'x'",
            "1:1: this rule has image and recipe: leave only one",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x'\nstart = 'now'",
            "4:9: start is one of kexec, reboot, power-off, not \"now\"",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'X'",
            "3:9: \"X\" is not an image name: use lower-case letters, digits, '.', '_', '-' and '/' (at most 255), starting each part with a letter or digit",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x:'",
            "3:9: \"\" is not a tag: use letters, digits, '.', '_' and '-' (at most 128)",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x'\ndisk = 'sda'",
            "4:8: disk is a table of serial, wwid, model, size-min, size-max",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x'\ndisk = { sizemin = 4 }",
            "4:10: unknown key \"sizemin\": did you mean size-min? a disk has serial, wwid, model, size-min, size-max",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x'\ndisk = { size-min = '1 GB', size-max = 4 }",
            "4:8: no disk fits: size-min is more than size-max",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x'\ndisk = { size-min = '1.5 GB' }",
            "4:21: only whole numbers: take a smaller unit, such as 1536 MiB for 1.5 GiB",
        ),
        (
            "[[rule]]\nname = 'a'\nimage = 'x'\ndisk = { size-min = -4 }",
            "4:21: unexpected '-'; numbers are not negative here",
        ),
        (
            "[[rule]]\nname = 'a'\nwhen = 'cpu.count = 4'\nhold = 'x'",
            "3:19: unexpected '='; to compare, write \"==\"",
        ),
        (
            "[[rule]]\nname = 'a'\nwhen = '''\ncpu.count == 4\n  and cpu.cuont == 4'''\nhold = 'x'",
            "5:7: no machine reports \"cpu.cuont\": did you mean cpu.count?",
        ),
        (
            "[[rule]]\nname = 'a'\nwhen = \"label.a == \\\"b\\\" und\"\nhold = 'x'",
            "3:8: expected \"and\", \"or\" or the end, found \"und\"",
        ),
        (
            "[[rule]]\nname = 'a'\nwhen = 'memory.usable >= \"8 GiB\"'\nhold = 'x'",
            "3:26: expected a number after \">=\", found the text \"8 GiB\"",
        ),
        (
            "[[rule]]\nname = 'a'\nwhen = 'system.product == 8'\nhold = 'x'",
            "3:9: system.product is a text: compare it with one in quotes, by ==, !=, in or like",
        ),
        (
            "[[rule]]\nname = 'a'\nwhen = true\nhold = 'x'",
            "3:8: when is a text in quotes, not boolean",
        ),
        (
            "[[rule]]\nname = 'a'\nwhen = 'cpu.count == 1'\nhold = 'x'\n[[rule]]\nname = 'a'\nhold = 'y'",
            "6:8: a rule named \"a\" stands in line 1 already",
        ),
        (
            "[[rule]]\nname = 'a'\nhold = 'x'\n[[rule]]\nname = 'b'\nhold = 'y'",
            "4:1: this rule is never reached: rule \"a\" in line 1 has no \"when\", so it always matches; move that one to the end",
        ),
        (
            "[[rule]]\nhold = 4\n[[rule]]\nname = 'b'\nimage = 4",
            "1:1: this rule has no name: add name = \"…\"\n2:8: hold is a text in quotes, not integer\n5:9: image is a text in quotes, not integer",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(problems(text), expected, "{text}");
    }
}

#[test]
fn a_rule_may_name_a_recipe_with_all_that_goes_with_an_image() {
    let policy = Policy::parse(
        "[[rule]]\nname = 'a'\nwhen = 'cpu.count == 1'\nrecipe = 'recipes/a.toml'\n\
         [[rule]]\nname = 'b'\nrecipe = '/b.toml'\nmissing = 'fail'\nstart = 'reboot'\n\
         disk = { model = 'x' }\n",
    )
    .unwrap();
    let outcomes: Vec<_> = policy.rules().iter().map(|rule| rule.outcome.clone()).collect();
    let one = |file: &str, missing, disk, start| {
        let system = Member { source: Source::Recipe { file: file.into(), missing }, disk };
        Outcome::Images(ImageSet { system, others: vec![], start })
    };
    let disk = DiskChoice { model: Some("x".into()), ..DiskChoice::default() };
    let plain = one("recipes/a.toml", Missing::Build, DiskChoice::default(), Start::Kexec);
    let full = one("/b.toml", Missing::Fail, disk, Start::Reboot);
    assert_eq!(outcomes[0].to_string(), "recipe recipes/a.toml");
    assert_eq!(outcomes, [plain, full]);
}

#[test]
fn a_rule_may_give_several_images_each_with_a_disk() {
    let policy = Policy::parse(
        "[[rule]]\nname = 'a'\nstart = 'reboot'\nset = [\n\
         { image = 'lab/system:1', disk = { size-max = '100 GB' } },\n\
         { recipe = 'data.toml', missing = 'hold', disk = { serial = 'X' } },\n\
         { image = 'more' },\n]\n",
    )
    .unwrap();
    let Outcome::Images(set) = &policy.rules()[0].outcome else { panic!() };
    assert_eq!(set.to_string(), "set of image lab/system:1, recipe data.toml, image more");
    assert_eq!(set.start, Start::Reboot);
    let recipe = Source::Recipe { file: "data.toml".into(), missing: Missing::Hold };
    let sources: Vec<_> = set.members().map(|member| member.source.clone()).collect();
    let image = |name: &str| Source::Image(name.parse().unwrap());
    assert_eq!(sources, [image("lab/system:1"), recipe, image("more")]);
    let disks: Vec<_> = set.members().map(|member| member.disk.clone()).collect();
    let small = DiskChoice { size_bytes_max: Some(100_000_000_000), ..DiskChoice::default() };
    let serial = DiskChoice { serial: Some("X".into()), ..DiskChoice::default() };
    assert_eq!(disks, [small, serial, DiskChoice::default()]);
}

#[test]
fn every_problem_of_a_set_is_told_with_its_place() {
    let many = vec!["{ image = 'x' }"; 17].join(", ");
    let table = [
        ("set = 4", "3:7: set is a list of tables, such as [{ image = \"…\", disk = {…} }, …]"),
        ("set = []", "3:7: the set is empty: name its images, or leave it out"),
        (
            "set = [{ image = 'x' }]",
            "3:7: a set of one: write image = or recipe = in the rule instead of set",
        ),
        (&format!("set = [{many}]"), "3:7: too many images in a set: 16 are most"),
        (
            "set = ['x', { image = 'y' }]",
            "3:8: an image of a set is a table of image, recipe, missing, disk",
        ),
        (
            "set = [{ imgae = 'x' }, { image = 'y', start = 'kexec' }]",
            "3:8: this image of a set says nothing: add one of image or recipe\n\
             3:10: unknown key \"imgae\": did you mean image? an image of a set has image, recipe, missing, disk\n\
             3:40: unknown key \"start\": an image of a set has image, recipe, missing, disk",
        ),
        (
            "set = [{ image = 'x', recipe = 'y' }, { image = 'z' }]",
            "3:8: this image of a set has image and recipe: leave only one",
        ),
        (
            "set = [{ image = 'x', missing = 'hold' }, { image = 'X', disk = { serial = 'a' } }]",
            "3:33: missing goes with recipe, not with image\n\
             3:53: \"X\" is not an image name: use lower-case letters, digits, '.', '_', '-' and '/' (at most 255), starting each part with a letter or digit",
        ),
        (
            "set = [{ image = 'x' }, { image = 'y', disk = { serial = 'a' } }, { image = 'z' }]",
            "3:67: image 1 and this one say nothing of their disks: say which disk each goes to, as in disk = { serial = \"…\" }",
        ),
        (
            "set = [{ image = 'x', disk = { size-min = 1000 } }, { image = 'y', disk = { size-min = '1 kB' } }]",
            "3:53: image 1 and this one go to the same disk: each needs one of its own",
        ),
        (
            "set = [{ image = 'x' }, { image = 'y', disk = { serial = 'a' } }]\ndisk = { serial = 'b' }\nmissing = 'hold'",
            "4:8: disk goes with image or recipe, not with set: each of its images has its own\n\
             5:11: missing goes with recipe, not with set: each of its images has its own",
        ),
        (
            "set = [{ image = 'x' }, { image = 'y', disk = { serial = 'a' } }]\nimage = 'z'",
            "1:1: this rule has image and set: leave only one",
        ),
    ];
    for (lines, expected) in table {
        assert_eq!(problems(&format!("[[rule]]\nname = 'a'\n{lines}")), expected, "{lines}");
    }
}

#[test]
fn a_wrong_recipe_is_a_problem_of_the_rule_that_names_it() {
    let text = "[[rule]]\nname = 'a'\nwhen = 'cpu.count == 1'\nrecipe = 'right.toml'\n\
                [[rule]]\nname = 'b'\nrecipe = 'wrong.toml'\n";
    let recipes = |path: &std::path::Path| match path.to_str() {
        Some("right.toml") => Ok(RecipeFacts::default()),
        _ => Err(format!("{}:3:7: unknown field", path.display())),
    };
    let problems = Policy::check(text, &recipes).problems;
    let seen: Vec<_> = problems.iter().map(|p| (p.line, p.column, p.message.as_str())).collect();
    assert_eq!(seen, [(7, 10, "wrong.toml:3:7: unknown field")]);
    assert_eq!(Policy::parse_with(text, &recipes), Err(problems));
}

#[test]
fn a_rule_may_have_a_limit() {
    let limit = |text: &str| {
        let text = format!("[[rule]]\nname = 'a'\nimage = 'x'\nlimit = {text}\n");
        let policy = Policy::parse(&text).unwrap();
        policy.rules()[0].limit.clone().unwrap()
    };
    let all = limit(
        "{ machines = 10, at-once = 2, from = '2026-12-01T08:00:00+01:00', \
         until = 2026-12-02T00:00:00Z }",
    );
    assert_eq!((all.machines, all.at_once), (Some(10), Some(2)));
    assert_eq!(
        all.to_string(),
        "at most 10 machines in all, at most 2 at a time, from 2026-12-01T07:00:00Z, until \
         2026-12-02T00:00:00Z"
    );
    assert_eq!(limit("{ at-once = 1 }"), Limit { at_once: Some(1), ..Limit::default() });
}

#[test]
fn every_problem_of_a_limit_is_told_with_its_place() {
    let count = |key: &str| format!("{key} is a whole number from 1 to 1000000");
    let time = |key: &str, text: &str| {
        format!(
            "{key} is a time with its zone, such as \"2026-12-01T08:00:00Z\" or \
             \"2026-12-01T09:00:00+01:00\", not {text:?}"
        )
    };
    let table = [
        ("4", "4:9: limit is a table of machines, at-once, from, until".to_owned()),
        ("{}", "4:9: the limit limits nothing: add machines, at-once, from or until".to_owned()),
        (
            "{ machnes = 4, at-once = 1 }",
            "4:11: unknown key \"machnes\": did you mean machines? a limit has machines, at-once, from, until".to_owned(),
        ),
        ("{ machines = 0 }", format!("4:22: {}", count("machines"))),
        ("{ machines = 1000001 }", format!("4:22: {}", count("machines"))),
        ("{ at-once = -1 }", format!("4:21: {}", count("at-once"))),
        ("{ at-once = '2' }", format!("4:21: {}", count("at-once"))),
        ("{ from = '2026-12-01' }", format!("4:18: {}", time("from", "2026-12-01"))),
        ("{ from = 2026-12-01T08:00:00 }", format!("4:18: {}", time("from", "2026-12-01T08:00:00"))),
        ("{ until = 4 }", format!("4:19: {}", time("until", "integer"))),
        (
            "{ from = '2026-12-01T08:00:00Z', until = '2026-12-01T09:00:00+01:00' }",
            "4:9: no time fits: until is not after from".to_owned(),
        ),
    ];
    for (limit, expected) in table {
        let text = format!("[[rule]]\nname = 'a'\nimage = 'x'\nlimit = {limit}\n");
        assert_eq!(problems(&text), expected, "{limit}");
    }
    assert_eq!(
        problems("[[rule]]\nname = 'a'\nhold = 'x'\nlimit = { at-once = 1 }"),
        "4:9: limit goes with image, recipe or set, not with hold"
    );
}

#[test]
fn who_makes_an_image_has_to_be_the_same_in_policy_and_recipe() {
    let recipes = |path: &std::path::Path| {
        let on_target = match path.to_str() {
            Some("build.toml") => OnTarget::No,
            Some("make.toml") => OnTarget::Yes,
            _ => OnTarget::Impossible("this server takes no uploads".to_owned()),
        };
        Ok(RecipeFacts { uses: vec![], on_target })
    };
    let no_target = "missing = \"on-target\" needs a recipe with a [target], which this one has \
                     not: say what is to be done on the machine, or let the server build it with \
                     \"build\"";
    let has_target = "this recipe has a [target], which the server cannot build: say missing = \
                      \"on-target\", \"hold\" or \"fail\"";
    let table = [
        ("build.toml", "build", None),
        ("build.toml", "hold", None),
        ("build.toml", "on-target", Some((4, 11, no_target))),
        ("make.toml", "on-target", None),
        ("make.toml", "hold", None),
        ("make.toml", "fail", None),
        ("make.toml", "build", Some((4, 11, has_target))),
        ("make.toml", "", Some((3, 10, has_target))),
        ("closed.toml", "hold", None),
        ("closed.toml", "on-target", Some((4, 11, "this server takes no uploads"))),
        ("closed.toml", "build", Some((4, 11, has_target))),
    ];
    for (recipe, missing, expected) in table {
        let missing = match missing {
            "" => String::new(),
            word => format!("missing = '{word}'\n"),
        };
        let text = format!("[[rule]]\nname = 'a'\nrecipe = '{recipe}'\n{missing}");
        let problems = Policy::check(&text, &recipes).problems;
        let seen: Vec<_> =
            problems.iter().map(|p| (p.line, p.column, p.message.as_str())).collect();
        assert_eq!(seen, expected.into_iter().collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn limits_are_kept() {
    let rules = |n: usize| -> String {
        (0..n)
            .map(|i| format!("[[rule]]\nname = '{i}'\nwhen = 'cpu.count == 1'\nhold = 'x'\n"))
            .collect()
    };
    assert_eq!(problems(&rules(1000)), "none");
    assert_eq!(problems(&rules(1001)), "4001:1: too many rules: 1000 are most");
    let long = format!("# {}", "x".repeat(1 << 20));
    assert_eq!(problems(&long), "1:1: a policy of 1048578 bytes: 1048576 are most");
    let name = "x".repeat(2000);
    let long = format!("[[rule]]\nname = '{name}'\nhold = 'x'");
    assert_eq!(problems(&long), "2:8: name is too long: 1024 bytes are most");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in proptest::prelude::any::<String>()) {
        drop(Policy::parse(&text));
    }

    #[test]
    fn no_values_panic(
        key in "name|when|image|recipe|set|missing|disk|start|limit|hold|fail|x",
        value in r#"[0-9]{1,3}|"[a-z= "\\]{0,8}"|\{ *\}|\[(\{ *\}|\{ image = 'x' \}|4|, ){0,4}\]|true|'[^']{0,8}'"#,
    ) {
        let text = format!("[[rule]]\n{key} = {value}\n");
        for problem in Policy::check(&text, &|_| Ok(RecipeFacts::default())).problems {
            proptest::prop_assert!(problem.line >= 1 && problem.column >= 1);
        }
    }
}
