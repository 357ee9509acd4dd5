#!/bin/sh
# Installs what the test hosts need of the machine: only what is missing, only
# from the machine's own package sources. None of them has a service that starts.
# usage: packages.sh        (root on Debian 12 or 13)
set -eu

needed='mmdebstrap qemu-system-x86 qemu-utils busybox-static kmod cpio gzip xz-utils zstd
e2fsprogs util-linux nftables iproute2 openssh-client debian-archive-keyring'

missing=
for package in $needed; do
	status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
	[ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "packages are missing, install them as root: apt-get install --no-install-recommends$missing" >&2
	exit 1
fi

echo "installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	# shellcheck disable=SC2086 # a list of names
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
		-o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 $missing >"$log" 2>&1 </dev/null
}
# Package lists may be old or absent: fetch them only when that shows.
if ! install; then
	apt-get update -qq >>"$log" 2>&1 || true
	if ! install; then
		cat "$log" >&2
		echo "cannot install$missing: see apt-get's words above" >&2
		exit 1
	fi
fi
