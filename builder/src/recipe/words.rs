//! The single values of a recipe: what each may be, and the message when it is not.

use std::collections::BTreeSet;

use super::check::{Checked, mistake};
use super::raw::{self, Text};
use super::{Base, Disk, Distro, Firmware, PACKAGES_MAX, RootSize, System};

/// Longest recipe name, in bytes: it becomes the name of an image.
const NAME_MAX: usize = 64;
/// Smallest root filesystem in bytes.
const ROOT_BYTES_MIN: u64 = 64 << 20;
/// Largest root filesystem in bytes; the installed one may be larger.
const ROOT_BYTES_MAX: u64 = 1 << 42;
/// Longest addition to the kernel command line, in bytes.
const CMDLINE_MAX: usize = 1024;

pub(super) fn recipe_name(name: &Text) -> Checked<String> {
    let text = name.as_ref();
    let ok = (1..=NAME_MAX).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
    if !ok {
        return mistake(
            name.span(),
            format!(
                "{text:?} is not a recipe name: expected 1 to {NAME_MAX} lower-case letters, \
                 digits, '-', '_' or '.', the first a letter or digit"
            ),
        );
    }
    Ok(text.clone())
}

pub(super) fn step_name(name: &Text) -> Checked<String> {
    let text = name.as_ref();
    if text.is_empty() || text.len() > NAME_MAX || text.chars().any(char::is_control) {
        return mistake(name.span(), format!("expected a name of 1 to {NAME_MAX} bytes"));
    }
    Ok(text.clone())
}

pub(super) fn base(raw: &raw::Base) -> Checked<Base> {
    let name = raw.distro.as_ref();
    let Some(distro) = Distro::ALL.into_iter().find(|distro| distro.name() == name) else {
        return mistake(
            raw.distro.span(),
            format!("unknown distro {name:?}: expected {}", one_of(Distro::ALL.map(Distro::name))),
        );
    };
    let mut components: Vec<String> = Vec::new();
    for component in &raw.components {
        let text = component.as_ref();
        if !["main", "contrib", "non-free", "non-free-firmware"].contains(&text.as_str()) {
            return mistake(
                component.span(),
                format!(
                    "unknown component {text:?}: expected main, contrib, non-free or \
                     non-free-firmware"
                ),
            );
        }
        components.push(text.clone());
    }
    if components.is_empty() {
        components.push("main".to_owned());
    }
    Ok(Base { distro, components, packages: package_list(&raw.packages)? })
}

pub(super) fn package_list(packages: &[Text]) -> Checked<Vec<String>> {
    if let Some(over) = packages.get(PACKAGES_MAX) {
        return mistake(over.span(), format!("more than {PACKAGES_MAX} packages in one list"));
    }
    let set: Checked<BTreeSet<String>> = packages.iter().map(package).collect();
    Ok(set?.into_iter().collect())
}

/// `name` or `name=version` (Debian Policy 5.6.1 and 5.6.12). Nothing that apt
/// would read as an option, a removal (`name-`) or a pattern passes.
fn package(package: &Text) -> Checked<String> {
    let text = package.as_ref();
    let (name, version) = match text.split_once('=') {
        Some((name, version)) => (name, Some(version)),
        None => (text.as_str(), None),
    };
    let name_ok = name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let version_ok = version.is_none_or(|version| {
        version.starts_with(|c: char| c.is_ascii_digit())
            && version.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-:~".contains(&b))
    });
    if !name_ok || !version_ok {
        return mistake(
            package.span(),
            format!("{text:?} is not a package: expected \"name\" or \"name=version\""),
        );
    }
    Ok(text.clone())
}

