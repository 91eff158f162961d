# Last of all steps: takes out of the tree what names this build or would be
# the same on every machine, and refuses a tree that cannot boot.
set -eu

for link in /vmlinuz /initrd.img; do
    if [ ! -e "$link" ]; then
        echo "the tree has no $link: add a kernel package to [base], linux-image-amd64 for any" \
            "machine or linux-image-cloud-amd64 for virtual ones" >&2
        exit 1
    fi
done

# A host key in an image is the same secret on every machine.
rm -f /etc/ssh/ssh_host_*
if [ -x /usr/sbin/sshd ]; then
    cat > /etc/systemd/system/ssh-host-keys.service <<'UNIT'
[Unit]
Description=Make the SSH host keys of this machine
Before=ssh.service ssh.socket
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
RequiredBy=ssh.service
UNIT
    systemctl --quiet enable ssh-host-keys.service
fi

: > /etc/machine-id
chmod 0444 /etc/machine-id
rm -f /var/lib/dbus/machine-id /var/lib/systemd/random-seed /var/lib/systemd/credential.secret

rm -f /usr/sbin/policy-rc.d /root/.bash_history /etc/.pwd.lock
rm -f /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- /etc/subuid- /etc/subgid-
rm -f /var/lib/dpkg/*-old /var/lib/dpkg/lock* /var/lib/dpkg/triggers/Lock
rm -f /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
rm -rf /var/backups/* /var/tmp/*
find /var/log /var/cache/apt /var/lib/apt/lists -type f -delete

find / -xdev -newermt "@$SOURCE_DATE_EPOCH" \
    -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
