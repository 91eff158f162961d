use std::process::Command;

use super::*;

fn module(name: &str, depends: &[&str], wants: &[&str], aliases: &[&str]) -> (String, Module) {
    let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let info = ModInfo { depends: own(depends), wants: own(wants), aliases: own(aliases) };
    (name.to_owned(), Module { path: format!("kernel/{name}.ko"), bytes: Vec::new(), info })
}

#[test]
fn dependencies_come_last_loaded_first() {
    let set = ModuleSet {
        modules: BTreeMap::from([
            module("net", &["failover", "virtio"], &[], &["virtio:d1"]),
            module("failover", &["virtio"], &[], &[]),
            module("virtio", &[], &[], &[]),
        ]),
    };
    assert_eq!(
        set.dep(),
        "kernel/failover.ko: kernel/virtio.ko\n\
         kernel/net.ko: kernel/failover.ko kernel/virtio.ko\n\
         kernel/virtio.ko:\n"
    );
    assert_eq!(set.alias(), "alias virtio:d1 net\n");
}

#[test]
fn wishes_count_when_present_and_may_form_circles() {
    let set = ModuleSet {
        modules: BTreeMap::from([
            module("a", &[], &["sum", "absent"], &[]),
            module("sum_fast", &[], &[], &["sum"]),
            module("sum_slow", &[], &["a"], &["sum"]),
        ]),
    };
    assert_eq!(
        set.dep(),
        "kernel/a.ko: kernel/sum_slow.ko kernel/sum_fast.ko\n\
         kernel/sum_fast.ko:\n\
         kernel/sum_slow.ko: kernel/a.ko kernel/sum_fast.ko\n"
    );
}

/// An ELF file with only a `.modinfo` section.
fn elf(modinfo: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("info"), modinfo.replace(';', "\0")).unwrap();
    fs::write(at("empty.s"), "").unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).current_dir(dir.path()).status();
        assert!(done.unwrap().success(), "{program}");
    };
    run("as", &["empty.s", "-o", "empty.o"]);
    run("objcopy", &["--add-section", ".modinfo=info", "empty.o", "module.ko"]);
    fs::read(at("module.ko")).unwrap()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("6.12.1-test");
    fs::create_dir_all(folder.join("kernel/drivers/net")).unwrap();
    fs::write(folder.join("modules.builtin"), "kernel/core-built.ko\n").unwrap();
    (dir, folder)
}

#[test]
fn reads_compressed_modules_and_closes_the_set() {
    let (_dir, folder) = folder();
    let at = |name: &str| folder.join("kernel/drivers/net").join(name);
    fs::write(at("card-x.ko"), elf("depends=zipped,packed,core_built;alias=pci:x")).unwrap();
    fs::write(at("packed.ko.zst"), zstd::encode_all(&elf("depends=;")[..], 3).unwrap()).unwrap();
    fs::write(at("zipped.ko"), elf("license=GPL;")).unwrap();
    let packed = Command::new("xz").args(["--check=crc32"]).arg(at("zipped.ko")).status();
    assert!(packed.unwrap().success());

    let tree = Tree::open(&folder).unwrap();
    assert_eq!(tree.release, "6.12.1-test");
    let set = ModuleSet::select(&tree, ["card_x", "not_in_this_kernel"]).unwrap();
    let paths: Vec<_> = set.modules.values().map(|module| module.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "kernel/drivers/net/card-x.ko",
            "kernel/drivers/net/packed.ko",
            "kernel/drivers/net/zipped.ko"
        ]
    );
    assert!(set.modules.values().all(|module| module.bytes.starts_with(b"\x7fELF")));
    assert_eq!(set.alias(), "alias pci:x card_x\n");
}

#[test]
fn says_what_is_wrong() {
    let (_dir, folder) = folder();
    let at = |name: &str| folder.join("kernel").join(name);
    fs::write(at("a.ko"), elf("depends=gone")).unwrap();
    fs::write(at("text.ko"), "no module").unwrap();
    let tree = Tree::open(&folder).unwrap();
    let error = |name| ModuleSet::select(&tree, [name]).err().unwrap().to_string();
    assert!(error("a").starts_with("module gone is needed by a"), "{}", error("a"));
    assert!(error("text").contains("is no kernel module"), "{}", error("text"));
    assert!(Tree::open(&folder.join("kernel")).is_err());
}