/// The path of a file in the tree, without the leading slash.
pub(super) fn target_path(target: &Text) -> Checked<String> {
    let text = target.as_ref();
    let path = text.strip_prefix('/').unwrap_or(text);
    let ok = path.len() <= 1024
        && path.split('/').all(|part| {
            !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains('\0')
        });
    if !ok {
        return mistake(
            target.span(),
            format!("{text:?} is not the path of a file: expected one like \"etc/motd\""),
        );
    }
    if let Some(mount) =
        ["dev/", "proc/", "run/", "sys/", "tmp/"].into_iter().find(|mount| path.starts_with(mount))
    {
        return mistake(
            target.span(),
            format!("/{mount} is empty in an image: the running system makes its content"),
        );
    }
    Ok(path.to_owned())
}

pub(super) fn file_mode(mode: &Text) -> Checked<u32> {
    match u32::from_str_radix(mode.as_ref(), 8) {
        Ok(bits) if bits <= 0o7777 && mode.as_ref().len() >= 3 => Ok(bits),
        _ => mistake(mode.span(), "expected the mode in octal digits, such as \"0755\""),
    }
}

pub(super) fn system(raw: &raw::System, recipe: &str) -> Checked<System> {
    let hostname = match &raw.hostname {
        Some(name) => hostname(name)?,
        None => recipe.replace(['_', '.'], "-"),
    };
    if let Some(hash) = &raw.root_password {
        let text = hash.as_ref();
        let ok = text.starts_with('$')
            && text.bytes().all(|b| b.is_ascii_graphic() && b != b':')
            && text.len() <= 256;
        if !ok {
            return mistake(
                hash.span(),
                "expected the crypt(3) hash of a password, as `openssl passwd -6` prints it",
            );
        }
    }
    Ok(System {
        hostname,
        root_password: raw.root_password.as_ref().map(|hash| hash.as_ref().clone()),
        dhcp: raw.dhcp.unwrap_or(true),
    })
}

/// RFC 1123 2.1: letters, digits and hyphens, no hyphen at either end.
fn hostname(name: &Text) -> Checked<String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let text = name.as_ref();
    if text.len() > 64 || !text.split('.').all(label) {
        return mistake(name.span(), format!("{text:?} is not a host name (RFC 1123)"));
    }
    Ok(text.clone())
}

pub(super) fn disk(raw: &raw::Disk) -> Checked<Disk> {
    let size = match &raw.size {
        None => RootSize::Fit,
        Some(text) if text.as_ref() == "fit" => RootSize::Fit,
        Some(text) => match wire::expr::size(text.as_ref()) {
            Ok(bytes)
                if bytes % (1 << 20) == 0 && (ROOT_BYTES_MIN..=ROOT_BYTES_MAX).contains(&bytes) =>
            {
                RootSize::Bytes(bytes)
            }
            _ => {
                return mistake(
                    text.span(),
                    "expected \"fit\" or a size such as \"2 GiB\", at least 64 MiB, at most 4 TiB \
                     and a multiple of 1 MiB",
                );
            }
        },
    };
    let cmdline = match &raw.cmdline {
        None => String::new(),
        Some(text) => kernel_parameters(text)?,
    };
    Ok(Disk { size, cmdline })
}

/// Nothing that GRUB's menu would read as more than a word.
fn kernel_parameters(text: &Text) -> Checked<String> {
    let ok = text.as_ref().len() <= CMDLINE_MAX
        && text
            .as_ref()
            .bytes()
            .all(|b| b == b' ' || (b.is_ascii_graphic() && !b"\"'\\$;&|<>{}`#".contains(&b)));
    if !ok {
        return mistake(
            text.span(),
            format!(
                "expected kernel parameters: at most {CMDLINE_MAX} printable characters, without \
                 quotes and the signs \\ $ ; & | < > {{ }} ` #"
            ),
        );
    }
    Ok(text.as_ref().trim().to_owned())
}

pub(super) fn firmware(name: &Text) -> Checked<Firmware> {
    match name.as_ref().as_str() {
        "bios" => Ok(Firmware::Bios),
        "uefi" => Ok(Firmware::Uefi),
        other => mistake(name.span(), format!("unknown firmware {other:?}: expected bios or uefi")),
    }
}

fn one_of<const N: usize>(names: [&str; N]) -> String {
    names.map(|name| format!("{name:?}")).join(" or ")
}
