#!/bin/sh
# Installs the infractl agent on VyOS, below /config: an image upgrade keeps that folder and nothing else. Run again with a newer
# tarball it upgrades; identity and state stay.
set -eu

base=/config/infractl
hook=/config/scripts/vyos-postconfig-bootup.script
here=$(cd "$(dirname "$0")" && pwd)

if [ ! -d /config ]; then
	echo "install.sh: there is no /config here: this is for VyOS" >&2
	exit 1
fi
for f in "$base"/state/commits/*/armed.json "$base"/state/commits/*/reverting.json; do
	if [ -e "$f" ]; then
		echo "install.sh: a commit is open on this router; try again in a minute" >&2
		exit 1
	fi
done

umask 022
mkdir -p "$base/units" /config/scripts
mkdir -p -m 0700 "$base/state"
# A running program can't be written to; a rename can take its place.
cp "$here/infractl-agent" "$base/.infractl-agent.new"
chmod 0755 "$base/.infractl-agent.new"
mv -f "$base/.infractl-agent.new" "$base/infractl-agent"
cp "$here"/units/*.service "$base/units/"
cp "$here/boot.sh" "$base/boot.sh"
chmod 0755 "$base/boot.sh"

# The script is the administrator's: only our block is ours, and it never ends the script.
if [ ! -e "$hook" ]; then
	printf '#!/bin/sh\n' >"$hook"
fi
if ! grep -q '^# infractl: begin$' "$hook"; then
	# An "exit" at the end of a script would come before a block that is appended: ours stands behind the first line.
	{
		head -n 1 "$hook"
		printf '# infractl: begin\n/config/infractl/boot.sh || true\n# infractl: end\n'
		tail -n +2 "$hook"
	} >"$hook.new"
	cat "$hook.new" >"$hook"
	rm -f "$hook.new"
fi
chmod 0750 "$hook"
"$base/boot.sh"
echo "installed below $base; a join token goes into $base/join-token"
