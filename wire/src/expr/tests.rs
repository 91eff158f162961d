use proptest::prelude::*;

use super::*;
use crate::{
    Bus, Cpu, Device, Digest, Disk, Firmware, FirmwareKind, Inventory, Memory, Neighbour, Network,
    Nic, Os, Partition, Receipt, ReceiptState, System, Tpm,
};

fn facts() -> Facts {
    let text = |t: &str| FactValue::Text(t.into());
    Facts::from([
        ("system.manufacturer".into(), text("Dell Inc.")),
        ("memory.usable".into(), FactValue::Number(8 << 30)),
        ("cpu.count".into(), FactValue::Number(4)),
        ("firmware.secure-boot".into(), FactValue::Bool(true)),
        ("disk.bus".into(), FactValue::List(vec![text("nvme"), text("usb")])),
        (
            "disk.size".into(),
            FactValue::List(vec![FactValue::Number(500_000_000_000), FactValue::Number(16 << 30)]),
        ),
        ("label.role".into(), text("web")),
        ("answer.rack".into(), text("r7")),
        ("cpu.flags".into(), FactValue::List(vec![text("fpu"), text("avx2")])),
        (
            "pci.modalias".into(),
            FactValue::List(vec![
                text("pci:v000010DEd00001EB8sv"),
                text("pci:v00008086d000010D3sv"),
            ]),
        ),
    ])
}

