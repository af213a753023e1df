#!/bin/sh
# Run by vyos-postconfig-bootup.script at each boot, and by install.sh. Everything outside /config is made anew here.
set -eu

base=/config/infractl
units=/run/systemd/system

# State, too, has its usual path, so that reverts and repairs find it.
if [ ! -e /var/lib/infractl ]; then ln -s "$base/state" /var/lib/infractl; fi
ln -sf "$base/infractl-agent" /usr/bin/infractl-agent
mkdir -p "$units/infractl-agent.service.d"
cp "$base"/units/*.service "$units/"
cat >"$units/infractl-agent.service.d/10-vyos.conf" <<'EOF'
[Unit]
After=vyos-router.service

[Service]
StateDirectory=
ExecStart=
ExecStart=/config/infractl/infractl-agent run --join-token /config/infractl/join-token
EOF
systemctl daemon-reload
# A commit that was open when the router went down is reverted before the agent does anything.
systemctl start infractl-revert.service || true
systemctl restart infractl-agent.service
