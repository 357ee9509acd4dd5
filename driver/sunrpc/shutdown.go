package sunrpc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// ErrNoShutdown reports a kernel that cannot end an NFS mount that is in use: older than Linux
// 6.5, or without that mount.
var ErrNoShutdown = errors.New("the kernel cannot shut an NFS mount down (Linux 6.5 or newer)")

const (
	nfsMounts    = "fs/nfs"
	shutdownFile = "shutdown"
)

// Shutdown ends an NFS mount, by the number of its device (st_dev): from now on every use of it fails with
// EIO, and so does what is waiting for the server (shutdown_store, fs/nfs/sysfs.c). It cannot
// be undone.
func (t *Table) Shutdown(device uint64) error {
	name := fmt.Sprintf("%d:%d", unix.Major(device), unix.Minor(device))
	file, err := t.sys.OpenFile(path.Join(nfsMounts, name, shutdownFile), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNoShutdown
	}
	if err != nil {
		return err
	}
	_, err = file.WriteString("1")
	return errors.Join(err, file.Close())
}
