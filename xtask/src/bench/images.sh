# Makes the images of the bench: base.raw, rebuilt.raw, in-place.raw and one-more.raw.
# Usage: images.sh OUT DEBS. OUT is the folder to fill, DEBS keeps Debian packages
# between runs. Root, in a mount namespace of its own: what is mounted here goes
# with it, however this ends.
set -eu

out=$1 debs=$2
work=$out/work
export SOURCE_DATE_EPOCH=1735689600
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH MTOOLSRC=/dev/null LC_ALL=C.UTF-8
mkdir -p "$work" "$debs"

base=linux-image-cloud-amd64,initramfs-tools,systemd-sysv,systemd-resolved,systemd-boot-efi,udev,dbus
base=$base,kmod,e2fsprogs,iproute2,iputils-ping,procps,zstd,ca-certificates,curl,python3,perl,sudo
base=$base,less,vim-tiny,locales,cron,logrotate,rsyslog,man-db,file,gnupg
added=nginx,openssh-server
more=tmux

# The disk: a GPT with an EFI system partition and the root filesystem, in sectors.
disk_bytes=$((2 << 30))
esp_start=2048 esp_sectors=$((64 << 11))
root_start=$((esp_start + esp_sectors))
root_sectors=$((disk_bytes / 512 - root_start - 2048))

# tree NAME PACKAGES: a tree from nothing but packages, as NAME.tar. The folder of
# packages is on the same filesystem as the tree: links bring them in and out. The
# package lists stay in $work/lists, for the installation in place.
tree() {
    echo "making the tree of $1"
    rm -rf "$work/lists"
    DEBS=$debs LISTS=$work/lists TMPDIR=$work mmdebstrap --quiet --mode=root --variant=minbase --format=tar \
        --architectures=amd64 --skip=download/empty --skip=essential/unlink \
        --include="$2" --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
        --setup-hook='mkdir -p "$1/var/cache/apt/archives"; cp -ln "$DEBS"/*.deb "$1/var/cache/apt/archives" || :' \
        --customize-hook='cp -ln "$1"/var/cache/apt/archives/*.deb "$DEBS"' \
        --customize-hook='cp -a "$1/var/lib/apt/lists" "$LISTS"' \
        --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap' \
        bookworm "$work/$1.tar" 2>"$work/$1.log" || { cat "$work/$1.log" >&2; exit 1; }
}

# disk NAME: NAME.tar assembled anew as NAME.raw. The same tree gives the same bytes.
disk() {
    echo "making the disk of $1"
    root=$work/root raw=$out/$1.raw
    mkdir "$root"
    tar --extract --file "$work/$1.tar" --directory "$root" --xattrs --xattrs-include='*' --numeric-owner

    truncate -s $((root_sectors * 512)) "$work/root.img"
    mke2fs -q -F -t ext4 -b 4096 -L root -O '^has_journal' -U 6b0c5a3e-4f0b-4d0e-9d5c-0f6b8f1f2a01 \
        -E hash_seed=6b0c5a3e-4f0b-4d0e-9d5c-0f6b8f1f2a02,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard \
        -d "$root" "$work/root.img"
    # mke2fs copies the access and change times of the tree, which are those of this run.
    used=$(dumpe2fs -h "$work/root.img" 2>/dev/null |
        awk '/^Inode count:/ { all = $3 } /^Free inodes:/ { print all - $3 }')
    seq "$used" | awk -v at="@$SOURCE_DATE_EPOCH" '{
        for (i = split("atime ctime crtime", name); i; i--)
            printf "sif <%d> %s %s\nsif <%d> %s_extra 0\n", $1, name[i], at, $1, name[i]
    }' >"$work/times"
    debugfs -w -f "$work/times" "$work/root.img" >"$work/debugfs.log" 2>&1
    tune2fs -O has_journal "$work/root.img" >/dev/null

    truncate -s $((esp_sectors * 512)) "$work/esp.img"
    mkfs.vfat -F 32 -s 1 -n ESP --invariant -i 1A60B001 "$work/esp.img" >/dev/null
    mmd -i "$work/esp.img" ::EFI ::EFI/BOOT
    mcopy -m -i "$work/esp.img" "$root/usr/lib/systemd/boot/efi/systemd-bootx64.efi" ::EFI/BOOT/BOOTX64.EFI

    truncate -s $disk_bytes "$raw"
    sfdisk --quiet "$raw" <<TABLE
label: gpt
label-id: 6b0c5a3e-4f0b-4d0e-9d5c-0f6b8f1f2a03
start=$esp_start, size=$esp_sectors, type=U, uuid=6b0c5a3e-4f0b-4d0e-9d5c-0f6b8f1f2a04
start=$root_start, size=$root_sectors, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=6b0c5a3e-4f0b-4d0e-9d5c-0f6b8f1f2a05
TABLE
    dd if="$work/esp.img" of="$raw" bs=1M seek=$((esp_start >> 11)) conv=notrunc,sparse status=none
    dd if="$work/root.img" of="$raw" bs=1M seek=$((root_start >> 11)) conv=notrunc,sparse status=none
    fallocate --dig-holes "$raw"
    rm -rf "$root" "$work/root.img" "$work/esp.img"
}

# in_place FROM PACKAGES: a copy of FROM.raw as in-place.raw, with packages installed
# in its mounted root filesystem, from the lists of the last tree.
in_place() {
    echo "installing $2 in place"
    cp --sparse=always "$out/$1.raw" "$out/in-place.raw"
    root=$work/mounted
    mkdir "$root"
    mount -o loop,offset=$((root_start * 512)) "$out/in-place.raw" "$root"
    mkdir -p "$root/var/lib/apt/lists" "$root/var/cache/apt/archives"
    mount --bind "$work/lists" "$root/var/lib/apt/lists"
    mount --bind "$debs" "$root/var/cache/apt/archives"
    mount -t proc proc "$root/proc"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/dev"
    for node in null zero full random urandom tty; do cp -a "/dev/$node" "$root/dev/"; done
    ln -s /proc/self/fd "$root/dev/fd"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install --quiet --yes --no-install-recommends \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        $(echo "$2" | tr , ' ') >"$work/in-place.log" 2>&1 || { cat "$work/in-place.log" >&2; exit 1; }
    rm "$root/usr/sbin/policy-rc.d"
    umount -R "$root"
    fallocate --dig-holes "$out/in-place.raw"
}

tree base "$base"
tree one-more "$base,$more"
tree rebuilt "$base,$added"
for name in base one-more rebuilt; do disk $name; done
in_place base "$added"
rm -rf "$work"
