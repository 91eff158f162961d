//! Whether a machine has its images already.

use wire::{Disk, ImageOrder};

use super::Target;

/// Whether each image of the target is on a disk that it may go to, each on
/// another. What other disks have does not count.
pub(super) fn installed(disks: &[Disk], target: &Target) -> bool {
    let images: Vec<_> = target.images().collect();
    // Who has each disk, as far as images were given one.
    let mut taken = vec![None; disks.len()];
    (0..images.len()).all(|number| {
        let mut tried = vec![false; disks.len()];
        place(number, &images, disks, &mut taken, &mut tried)
    })
}

/// Gives an image a disk that has it; who has that one already looks for
/// another (augmenting paths of a bipartite graph).
fn place(
    number: usize,
    images: &[&ImageOrder],
    disks: &[Disk],
    taken: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for (at, disk) in disks.iter().enumerate() {
        if tried[at] || !holds(disk, images[number]) {
            continue;
        }
        tried[at] = true;
        let free = match taken[at] {
            None => true,
            Some(other) => place(other, images, disks, taken, tried),
        };
        if free {
            taken[at] = Some(number);
            return true;
        }
    }
    false
}

fn holds(disk: &Disk, image: &ImageOrder) -> bool {
    image.disk.objection(disk).is_none() && disk.not_installed(image.image).is_none()
}
