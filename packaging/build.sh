#!/bin/bash
# Builds the packages: build.sh VERSION ARCH OUT. The same sources, version and SOURCE_DATE_EPOCH give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD version=$1 arch=$2 out=$3
nfpm=$(realpath "${NFPM:-bin/nfpm}")
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export VERSION=$version ARCH=$arch LC_ALL=C TZ=UTC
umask 022
tags=$(cat packaging/tags)

mkdir -p "$out"
build=$(cd "$out" && pwd)/build
out=$(cd "$out" && pwd)
rm -rf "$build"
mkdir -p "$build/bin"
cp -r packaging "$build/packaging"

programs=(./cli/infractl ./server/infractl-server ./agent/infractl-agent)
if [ -e agent/infractl-compose/main.go ]; then programs+=(./agent/infractl-compose); fi
CGO_ENABLED=0 GOOS=linux GOARCH=$arch "${GO:-go}" build -trimpath -buildvcs=false -tags "$tags" \
  -ldflags "-s -w -buildid= -X github.com/infractl/infractl/internal/version.linked=$version" -o "$build/bin/" "${programs[@]}"

# The pages and completions come from the programs themselves, so from ones that run here.
run=$build/bin
if [ "$arch" != "$("${GO:-go}" env GOHOSTARCH)" ]; then
  run=$build/host
  mkdir -p "$run"
  CGO_ENABLED=0 "${GO:-go}" build -trimpath -buildvcs=false -tags "$tags" \
    -ldflags "-X github.com/infractl/infractl/internal/version.linked=$version" -o "$run/" "${programs[@]}"
fi

# stage PACKAGE SECTION: program, manual page, completions and changes.
stage() {
  local to=$build/stage/$1
  install -D -m 0755 "$build/bin/$1" "$to/usr/bin/$1"
  mkdir -p "$to/usr/share/man/man$2" "$to/usr/share/bash-completion/completions" "$to/usr/share/zsh/vendor-completions" \
    "$to/usr/share/fish/vendor_completions.d" "$to/usr/share/doc/$1"
  "$run/$1" man | gzip -9n >"$to/usr/share/man/man$2/$1.$2.gz"
  "$run/$1" completion bash >"$to/usr/share/bash-completion/completions/$1"
  "$run/$1" completion zsh >"$to/usr/share/zsh/vendor-completions/_$1"
  "$run/$1" completion fish >"$to/usr/share/fish/vendor_completions.d/$1.fish"
  gzip -9n <CHANGELOG.md >"$to/usr/share/doc/$1/changelog.gz"
}
stage infractl 1
stage infractl-server 8
stage infractl-agent 8

units=usr/lib/systemd/system
mkdir -p "$build/stage/infractl-server/$units" "$build/stage/infractl-agent/$units/infractl-agent.service.d"
install -m 0644 server/infractl-server/systemd/*.{service,timer} "$build/stage/infractl-server/$units/"
install -m 0644 agent/infractl-agent/systemd/*.service packaging/agent/infractl-agent.path "$build/stage/infractl-agent/$units/"
install -m 0644 packaging/agent/10-configured.conf "$build/stage/infractl-agent/$units/infractl-agent.service.d/"
if [ -e "$build/bin/infractl-compose" ]; then
  install -m 0755 "$build/bin/infractl-compose" "$build/stage/infractl-agent/usr/bin/"
fi

# The tarball for VyOS lives below /config, the one place that an image upgrade keeps.
vyos=$build/stage/vyos/infractl-agent
mkdir -p "$vyos/units"
install -m 0755 "$build/bin/infractl-agent" packaging/vyos/install.sh packaging/vyos/boot.sh "$vyos/"
install -m 0644 packaging/vyos/README "$vyos/"
install -m 0644 agent/infractl-agent/systemd/infractl-{agent,revert}.service "$vyos/units/"

chmod -R u=rwX,go=rX "$build/stage"
find "$build/stage" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

cd "$build"
for package in infractl infractl-server infractl-agent; do
  rm -f "$out/${package}"_*_"$arch".deb
  "$nfpm" package --packager deb --config "packaging/$package.yaml" --target "$out/${package}_${version}_$arch.deb" >/dev/null
done
rm -f "$out"/infractl-agent_*_vyos.tar.gz
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=gnu -C stage/vyos -cf - infractl-agent |
  gzip -9n >"$out/infractl-agent_${version}_vyos.tar.gz"
rm -rf "$build"
ls -l "$out"
