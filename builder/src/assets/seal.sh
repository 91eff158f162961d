# Behind the last step: refuses a tree that cannot boot, and sets up what each
# machine makes for itself.
set -eu

for link in /vmlinuz /initrd.img; do
    if [ ! -e "$link" ]; then
        echo "the tree has no $link: add a kernel package to [base], linux-image-amd64 for any" \
            "machine or linux-image-cloud-amd64 for virtual ones" >&2
        exit 1
    fi
done

rm -f /usr/sbin/policy-rc.d

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
