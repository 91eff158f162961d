#!/bin/sh
# Installs the Debian packages that `make demo`, `make test` and `make bench` need,
# naming those that are missing. Usage: setup.sh demo|test|bench. Root, Debian 12 or 13.
set -eu

build="gcc libc6-dev make git ca-certificates procps"
image="debian-archive-keyring mmdebstrap e2fsprogs dosfstools mtools grub-pc-bin grub-efi-amd64-bin grub-common
  bubblewrap binutils xz-utils zstd"
loader="systemd-boot-efi"
vm="qemu-system-x86 ovmf ipxe-qemu seabios iproute2"
clients="udhcpc isc-dhcp-client atftp tftp-hpa curl fdisk strace"
peers="casync restic borgbackup zstd b3sum fdisk time"

case "${1:-}" in
demo) wanted="$build $image $loader $vm" ;;
test) wanted="$build $image $loader $vm $clients time" ;;
bench) wanted="$build debian-archive-keyring mmdebstrap e2fsprogs dosfstools mtools $peers" ;;
*) echo "usage: $0 demo|test|bench" >&2; exit 2 ;;
esac

if [ "$(id -u)" != 0 ]; then
    echo "make $1 needs root: it makes network namespaces and root file systems" >&2
    exit 1
fi

missing=""
for package in $wanted; do
    case "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" in
    ii*) ;;
    *) missing="$missing $package" ;;
    esac
done

# Images and the loader are made of the release's current packages.
if [ -n "$missing" ] || [ -z "$(find /var/lib/apt/lists -name '*Packages*' -mtime -1 2>/dev/null)" ]; then
    echo "reading the lists of Debian packages"
    apt-get update -qq
fi

if [ -n "$missing" ]; then
    echo "installing Debian packages:$missing"
    install="apt-get install -qq -y --no-install-recommends"
    # A machine may carry a backport of qemu-utils that this release's
    # qemu-system-x86 does not accept: then take the release's own.
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    $install $missing >/dev/null || $install --allow-downgrades $missing "qemu-utils/$release"
fi

for component in fmt clippy; do
    if [ "$1" = test ] && ! cargo $component --version >/dev/null 2>&1; then
        echo "installing the Rust component: $component"
        rustup component add "$(echo $component | sed 's/^fmt$/rustfmt/')"
    fi
done

if [ "$1" = test ] && ! command -v cargo-nextest >/dev/null; then
    echo "installing the test runner: cargo-nextest"
    cargo install --quiet --locked cargo-nextest@0.9.143
fi
