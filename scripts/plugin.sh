#!/usr/bin/env bash
# Puts the built plugin into the local Docker Engine, or takes it out:
#
#   plugin.sh install NAME DIR     DIR holds config.json and rootfs/
#   plugin.sh uninstall NAME
#
# Both are safe to repeat. Neither uses force: a plugin with volumes that the
# Engine knows stays as it is. "docker plugin rm" deletes what the plugin keeps on this
# host, so a plugin that holds the data of volumes itself (file system "dir:")
# is not removed either, unless DELETE_DATA=1.
set -euo pipefail

say() { echo "plugin: $*"; }
die() {
	echo "plugin: $*" >&2
	exit 1
}

docker=(docker)
root=()
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null; then
	root=(sudo)
fi

# engine finds a way to talk to the Engine.
engine() {
	local out
	command -v docker >/dev/null || die "the docker command is missing: install Docker Engine (Debian: apt-get install docker.io)"
	out=$(docker version -f '{{.Server.Version}}' 2>&1) && return
	if [[ $out == *"permission denied"* && ${#root[@]} -gt 0 ]]; then
		docker=(sudo docker)
		out=$("${docker[@]}" version -f '{{.Server.Version}}' 2>&1) && return
	fi
	die "no Docker Engine answers here: ${out##*$'\n'}"
}

# ask NAME TEMPLATE: a field of the plugin; fails when there is no such plugin.
ask() { "${docker[@]}" plugin inspect -f "$2" "$1" 2>/dev/null; }

# volume_files ID: names the directory of the volumes' data inside the plugin,
# if there is any; status 2 when this user or machine cannot look.
volume_files() {
	local top dir
	top=$("${docker[@]}" info -f '{{.DockerRootDir}}') || return 2
	dir=$top/plugins/$1/propagated-mount
	"${root[@]}" test -d "$dir" || return 2
	# The plugin's own: state/ and volumes/ (mount points), and on a file system
	# the catalogue without its trash.
	"${root[@]}" find "$dir" -mindepth 2 -xdev \
		\( -path "$dir/state/*" -o -path "$dir/volumes/*" \) -prune -o \
		-path '*/.docker-volume-efs/*' ! -path '*/.docker-volume-efs/trash*' -prune -o \
		! -type d -printf "$dir\n" -quit
}

# remove NAME: disables and removes, or dies with the reason and the way out.
remove() {
	local name=$1 id enabled out setting found status=0
	id=$(ask "$name" '{{.Id}}')
	enabled=$(ask "$name" '{{.Enabled}}')
	setting=$(ask "$name" '{{range .Settings.Env}}{{println .}}{{end}}' | sed -n 's/^EFS_FILESYSTEM=//p')

	if [ "$enabled" = true ] && ! out=$("${docker[@]}" plugin disable "$name" 2>&1); then
		die "$name is in use, left as it is: ${out##*$'\n'}
  The Engine knows volumes of it: docker volume ls -f driver=$name (docker volume rm removes them for every host).
  To have this build beside it:  make plugin PLUGIN=efs:dev
  To take it out all the same:   docker plugin disable -f $name && docker plugin rm -f $name
  That leaves volumes on a file system as they are, and deletes those with file system dir: together with the plugin."
	fi

	if [ "${DELETE_DATA:-}" != 1 ]; then
		found=$(volume_files "$id") || status=$?
		if [ -n "$found" ] || { [ "$status" != 0 ] && [[ $setting == "" || $setting == "dir:" ]]; }; then
			[ "$enabled" = true ] && "${docker[@]}" plugin enable "$name" >/dev/null
			[ -n "$found" ] && die "$name holds data of volumes itself (file system dir:), removing it would delete them:
  ${found}
  Copy out what you need, then run this again with DELETE_DATA=1."
			die "$name may hold data of volumes itself (file system dir:), and this user cannot look.
  Run this as root on the Engine's host, or with DELETE_DATA=1 if nothing in it is needed."
		fi
	fi

	"${docker[@]}" plugin rm "$name" >/dev/null
}

install() {
	local name=$1 dir=$2 stamp sum id='' old='' line key known
	if [ ! -f "$dir/config.json" ] || [ ! -x "$dir/rootfs/docker-volume-efs" ]; then
		die "$dir is not a built plugin: make rootfs"
	fi
	stamp=$dir.installed
	sum=$(cd "$dir" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)

	if id=$(ask "$name" '{{.Id}}'); then
		if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$name $id $sum" ]; then
			if [ "$(ask "$name" '{{.Enabled}}')" = true ]; then
				say "$name is this build already, and enabled"
				return
			fi
			"${docker[@]}" plugin enable "$name" >/dev/null
			say "$name is this build already; enabled it"
			return
		fi
		say "replacing $name; its settings are kept"
		old=$(ask "$name" '{{range .Settings.Env}}{{println .}}{{end}}')
		remove "$name"
	fi

	"${docker[@]}" plugin create "$name" "$dir" >/dev/null
	known=$(ask "$name" '{{range .Config.Env}}{{println .Name}}{{end}}')
	while IFS= read -r line; do
		key=${line%%=*}
		[[ $line == *=?* ]] || continue
		if ! grep -qxF "$key" <<<"$known"; then
			say "setting $key is not known to this build, dropped"
			continue
		fi
		# The value may be a secret: it is not shown.
		"${docker[@]}" plugin set "$name" "$line" >/dev/null
	done <<<"$old"
	"${docker[@]}" plugin enable "$name" >/dev/null || die "$name is installed but does not start: the Engine's log says why (journalctl -u docker | grep plugin=)"
	echo "$name $(ask "$name" '{{.Id}}') $sum" >"$stamp"
	say "$name is enabled. Try:"
	say "  docker volume create -d ${name%:latest} data && docker run --rm -it -v data:/data debian"
}

uninstall() {
	local name=$1
	if ! ask "$name" '{{.Id}}' >/dev/null; then
		say "$name is not installed, nothing to do"
		return
	fi
	remove "$name"
	say "$name is removed, with its settings and its state on this host. Volumes on a file system stay there with"
	say "their records, and are back when the plugin is installed again with the same EFS_FILESYSTEM."
}

case ${1:-} in
install)
	[ $# = 3 ] || die "usage: plugin.sh install NAME DIR"
	engine
	install "$2" "$3"
	;;
uninstall)
	[ $# = 2 ] || die "usage: plugin.sh uninstall NAME"
	engine
	uninstall "$2"
	;;
*) die "usage: plugin.sh install NAME DIR | uninstall NAME" ;;
esac
