package sunrpc

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrNoShutdown reports a kernel that cannot end an NFS mount that is in use: older than Linux
// 6.5, or without that mount.
var ErrNoShutdown = errors.New("the kernel cannot shut an NFS mount down (Linux 6.5 or newer)")

const (
	nfsMounts    = "fs/nfs"
	shutdownFile = "shutdown"
	// clientLink goes from a mount to its RPC client, switchLink from that to its transports' switch
	// (nfs_sysfs_link_rpc_client in fs/nfs/sysfs.c, rpc_sysfs_client_setup in net/sunrpc/sysfs.c).
	clientLink = "nfs_client"
	switchLink = "switch"
)

// Shutdown ends an NFS mount, by the number of its device (st_dev): from now on every use of it fails with
// EIO, and so does what is waiting for the server (shutdown_store, fs/nfs/sysfs.c). It cannot
// be undone.
func (t *Table) Shutdown(device uint64) error {
	return t.shutdown(fmt.Sprintf("%d:%d", unix.Major(device), unix.Minor(device)))
}

// ShutdownConnected does that to all mounts whose NFS client is connected to a server, wherever they are mounted.
func (t *Table) ShutdownConnected(server netip.AddrPort) error {
	mounts, err := t.names(nfsMounts)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoShutdown
	}
	for _, name := range mounts {
		connected, why := t.isConnected(name, server)
		if connected {
			why = t.shutdown(name)
		}
		err = errors.Join(err, why)
	}
	return err
}

// isConnected tells whether a mount's NFS client has a connection to a server. What has ended has none, and
// what is no mount.
func (t *Table) isConnected(mount string, server netip.AddrPort) (bool, error) {
	link, err := t.sys.Readlink(path.Join(nfsMounts, mount, clientLink, switchLink))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	transports, err := t.transportsOf(path.Base(link))
	return slices.ContainsFunc(transports, func(one Transport) bool {
		return one.Connected && one.Server == server.Addr() && one.ServerPort == server.Port()
	}), err
}

func (t *Table) shutdown(mount string) error {
	file, err := t.sys.OpenFile(path.Join(nfsMounts, mount, shutdownFile), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoShutdown
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString("1")
	return errors.Join(err, file.Close())
}
