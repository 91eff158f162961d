//! Which disk an image goes to. A wrong guess destroys somebody's data, so
//! nothing is guessed.

use wire::{DiskChoice, ImageOrder};

use crate::install::Purpose;
use crate::inventory::Candidate;
use crate::progress::size;

/// Why no disk was chosen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// There is no disk at all.
    #[error("this machine shows no disk: check cabling and the controller's mode in the firmware")]
    NoDisk,
    /// No disk meets the order.
    #[error("no disk fits what the policy asks for; {0}")]
    NoneFits(String),
    /// More than one disk meets the order.
    #[error(
        "{count} disks fit what the policy asks for; name one in the policy, by serial, wwid, \
         model or size; {list}"
    )]
    Ambiguous {
        /// How many.
        count: usize,
        /// Them, for people.
        list: String,
    },
    /// A disk meets the order for two images.
    #[error(
        "{disk} fits {first} and {second}; name another disk for one of them in the policy, by \
         serial, wwid, model or size; {list}"
    )]
    Overlap {
        /// The disk.
        disk: String,
        /// One of the images.
        first: String,
        /// The other.
        second: String,
        /// All disks, for people.
        list: String,
    },
    /// There is no disk for one image of several.
    #[error("for {image}: {why}")]
    Of {
        /// The image.
        image: String,
        /// What stands in the way.
        why: Box<ChooseError>,
    },
}

/// The disks that images go to, each another one, in the order of the images.
pub fn choose_all<'a>(
    candidates: &'a [Candidate],
    images: &[&ImageOrder],
    purpose: Purpose,
) -> Result<Vec<&'a Candidate>, ChooseError> {
    let mut chosen: Vec<&Candidate> = Vec::new();
    for image in images {
        let disk = choose(candidates, image, purpose).map_err(|why| match images.len() {
            1 => why,
            _ => ChooseError::Of { image: image.reference.to_string(), why: Box::new(why) },
        })?;
        if let Some(before) = chosen.iter().position(|other| other.disk.name == disk.disk.name) {
            return Err(ChooseError::Overlap {
                disk: describe(disk),
                first: images[before].reference.to_string(),
                second: image.reference.to_string(),
                list: list(candidates.iter().map(describe)),
            });
        }
        chosen.push(disk);
    }
    Ok(chosen)
}

fn list(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

/// The one disk that meets all criteria. Of several, the only one that has the image
/// installed, where that is to be started: nothing is written to it then.
fn choose<'a>(
    candidates: &'a [Candidate],
    image: &ImageOrder,
    purpose: Purpose,
) -> Result<&'a Candidate, ChooseError> {
    let choice = &image.disk;
    if candidates.is_empty() {
        return Err(ChooseError::NoDisk);
    }
    let fitting: Vec<_> = candidates.iter().filter(|c| objection(c, choice).is_none()).collect();
    match fitting.as_slice() {
        [one] => Ok(one),
        [] => {
            let say = |c: &Candidate| match objection(c, choice) {
                Some(why) => format!("{}: {why}", describe(c)),
                None => describe(c),
            };
            Err(ChooseError::NoneFits(list(candidates.iter().map(say))))
        }
        several => {
            let starts = purpose == Purpose::Start;
            let has = |c: &&&Candidate| starts && c.disk.not_installed(image.image).is_none();
            let mut installed = several.iter().filter(has);
            match (installed.next(), installed.next()) {
                (Some(one), None) => Ok(one),
                _ => Err(ChooseError::Ambiguous {
                    count: several.len(),
                    list: list(several.iter().map(|c| describe(c))),
                }),
            }
        }
    }
}

/// Why a disk is not to be written to.
fn objection(candidate: &Candidate, choice: &DiskChoice) -> Option<String> {
    candidate.used_by.clone().or_else(|| choice.objection(&candidate.disk))
}

