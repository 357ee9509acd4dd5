#!/bin/sh
# Installs the plugin on an EC2 instance at its first start, as user data; the
# templates beside it set the variables and put this text after them. It is safe to
# repeat: what is there already stays. It runs on Amazon Linux 2023 and on the
# ECS-optimised image of it, and elsewhere if Docker Engine is there.
#
#   PLUGIN_SOURCE   s3://BUCKET/KEY or https://… of a bundle, which is build/plugin-$ARCH
#                   as .tar.gz, or a registry's reference of the plugin
#   PLUGIN_SHA256   the bundle's digest; empty: not compared
#   PLUGIN_NAME     default efs; the same on every host, for it is the driver's name
#   ECS_CLUSTER     the cluster to join; empty: none
#   EFS_…, AWS_REGION … the plugin's settings; empty: its default
#
# What fails is the last line of /var/log/cloud-init-output.log and of the
# instance's console, and begins with "docker-volume-efs: FAILED".
set -eu

name=${PLUGIN_NAME:-efs}
source=${PLUGIN_SOURCE:-}
tries=${TRIES:-10}
settings='EFS_FILESYSTEM EFS_ROOT EFS_VIA EFS_ZONE EFS_TARGETS EFS_RETURN EFS_TLS EFS_IAM EFS_ACCESS_POINT
	EFS_ACCESS EFS_REMOVE EFS_TRASH_KEEP EFS_HTTP EFS_LOG_LEVEL EFS_CA_FILE AWS_REGION
	AWS_ENDPOINT_URL AWS_USE_FIPS_ENDPOINT GODEBUG'

say() { echo "docker-volume-efs: $*"; }
die() {
	say "FAILED: $*" >&2
	exit 1
}

# retry WHAT COMMAND...: tries with growing pauses. A new instance may be ahead of
# its network, its role's credentials and the package mirror.
retry() {
	what=$1
	shift
	try=1
	until "$@"; do
		[ "$try" -lt "$tries" ] || return 1
		say "$what: try $try of $tries failed, again in $((try * 3)) s"
		sleep $((try * 3))
		try=$((try + 1))
	done
}

# package COMMAND PACKAGE: installs what brings a command, if that is missing.
package() {
	command -v "$1" >/dev/null && return
	command -v dnf >/dev/null || die "$1 is missing, and there is no dnf to install it: take an image that has it"
	retry "dnf install $2" dnf -y install "$2" || die "dnf could not install $2: can the instance reach the package mirror? (route, security group, S3 endpoint)"
}

engine() {
	package docker docker
	docker version >/dev/null 2>&1 && return
	systemctl enable docker
	systemctl start docker || true
	retry 'asking Docker Engine' docker version || die "Docker Engine does not answer: journalctl -u docker says why"
}

download() {
	case $source in
	s3://*) aws s3 cp --only-show-errors "$source" "$1" ;;
	*) curl -fsSL --connect-timeout 10 -o "$1" "$source" ;;
	esac
}

# bundle: the plugin from its files.
bundle() {
	case $source in
	s3://*) package aws awscli-2 ;;
	*) package curl curl-minimal ;;
	esac
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	retry "fetching $source" download "$dir/bundle" ||
		die "$source cannot be fetched: is it there, may the instance's role read it (s3:GetObject), can the instance reach it?"
	if [ -n "${PLUGIN_SHA256:-}" ]; then
		echo "$PLUGIN_SHA256  $dir/bundle" | sha256sum -c - >/dev/null 2>&1 ||
			die "$source is not the bundle that was asked for: its SHA-256 is $(sha256sum <"$dir/bundle" | cut -d' ' -f1), not $PLUGIN_SHA256"
	fi
	mkdir "$dir/plugin"
	if ! tar -xzf "$dir/bundle" --no-same-owner -C "$dir/plugin" || [ ! -f "$dir/plugin/config.json" ] || [ ! -x "$dir/plugin/rootfs/docker-volume-efs" ]; then
		die "$source is not a bundle: make one with  make rootfs && tar -C build/plugin-amd64 -czf efs-amd64.tar.gz ."
	fi
	docker plugin create "$name" "$dir/plugin" || die "Docker Engine does not take the plugin: see the line above"
}

# pulled: an earlier try may have come further than its answer.
pulled() {
	docker plugin inspect "$name" >/dev/null 2>&1 ||
		docker plugin install --grant-all-permissions --disable --alias "$name" "$source"
}

get() {
	case $source in
	'') die "PLUGIN_SOURCE is empty: give s3://BUCKET/KEY, https://… or a registry's reference" ;;
	s3://* | https://*) bundle ;;
	*) retry "installing $source" pulled || die "$source cannot be installed: is the registry's name right, and can it be read without a login?" ;;
	esac
}

configure() {
	set --
	for setting in $settings; do
		eval "value=\${$setting:-}"
		[ -z "$value" ] || set -- "$@" "$setting=$value"
	done
	[ $# = 0 ] || docker plugin set "$name" "$@" || die "the plugin does not know one of: $*"
}

join() {
	config=${ECS_CONFIG:-/etc/ecs/ecs.config}
	if [ -n "${ECS_CLUSTER:-}" ] && ! grep -qs '^ECS_CLUSTER=' "$config"; then
		mkdir -p "$(dirname "$config")"
		echo "ECS_CLUSTER=$ECS_CLUSTER" >>"$config"
	fi
}

join
modprobe nfsv4 || die "this kernel has no NFSv4 client (module nfsv4): take another image"
engine
if [ "$(docker plugin inspect -f '{{.Enabled}}' "$name" 2>/dev/null)" = true ]; then
	say "$name is installed and enabled already; its settings are left as they are"
else
	if ! docker plugin inspect "$name" >/dev/null 2>&1; then
		get
	fi
	configure
	retry "enabling $name" docker plugin enable "$name" || die "$name does not start: journalctl -u docker | grep plugin= says why"
	say "$name is enabled"
	# The agent tells ECS which volume drivers there are when it starts. On the first
	# start of an instance it comes after this, and to wait for it here would be to
	# wait for ourselves.
	systemctl --no-block try-restart ecs 2>/dev/null || true
fi
