//! Names for a script: what DHCP says of name servers, in an installed system.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Component, Path, PathBuf};

/// Where resolvers look, seen from inside.
const FILE: &str = "etc/resolv.conf";
/// Links followed before one is taken for a circle.
const LINKS_MAX: usize = 8;

/// Where the text of `resolv.conf` goes in the system at `root`.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Into this file below `/run`, which is not part of the image.
    Run(PathBuf),
    /// Over this file of the image, which is not to be changed.
    Over(PathBuf),
    /// Nowhere: the image has no such file.
    Nowhere,
}

/// The text for these servers.
pub fn text(servers: &[Ipv4Addr]) -> String {
    servers.iter().map(|server| format!("nameserver {server}\n")).collect()
}

/// Finds the place, following links as if `root` were the root.
pub fn place(root: &Path) -> io::Result<Place> {
    let mut path = PathBuf::from(FILE);
    for _ in 0..LINKS_MAX {
        if path.starts_with("run") {
            return Ok(Place::Run(root.join(path)));
        }
        match fs::symlink_metadata(root.join(&path)) {
            Ok(found) if found.is_symlink() => {
                let to = fs::read_link(root.join(&path))?;
                path = inside(path.parent().unwrap_or(Path::new("")), &to);
            }
            Ok(found) if found.is_file() => return Ok(Place::Over(root.join(path))),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(Place::Nowhere),
        }
    }
    Ok(Place::Nowhere)
}

/// The path of a link's target below the root; it never leads out of that.
fn inside(folder: &Path, to: &Path) -> PathBuf {
    let mut path = if to.is_absolute() { PathBuf::new() } else { folder.to_owned() };
    for part in to.components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_image_keeps_its_own_and_a_link_never_leads_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let file = root.join(FILE);
        fs::create_dir(root.join("etc")).unwrap();
        assert_eq!(place(root).unwrap(), Place::Nowhere);
        let stub = root.join("run/systemd/resolve/stub-resolv.conf");
        for to in
            ["../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/stub-resolv.conf"]
        {
            symlink(to, &file).unwrap();
            assert_eq!(place(root).unwrap(), Place::Run(stub.clone()), "{to}");
            fs::remove_file(&file).unwrap();
        }
        fs::write(&file, "mine").unwrap();
        assert_eq!(place(root).unwrap(), Place::Over(file.clone()));
        fs::remove_file(&file).unwrap();
        fs::write(root.join("other"), "mine").unwrap();
        symlink("../../../../other", &file).unwrap();
        assert_eq!(place(root).unwrap(), Place::Over(root.join("other")));
        fs::remove_file(&file).unwrap();
        symlink("resolv.conf", &file).unwrap();
        assert_eq!(place(root).unwrap(), Place::Nowhere, "a circle");
        let servers = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        assert_eq!(text(&servers), "nameserver 10.0.0.1\nnameserver 10.0.0.2\n");
    }
}
