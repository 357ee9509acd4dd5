# Sourced by the scripts that make Debian trees; they set suite before.
# shellcheck shell=sh
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
# What is built does not depend on where the caller looks for programs.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022

# mirror prints the Debian archive that this machine itself uses.
mirror() {
	sites=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian')
	[ -n "$sites" ] || sites=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/*$' || true)
	if [ -z "$sites" ]; then
		echo "apt knows no Debian archive: add one to the machine's package sources and run apt-get update" >&2
		return 1
	fi
	echo "$sites" | head -n 1
}

# bootstrap TREE PACKAGES [mmdebstrap options] makes a Debian tree without what
# nobody reads in a test host.
bootstrap() {
	target=$1
	packages=$2
	shift 2
	mmdebstrap --quiet --mode=root --variant=minbase \
		--aptopt='APT::Install-Recommends "false"' \
		${proxy:+--aptopt="Acquire::http::Proxy \"$proxy\""} \
		--dpkgopt='force-unsafe-io' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--include="$packages" "$@" "$suite" "$target" "$archive"
}

archive=$(mirror)
proxy=
eval "$(apt-config shell proxy Acquire::http::Proxy)"
