#!/bin/sh
# Builds what a test host starts from into DIR, which must not exist:
#   kernel, initrd   what QEMU boots, both of the suite's own stock kernel
#   disk.raw         the host's root file system, container images still to import
#   tree             the same tree without kernel and Engine: nfs-ganesha runs from it
#   id, id.pub       the key that opens the hosts; host-key.pub: the key they show
# usage: build.sh SUITE DIR       (root on Debian 12 or 13, after packages.sh)
#
# The caller runs it in a mount and PID namespace of its own, so that a build cut
# short leaves neither mounts nor processes, only DIR.
set -eu

suite=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/bootstrap.sh"

docker='docker.io'
[ "$suite" = bookworm ] || docker='docker.io,docker-cli,docker-compose'
host_packages="$docker,iptables,nftables,kmod,iproute2,linux-image-amd64,busybox-static,ca-certificates,netbase,procps,nfs-common,nfs-ganesha,nfs-ganesha-vfs,openssh-server,curl"
# The relay's units are tried under it; the host's own start does without.
[ "$suite" = bookworm ] || host_packages=$host_packages,systemd

# host makes the host's tree. Its initial ramdisk is our own (below), so the
# distribution's generator, half a minute of work, is told to stand aside.
host() {
	bootstrap "$out/tree" "$host_packages" \
		--essential-hook='mkdir -p "$1/etc/initramfs-tools"; echo update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"' \
		--essential-hook='mkdir -p "$1/etc/kernel/postinst.d"; printf "#!/bin/sh\n" >"$1/etc/kernel/postinst.d/initramfs-tools"' \
		--dpkgopt='force-confold'
}

# postgres makes the container image "postgres": the server without its
# compiler (libLLVM alone is 100 MB), user 999 as in the image people know.
postgres() {
	bootstrap "$out/postgres" postgresql \
		--dpkgopt='path-exclude=/usr/lib/*/libLLVM*' \
		--dpkgopt='path-exclude=/usr/lib/llvm-*' \
		--dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/bitcode/*' \
		--dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/llvmjit*' \
		--essential-hook='echo postgres:x:999: >>"$1/etc/group"' \
		--essential-hook='echo postgres:x:999:999::/var/lib/postgresql:/bin/sh >>"$1/etc/passwd"' \
		--essential-hook='mkdir -p "$1/etc/postgresql-common"; echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"'
	install -m 755 "$here/postgres/entrypoint" "$out/postgres/usr/local/bin/entrypoint"
	for program in "$out"/postgres/usr/lib/postgresql/*/bin/*; do
		ln -sf "${program#"$out/postgres"}" "$out/postgres/usr/local/bin/$(basename "$program")"
	done
	rm -rf "$out"/postgres/var/lib/apt/lists/* "$out"/postgres/var/cache/apt/*
	# initdb takes half a minute under emulation and a second here.
	mkdir -p "$out/postgres/usr/share/cluster"
	chroot "$out/postgres" sh -ec '
		chown 999:999 /usr/share/cluster
		setpriv --reuid 999 --regid 999 --clear-groups initdb -D /usr/share/cluster \
			--auth trust --encoding UTF8 --locale C --no-sync >/dev/null
		echo "jit = off" >>/usr/share/cluster/postgresql.conf'
	tar -C "$out/postgres" -cf "$out/postgres.tar" .
	rm -rf "$out/postgres"
}

# busybox makes the container image "busybox".
busybox() {
	mkdir -p "$out/busybox/bin" "$out/busybox/tmp"
	cp "$out/tree/bin/busybox" "$out/busybox/bin/"
	for applet in $("$out/tree/bin/busybox" --list); do
		[ "$applet" = busybox ] || ln -s busybox "$out/busybox/bin/$applet"
	done
	tar -C "$out/busybox" -cf "$1" .
	rm -rf "$out/busybox"
}

# configure turns the tree into a test host.
configure() {
	tree=$out/tree
	ssh-keygen -q -t ed25519 -N '' -C docker-volume-efs-lab -f "$out/id"
	cp "$tree/etc/ssh/ssh_host_ed25519_key.pub" "$out/host-key.pub"
	tar -C "$here/guest" --owner=0 --group=0 --mode='u=rwX,go=rX' -cf - . | tar -C "$tree" --no-overwrite-dir -xf -
	chmod 755 "$tree"/usr/local/sbin/*
	ln -sf /bin/busybox "$tree/usr/sbin/init"
	ln -sf ../proc/self/mounts "$tree/etc/mtab"
	mkdir -p "$tree/root/.ssh" "$tree/var/lib/images"
	chmod 700 "$tree/root/.ssh"
	cp "$out/id.pub" "$tree/root/.ssh/authorized_keys"
	# Newer servers lock out an address whose connections break; ours do on purpose.
	[ "$suite" = bookworm ] || echo 'PerSourcePenalties no' >>"$tree/etc/ssh/sshd_config.d/lab.conf"
	rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*
	busybox "$tree/var/lib/images/busybox.tar"
	mv "$out/postgres.tar" "$tree/var/lib/images/postgres.tar"
}

# initrd packs what leads to the disk: busybox and the modules, in the order
# in which modprobe would load them.
initrd() {
	version=$(ls "$out/tree/usr/lib/modules")
	work=$out/initrd.d
	mkdir -p "$work/bin" "$work/modules" "$work/root"
	cp "$out/tree/boot/vmlinuz-$version" "$out/kernel"
	cp "$out/tree/bin/busybox" "$work/bin/busybox"
	install -m 755 "$here/initrd-init" "$work/init"
	for module in virtio_pci virtio_net virtio_blk virtio_rng ext4; do
		modprobe -d "$out/tree" -S "$version" --show-depends "$module"
	done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$work/list"
	number=100
	while read -r file; do
		name=$(basename "$file")
		target="$work/modules/$number-${name%.ko*}.ko"
		case $file in
		*.xz) xz -dc "$file" >"$target" ;;
		*.zst) zstd -qdc "$file" >"$target" ;;
		*) cp "$file" "$target" ;;
		esac
		number=$((number + 1))
	done <"$work/list"
	(cd "$work" && find . | cpio --quiet -o -H newc | gzip -1) >"$out/initrd"
	rm -rf "$work"
}

# disk writes the tree into a sparse file system image.
disk() {
	truncate -s 8G "$out/disk.raw"
	mke2fs -q -F -t ext4 -L root -m 0 -E lazy_itable_init=1,nodiscard -d "$out/tree" "$out/disk.raw"
}

# server leaves in the tree what nfs-ganesha needs, and the directories that
# the lab mounts over.
server() {
	tree=$out/tree
	rm -rf "$tree/usr/lib/modules" "$tree"/boot/* "$tree/var/lib/images" "$tree/usr/lib/firmware" \
		"$tree"/usr/bin/docker* "$tree"/usr/sbin/dockerd "$tree"/usr/bin/containerd* "$tree"/usr/bin/ctr \
		"$tree"/usr/sbin/runc "$tree"/usr/libexec/docker
	mkdir -p "$tree/lab"
	rm "$tree/etc/mtab"
	: >"$tree/etc/mtab"
}

# timed TEXT COMMAND... runs a step and says how long it took.
timed() {
	text=$1
	shift
	before=$(date +%s)
	"$@"
	echo "$suite image: $text: $(($(date +%s) - before)) s"
}

mkdir "$out"

timed 'Postgres tree' postgres &
timed 'host tree' host
wait $!
configure
initrd
timed 'disk' disk
server