#[test]
fn expressions_hold_or_not() {
    let table = [
        (r#"system.manufacturer == "Dell Inc.""#, true),
        (r#"system.manufacturer == 'Dell Inc.'"#, true),
        (r#"system.manufacturer == "dell inc.""#, false),
        (r#"system.manufacturer != "HP""#, true),
        (r#"system.manufacturer like "Dell*""#, true),
        (r#"system.manufacturer like "*ell*.""#, true),
        (r#"system.manufacturer like "Dell?Inc?""#, true),
        (r#"system.manufacturer like "Dell""#, false),
        ("memory.usable >= 8 GiB", true),
        ("memory.usable >= 8GiB and cpu.count < 5", true),
        ("memory.usable > 8 GiB", false),
        ("memory.usable == 8388608 KiB", true),
        ("disk.size >= 500 GB", true),
        ("disk.size < 16 GiB", false),
        ("firmware.secure-boot == true", true),
        ("firmware.secure-boot != true", false),
        (r#"disk.bus == "usb""#, true),
        (r#"disk.bus != "usb""#, true),
        (r#"not disk.bus == "usb""#, false),
        (r#"disk.bus in ["scsi", "nvme",]"#, true),
        (r#"label.role in ["db", "cache"]"#, false),
        (r#"label.role == "db" or cpu.count == 4 and label.role == "web""#, true),
        (r#"(label.role == "db" or cpu.count == 4) and label.role == "x""#, false),
        (r#"not (label.role == "db" or cpu.count == 5)"#, true),
        ("cpu.count == 4\n  and not not cpu.count == 4", true),
        // Ranges, both ends within, met by one of several values alone.
        ("memory.usable in 8 GiB .. 16 GiB", true),
        ("memory.usable in 1 GiB..8GiB", true),
        ("memory.usable in 9 GiB .. 16 GiB", false),
        ("cpu.count in 4..4 and cpu.count in 0 .. 9", true),
        ("disk.size > 20 GB and disk.size < 400 GB", true),
        ("disk.size in 20 GB .. 400 GB", false),
        ("disk.size in 400 GB .. 2 TB", true),
        // Of many, one is enough.
        (r#"cpu.flags == "avx2""#, true),
        (r#"cpu.flags == "avx2" and not cpu.flags == "avx512f""#, true),
        (r#"cpu.flags in ["vmx", "svm"]"#, false),
        (r#"pci.modalias like "pci:v000010DE*""#, true),
        (r#"not pci.modalias like "pci:v00001002*""#, true),
        (r#"answer.rack == "r7" and not answer.role == "db""#, true),
        // Not reported: false, also for "!="; so "not" of it is true.
        (r#"label.site == "a""#, false),
        (r#"label.site != "a""#, false),
        (r#"not label.site == "a""#, true),
        // Of another kind: false.
        (r#"cpu.count == "4""#, false),
        ("label.role >= 4", false),
    ];
    for (text, expected) in table {
        let expr: Expr = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(expr.matches(&facts()), expected, "{text}");
        assert_eq!(expr.trace(&facts()).matched, expected, "{text}");
    }
}

#[test]
fn what_is_open_decides_only_where_it_can_change_the_outcome() {
    let table = [
        ("answer.x == \"a\"", None),
        ("not answer.x == \"a\"", None),
        ("answer.x == \"a\" and cpu.count == 4", None),
        ("answer.x == \"a\" and cpu.count == 5", Some(false)),
        ("answer.x == \"a\" or cpu.count == 4", Some(true)),
        ("answer.x == \"a\" or cpu.count == 5", None),
        ("not (answer.x == \"a\" and cpu.count == 5)", Some(true)),
        ("cpu.count == 4 and cpu.count < 5", Some(true)),
        ("answer.rack == \"r7\"", Some(true)),
        ("answer.rack == \"r8\" or cpu.count == 5", Some(false)),
    ];
    for (text, expected) in table {
        let expr: Expr = text.parse().unwrap();
        let open = |path: &str| path == "answer.x";
        assert_eq!(expr.matches_without(&facts(), &open), expected, "{text}");
    }
}

#[test]
fn a_trace_has_every_comparison_as_written() {
    let expr: Expr =
        r#"cpu.count>=8 and label.site=="a" and label.role in ["web"]"#.parse().unwrap();
    let trace = expr.trace(&facts());
    let seen: Vec<_> =
        trace.comparisons.iter().map(|c| (c.comparison.as_str(), c.verdict)).collect();
    assert_eq!(
        seen,
        [
            ("cpu.count>=8", Verdict::Fail),
            (r#"label.site=="a""#, Verdict::NotReported),
            (r#"label.role in ["web"]"#, Verdict::Pass),
        ]
    );
    assert_eq!(trace.comparisons[0].reported, Some(FactValue::Number(4)));
    assert_eq!(expr.paths(), ["cpu.count", "label.site", "label.role"]);
    assert!(!trace.matched);
}

#[test]
fn errors_say_where_and_what_is_allowed() {
    let table = [
        (
            "",
            (1, 1),
            "expected a fact such as system.manufacturer, \"not\" or \"(\", found the end",
        ),
        ("cpu.count", (1, 10), "expected one of == != < <= > >= in like, found the end"),
        ("cpu.count = 4", (1, 11), "unexpected '='; to compare, write \"==\""),
        ("cpu.count == 4 && a.b == 1", (1, 16), "unexpected '&'; write \"and\""),
        ("cpu.count == -4", (1, 14), "unexpected '-'; numbers are not negative here"),
        (
            "cpu.count == 4 cpu.count",
            (1, 16),
            "expected \"and\", \"or\" or the end, found \"cpu.count\" (units are KiB, MiB, GiB, TiB, kB, MB, GB, TB, k)",
        ),
        (
            "memory.usable > 8 GIB",
            (1, 19),
            "expected \"and\", \"or\" or the end, found \"GIB\" (units are KiB, MiB, GiB, TiB, kB, MB, GB, TB, k)",
        ),
        (
            "memory.usable > 8GIB",
            (1, 18),
            "\"GIB\" is not a unit: use one of KiB, MiB, GiB, TiB, kB, MB, GB, TB, k",
        ),
        (
            "memory.usable > 1.5 GiB",
            (1, 17),
            "only whole numbers: take a smaller unit, such as 1536 MiB for 1.5 GiB",
        ),
        (
            "memory.usable > 18446744073709551616",
            (1, 17),
            "this number is too big: 2^64 - 1 is most",
        ),
        ("memory.usable > 99999999 TiB", (1, 17), "this number is too big: 2^64 - 1 is most"),
        ("label.role == web", (1, 15), "texts stand in quotes: write \"web\""),
        ("label.role > \"web\"", (1, 14), "expected a number after \">\", found the text \"web\""),
        ("label.role == \"web", (1, 15), "this text has no closing quote"),
        (
            "label.role == \"a\\n\"",
            (1, 17),
            "after a backslash only \\\\, \\\" and \\' are allowed",
        ),
        (
            "label.role like 4",
            (1, 17),
            "expected a pattern in quotes, such as \"PowerEdge*\", found the number 4",
        ),
        ("cpu.count in 4", (1, 15), "expected \"..\" and the end of the range, found the end"),
        (
            "memory.usable in 8 GiB .. \"x\"",
            (1, 27),
            "expected a number after \"..\", found the text \"x\"",
        ),
        ("cpu.count in 8 .. 4", (1, 14), "no number is in 8 .. 4: the smaller one comes first"),
        ("label.role in \"a\"", (1, 15), "expected \"[\", found the text \"a\""),
        (
            "label.role in []",
            (1, 16),
            "expected a text in quotes, a number, true or false, found \"]\"",
        ),
        ("label.role in [\"a\" \"b\"]", (1, 20), "expected \",\" or \"]\", found the text \"b\""),
        (
            "cpu.count == 4 and\n (cpu.count == 5",
            (2, 17),
            "expected \"and\", \"or\" or \")\", found the end",
        ),
        (
            "role == \"web\"",
            (1, 1),
            "\"role\" is not a fact: expected a path such as system.manufacturer or label.role",
        ),
        (
            "label.ö == 1",
            (1, 1),
            "\"label.\" is not a fact: expected a path such as system.manufacturer or label.role",
        ),
    ];
    for (text, place, message) in table {
        let error = text.parse::<Expr>().unwrap_err();
        assert_eq!((error.line, error.column), place, "{text}: {error}");
        assert_eq!(error.message, message, "{text}");
    }
}

#[test]
fn limits_are_kept() {
    let deep = |n: usize| format!("{}cpu.count == 1{}", "(".repeat(n), ")".repeat(n));
    assert!(deep(NESTING_MAX - 1).parse::<Expr>().is_ok());
    let error = deep(NESTING_MAX).parse::<Expr>().unwrap_err();
    assert_eq!(error.message, "nested too deeply: 32 levels are most");
    assert!("not ".repeat(500).parse::<Expr>().unwrap_err().message.starts_with("nested too"));

    let error = format!("label.a == \"{}\"", "x".repeat(BYTES_MAX)).parse::<Expr>().unwrap_err();
    assert_eq!(error.message, "4109 bytes are too long: 4096 are most");
    let values = vec!["1"; VALUES_MAX + 1].join(",");
    let error = format!("cpu.count in [{values}]").parse::<Expr>().unwrap_err();
    assert_eq!(error.message, "too many values: 256 are most");
}

#[test]
fn what_can_never_be_true_is_found() {
    let table = [
        ("cpu.cuont == 4", "no machine reports \"cpu.cuont\": did you mean cpu.count?"),
        (
            "memory.useable > 1",
            "no machine reports \"memory.useable\": did you mean memory.usable?",
        ),
        (
            "nic.x > 1",
            "no machine reports \"nic.x\": known are nic.bus-id, nic.count, nic.driver, nic.link, nic.mac, nic.speed-mbit",
        ),
        (
            "network.circuit-di == \"ge-17\"",
            "no machine reports \"network.circuit-di\": did you mean network.circuit-id?",
        ),
        (
            "weather.rainy == true",
            "no machine reports \"weather.rainy\": see docs/policy.md for the list",
        ),
        (
            "cpu.count == \"4\"",
            "cpu.count is a number: compare it with one such as 4 or 8 GiB, without quotes",
        ),
        (
            "label.rack == 4",
            "label.rack is a text: compare it with one in quotes, by ==, !=, in or like",
        ),
        (
            "label.rack in 1 .. 4",
            "label.rack is a text: compare it with one in quotes, by ==, !=, in or like",
        ),
        ("firmware.secure-boot in [true, 1]", "firmware.secure-boot is true or false"),
        (
            "disk.size like \"5*\"",
            "disk.size is a number: compare it with one such as 4 or 8 GiB, without quotes",
        ),
    ];
    for (text, message) in table {
        let problems = text.parse::<Expr>().unwrap().check();
        assert_eq!(problems.len(), 1, "{text}");
        assert_eq!(problems[0].message, message, "{text}");
        assert_eq!(problems[0].offset, 0, "{text}");
    }
    let fine: Expr = r#"label.anything like "x" and disk.size > 1 TB"#.parse().unwrap();
    assert_eq!(fine.check(), []);
}

/// An inventory that reports everything reports exactly [`FACTS`].
#[test]
fn the_list_of_facts_is_the_one_that_machines_report() {
    let some = || Some("x".to_owned());
    let receipt = Receipt {
        version: Receipt::VERSION,
        state: ReceiptState::Installed,
        image: Digest([1; 32]),
        reference: "web:1".parse().unwrap(),
        run: "r-1".parse().unwrap(),
        machine: "m-1".parse().unwrap(),
        disk: None,
        disk_bytes: 1,
    };
    let inventory = Inventory {
        system: System {
            manufacturer: some(),
            product: some(),
            serial: some(),
            uuid: some(),
            board_serial: some(),
            chassis_serial: some(),
            asset_tag: some(),
            family: some(),
            sku: some(),
            board_product: some(),
            chassis_kind: some(),
            slot: some(),
            enclosure_serial: some(),
            is_virtual: Some(true),
        },
        cpu: Cpu {
            vendor: some(),
            model: some(),
            family: Some(6),
            model_number: Some(85),
            stepping: Some(4),
            count: Some(1),
            arch: some(),
            flags: vec!["fpu".into()],
        },
        memory: Memory { usable_bytes: Some(1), fitted_bytes: Some(1) },
        tpm: Tpm { present: Some(true), version: some() },
        network: Network { subnet: some(), relay: some(), dhcp_server: some() },
        pci: vec![Device::default()],
        usb: vec![Device::default()],
        missing: [("x".into(), "y".into())].into(),
        firmware: Firmware {
            kind: Some(FirmwareKind::Uefi),
            vendor: some(),
            version: some(),
            secure_boot: Some(true),
        },
        disks: vec![Disk {
            model: some(),
            serial: some(),
            wwid: some(),
            bus: Some(Bus::Nvme),
            rotational: Some(false),
            physical_sector_bytes: Some(4096),
            table: some(),
            partitions: vec![Partition::default()],
            os: Some(Os { version: some(), ..Os::default() }),
            receipt: Some(receipt),
            ..Disk::default()
        }],
        nics: vec![Nic {
            driver: some(),
            bus_id: some(),
            link: Some(true),
            speed_mbit: Some(1),
            neighbour: Some(Neighbour { system: some(), ..Neighbour::default() }),
            ..Nic::default()
        }],
    };
    let kind = |value: &FactValue| match value {
        FactValue::Bool(_) => Kind::Bool,
        FactValue::Number(_) => Kind::Number,
        _ => Kind::Text,
    };
    let reported: Vec<_> = inventory
        .facts()
        .into_iter()
        .map(|(path, value)| match &value {
            FactValue::List(values) => (path, kind(&values[0])),
            value => (path, kind(value)),
        })
        .collect();
    let known: Vec<_> = FACTS.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
    assert_eq!(known, reported);
}

#[test]
fn sizes_are_numbers_with_units() {
    assert_eq!(size("8 GiB"), Ok(8 << 30));
    assert_eq!(size("4096"), Ok(4096));
    assert!(size("8 GiB and").is_err());
    assert!(size("big").is_err());
}

#[test]
fn an_expression_travels_as_its_text() {
    let expr: Expr = "cpu.count  ==  4".parse().unwrap();
    let json = serde_json::to_string(&expr).unwrap();
    assert_eq!(json, r#""cpu.count  ==  4""#);
    assert_eq!(serde_json::from_str::<Expr>(&json).unwrap(), expr);
}

fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop::sample::select(vec![
        "cpu.count",
        "label.role",
        "==",
        "!=",
        "<",
        ">=",
        "in",
        "..",
        "like",
        "and",
        "or",
        "not",
        "(",
        ")",
        "[",
        "]",
        ",",
        "4",
        "8 GiB",
        "\"a*\"",
        "'b'",
        "true",
        "\"",
        "\\",
        "ö",
        "\n",
    ]);
    prop::collection::vec(fragment, 0..30).prop_map(|parts| parts.join(" "))
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        if let Ok(expr) = text.parse::<Expr>() {
            expr.trace(&facts());
        }
    }

    #[test]
    fn no_row_of_fragments_panics(text in fragments()) {
        match text.parse::<Expr>() {
            Ok(expr) => {
                prop_assert_eq!(expr.trace(&facts()).matched, expr.matches(&facts()));
                expr.check();
                let known = expr.matches_without(&facts(), &|_| false);
                prop_assert_eq!(known, Some(expr.matches(&facts())));
            }
            Err(error) => prop_assert!(error.offset <= text.len()),
        }
    }

    #[test]
    fn a_glob_of_stars_and_the_text_itself_match(text in "[a-c]{0,12}") {
        prop_assert!(like(&text, &text));
        prop_assert!(like("*", &text));
        let (around, longer) = (format!("*{text}*"), format!("{text}?"));
        prop_assert!(like(&around, &text));
        prop_assert!(!like(&longer, &text));
    }
}