/// A disk as people recognise it: `vda (4.0 GiB, virtio, serial X)`.
pub fn describe(candidate: &Candidate) -> String {
    let disk = &candidate.disk;
    let mut parts = vec![size(disk.size_bytes)];
    let named = [("", &disk.model), ("serial ", &disk.serial), ("wwid ", &disk.wwid)];
    for (name, value) in named {
        parts.extend(value.as_ref().map(|value| format!("{name}{value}")));
    }
    format!("{} ({})", disk.name, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use wire::{Bus, Digest, Disk};

    use super::*;

    fn disk(name: &str, change: impl FnOnce(&mut Candidate)) -> Candidate {
        let disk = Disk {
            name: name.into(),
            size_bytes: 1 << 30,
            sector_bytes: 512,
            serial: Some(format!("S-{name}")),
            bus: Some(Bus::Virtio),
            ..Disk::default()
        };
        let path = format!("/dev/{name}").into();
        let mut candidate =
            Candidate { disk, path, used_by: None, zeroes: false, receipt_unknown: None };
        change(&mut candidate);
        candidate
    }

    fn image(name: &str, disk: DiskChoice) -> ImageOrder {
        ImageOrder { image: Digest([0; 32]), reference: name.parse().unwrap(), disk }
    }

    fn names(candidates: &[Candidate], choice: &DiskChoice) -> Result<String, ChooseError> {
        let chosen = choose(candidates, &image("lab/web:1", choice.clone()), Purpose::Start);
        chosen.map(|c| c.disk.name.clone())
    }

    /// Notes on a disk that it has an image, as an agent does.
    fn receipt(candidate: &mut Candidate, image: Digest) {
        candidate.disk.receipt = Some(wire::Receipt {
            version: wire::Receipt::VERSION,
            state: wire::ReceiptState::Installed,
            image,
            reference: "lab/web:1".parse().unwrap(),
            run: "r-1".parse().unwrap(),
            machine: "m-1".parse().unwrap(),
            disk: candidate.disk.identity().map(str::to_owned),
            disk_bytes: candidate.disk.size_bytes,
        });
    }

    #[test]
    fn never_takes_what_may_not_be_written_to() {
        let spoilt = [
            disk("sda", |c| c.disk.removable = true),
            disk("sda", |c| c.disk.read_only = true),
            disk("sda", |c| c.disk.bus = Some(Bus::Usb)),
            disk("sda", |c| c.used_by = Some("sda1 is mounted".into())),
        ];
        let reasons = ["it is removable", "it is read-only", "it is a USB disk", "sda1 is mounted"];
        for (spoilt, why) in spoilt.into_iter().zip(reasons) {
            let disks = [spoilt.clone()];
            // Not even where the order names exactly this disk.
            let choice = DiskChoice { serial: Some("S-sda".into()), ..DiskChoice::default() };
            match names(&disks, &choice) {
                Err(ChooseError::NoneFits(list)) => assert!(list.contains(why), "{list}"),
                other => panic!("{other:?}"),
            }
            let disks = [spoilt, disk("sdb", |_| {})];
            assert_eq!(names(&disks, &DiskChoice::default()), Ok("sdb".into()));
        }
    }

    #[test]
    fn an_ambiguous_choice_is_refused_with_the_candidates() {
        let disks = [disk("sda", |_| {}), disk("sdb", |c| c.disk.size_bytes = 2 << 30)];
        let error = names(&disks, &DiskChoice::default()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("S-sda") && text.contains("S-sdb") && text.contains("2.0 GiB"),
            "{text}"
        );
        assert_eq!(names(&[], &DiskChoice::default()), Err(ChooseError::NoDisk));
    }

    #[test]
    fn of_several_disks_the_only_one_with_the_image_is_started_and_no_other_is_chosen() {
        let (ours, other) = (Digest([0; 32]), Digest([1; 32]));
        let any = image("lab/web:1", DiskChoice::default());
        let with = |receipts: [Option<Digest>; 3]| {
            let disk = |(name, image): (&str, Option<Digest>)| {
                disk(name, |c| image.into_iter().for_each(|image| receipt(c, image)))
            };
            ["sda", "sdb", "sdc"].into_iter().zip(receipts).map(disk).collect::<Vec<_>>()
        };
        let chosen = |disks: &[Candidate], purpose| {
            choose_all(disks, &[&any], purpose).map(|c| c[0].disk.name.clone())
        };
        for others in [None, Some(other)] {
            let disks = with([others, Some(ours), None]);
            assert_eq!(chosen(&disks, Purpose::Start).as_deref(), Ok("sdb"));
            // What is to be written over is not chosen by what it has.
            let made = chosen(&disks, Purpose::Make);
            assert!(matches!(made, Err(ChooseError::Ambiguous { count: 3, .. })), "{made:?}");
        }
        let mut copied = with([None, Some(ours), None]);
        copied[1].disk.serial = Some("another".into());
        let refused = [
            with([None, Some(other), None]),
            with([Some(ours), Some(ours), None]),
            // A copy of that disk, which does not count as installed.
            copied,
        ];
        for disks in refused {
            let error = chosen(&disks, Purpose::Start).unwrap_err();
            assert!(matches!(error, ChooseError::Ambiguous { count: 3, .. }), "{error}");
            let text = error.to_string();
            assert!(text.contains("sda (") && text.contains("sdb (") && text.contains("sdc ("));
        }
        let other_fits = DiskChoice { serial: Some("S-sdc".into()), ..DiskChoice::default() };
        assert_eq!(names(&with([Some(ours), None, None]), &other_fits).as_deref(), Ok("sdc"));
    }

    #[test]
    fn every_image_of_a_set_gets_a_disk_of_its_own_or_none_does() {
        let disks = [disk("sda", |_| {}), disk("sdb", |c| c.disk.size_bytes = 2 << 30)];
        let serial =
            |serial: &str| DiskChoice { serial: Some(serial.into()), ..DiskChoice::default() };
        let large = DiskChoice { size_bytes_min: Some(2 << 30), ..DiskChoice::default() };
        let choose = |images: &[ImageOrder]| {
            let images: Vec<_> = images.iter().collect();
            let chosen = choose_all(&disks, &images, Purpose::Start)?;
            Ok::<_, ChooseError>(chosen.iter().map(|c| c.disk.name.clone()).collect::<Vec<_>>())
        };
        let (web, data) = (image("lab/web:1", large.clone()), image("data", serial("S-sda")));
        assert_eq!(choose(&[web.clone(), data.clone()]).unwrap(), ["sdb", "sda"]);
        assert_eq!(choose(&[data.clone(), web.clone()]).unwrap(), ["sda", "sdb"]);

        let both = choose(&[web.clone(), image("data", serial("S-sdb"))]).unwrap_err().to_string();
        for part in ["sdb (2.0 GiB, serial S-sdb) fits lab/web:1 and data", "sda (1.0 GiB"] {
            assert!(both.contains(part), "{both}");
        }
        // Two disks for one image stay two, even where the other image takes one of them.
        let any = choose(&[web, image("data", DiskChoice::default())]).unwrap_err().to_string();
        assert!(any.starts_with("for data: 2 disks fit") && any.contains("S-sda"), "{any}");
        let none = choose(&[data, image("more", serial("S-sdc"))]).unwrap_err().to_string();
        assert!(none.starts_with("for more: no disk fits") && none.contains("S-sdb"), "{none}");
    }

    #[test]
    fn every_criterion_decides() {
        let disks = [
            disk("sda", |c| {
                c.disk.model = Some("M".into());
                c.disk.wwid = Some("W".into());
            }),
            disk("sdb", |c| c.disk.size_bytes = 2 << 30),
        ];
        let any = DiskChoice::default;
        let choices = [
            (DiskChoice { serial: Some("S-sda".into()), ..any() }, "sda"),
            (DiskChoice { wwid: Some("W".into()), ..any() }, "sda"),
            (DiskChoice { model: Some("M".into()), ..any() }, "sda"),
            (DiskChoice { size_bytes_max: Some(1 << 30), ..any() }, "sda"),
            (DiskChoice { size_bytes_min: Some((1 << 30) + 1), ..any() }, "sdb"),
        ];
        for (choice, name) in choices {
            assert_eq!(names(&disks, &choice).as_deref(), Ok(name), "{choice:?}");
        }
        let both =
            DiskChoice { serial: Some("S-sda".into()), size_bytes_min: Some(2 << 30), ..any() };
        assert!(matches!(names(&disks, &both), Err(ChooseError::NoneFits(_))));
    }
}
