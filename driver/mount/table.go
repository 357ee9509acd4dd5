package mount

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Under returns the mountpoints that are direct children of a directory, each
// once, as the process's own namespace has them. It does not touch the mounts
// themselves: a dead one does not block it.
func Under(dir string) (map[string]bool, error) {
	infos, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return filepath.Dir(info.Mountpoint) != dir, false
	})
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	mounted := make(map[string]bool, len(infos))
	for _, info := range infos {
		mounted[filepath.Base(info.Mountpoint)] = true
	}
	return mounted, nil
}

// Server returns the address that the kernel really uses for this root: it may
// join a mount to a connection that it already has to the same server, whatever
// address was asked. A bind of a local directory has none.
func (r *Root) Server() (netip.AddrPort, error) {
	var table []byte
	err := r.do(func() (err error) {
		table, err = io.ReadAll(io.NewSectionReader(r.table, 0, 1<<20))
		return err
	})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read mount table: %w", err)
	}
	return serverIn(table)
}

// ServerAt returns the address of the server of the mount that a directory has, by the number of its device
// (st_dev): there may be others below it. It reads this process's own namespace and does not touch the
// mount. The address is zero if there is no such mount, or it is no NFS.
func ServerAt(target string, device uint64) (netip.AddrPort, error) {
	infos, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		found := info.Mountpoint == target && unix.Mkdev(uint32(info.Major), uint32(info.Minor)) == device
		return !found, found
	})
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read mount table: %w", err)
	}
	return serverOfOne(infos)
}

func serverIn(table []byte) (netip.AddrPort, error) {
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(table), mountinfo.SingleEntryFilter(rootDir))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read mount table: %w", err)
	}
	if len(infos) == 0 {
		return netip.AddrPort{}, errors.New("the root mount is not in the mount table")
	}
	return serverOfOne(infos)
}

// serverOfOne reads the only entry; there may be none.
func serverOfOne(infos []*mountinfo.Info) (netip.AddrPort, error) {
	if len(infos) == 0 {
		return netip.AddrPort{}, nil
	}
	if !strings.HasPrefix(infos[0].FSType, "nfs") {
		return netip.AddrPort{}, nil
	}
	return serverOf(infos[0].VFSOptions)
}

// serverOf reads "addr=" and "port=" of an NFS mount's options as the kernel
// shows them (nfs_show_mount_options in fs/nfs/super.c); it leaves the standard
// port out.
func serverOf(options string) (netip.AddrPort, error) {
	var addr netip.Addr
	port := uint64(2049)
	var err error
	for option := range strings.SplitSeq(options, ",") {
		switch key, value, _ := strings.Cut(option, "="); key {
		case "addr":
			if addr, err = netip.ParseAddr(value); err != nil {
				return netip.AddrPort{}, fmt.Errorf("mount table: %w", err)
			}
		case "port":
			if port, err = strconv.ParseUint(value, 10, 16); err != nil {
				return netip.AddrPort{}, fmt.Errorf("mount table: port: %w", err)
			}
		}
	}
	if !addr.IsValid() {
		return netip.AddrPort{}, errors.New("mount table: an NFS mount without addr=")
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}
