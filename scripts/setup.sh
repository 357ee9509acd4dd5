#!/bin/sh
# Installs the Debian packages that make test and make demo need and that are
# missing; when none is, it only looks (some milliseconds). It starts no
# service and changes nothing else. This is the one list of packages.
set -eu

# building: gcc and libc6-dev for the race detector
packages="make git gcc libc6-dev ca-certificates"
# looking at the status page
packages="$packages chromium"
# checking what the gateway's pages and units say: their openssl commands, systemd-analyze
packages="$packages openssl systemd"
# checking the user data of EC2 instances
packages="$packages shellcheck"
# the test hosts' disk image: a Debian tree, its modules, an initramfs, a file system
packages="$packages mmdebstrap debian-archive-keyring busybox-static kmod cpio xz-utils zstd e2fsprogs"
# running them: virtual machines, and a network between them
packages="$packages qemu-system-x86 qemu-utils iproute2 nftables openssh-client"

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	echo "setup: this is not Debian; install what these packages hold, then run the step itself (make lint, make unit, ...):" >&2
	echo "  $packages" >&2
	exit 1
fi

if ! command -v go >/dev/null; then
	echo "setup: Go is missing: install Go $(sed -n 's/^go //p' "$(dirname "$0")/../go.mod") or newer from https://go.dev/dl/ and put its bin directory into PATH" >&2
	exit 1
fi

# shellcheck disable=SC2086,SC2016 # a list of words; dpkg's own variables
have=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2>/dev/null | sed -n 's/^installed //p') || true
missing=
for p in $packages; do
	case "
$have
" in
	*"
$p
"*) ;;
	*) missing="$missing $p" ;;
	esac
done
if [ -z "$missing" ]; then
	exit 0
fi

root=
if [ "$(id -u)" != 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "setup: run as root:  apt-get install --no-install-recommends$missing" >&2
		exit 1
	fi
	root="sudo"
fi

echo "setup: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
	# shellcheck disable=SC2086 # empty or one word
	$root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
		apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null >>"$log" 2>&1
}
# The lists may be missing or old; refresh them only then.
# shellcheck disable=SC2086 # a list of words
if ! apt install -y --no-install-recommends $missing && ! { apt update && apt install -y --no-install-recommends $missing; }; then
	cat "$log" >&2
	echo "setup: apt-get could not install$missing; its output is above" >&2
	exit 1
fi
