# After every step: takes out of the tree what differs from build to build, or
# would be the same secret on every machine.
set -eu

rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
chmod 0444 /etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
rm -f /root/.bash_history /etc/.pwd.lock
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /var/lib/dpkg/*-old /var/lib/dpkg/lock* /var/lib/dpkg/triggers/Lock
rm -f /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
rm -rf /var/backups/* /var/tmp/*
find /var/log /var/cache/apt /var/lib/apt/lists -type f -delete

# Times after the epoch become the epoch, as they do when the tree is stored:
# the next step sees the same tree whether this one ran or was cached.
# What the sandbox covers is left to the host.
find / -xdev \( -path /dev -o -path /proc -o -path /run -o -path /sys -o -path /tmp \) -prune -o \
    -newermt "@$SOURCE_DATE_EPOCH" \
    -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
