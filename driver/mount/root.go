package mount

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// ErrClosed reports the use of a root that was closed.
var ErrClosed = errors.New("the root mount is closed")

// Mount describes one root mount.
type Mount struct {
	// Type is "nfs4", or "bind" for a local directory.
	Type string
	// Source is "server:/export", or the directory of a bind.
	Source string
	// Options are given to the file system one by one, as key or key=value.
	Options []string
	// Host is the NFS client's identity, at most 64 bytes: stable, and unique
	// among transports and hosts. Two clients of one server with one identity
	// take each other's state away.
	Host string
	// ReadAheadKiB is set on the mount's backing device if not 0.
	ReadAheadKiB int
}

// Root is a mounted file system. Make one with [Open].
type Root struct {
	mount Mount
	calls chan func()
	done  chan struct{}

	// set before done is closed
	err     error
	warning error
	dir     *tree.Dir
	table   *os.File
	stats   *os.File

	closing  sync.Once
	closed   chan struct{}
	finished chan struct{}
}

// Open begins to mount in the background. [Root.Done] tells when that has ended
// and [Root.Err] how. The caller closes the root in either case.
func Open(m Mount) *Root {
	r := &Root{
		mount: m, calls: make(chan func()), done: make(chan struct{}),
		closed: make(chan struct{}), finished: make(chan struct{}),
	}
	go r.runThread()
	return r
}

// Done is closed when the mount is there or has failed.
func (r *Root) Done() <-chan struct{} { return r.done }

// Err is nil if the root is mounted; valid after Done.
func (r *Root) Err() error { return r.err }

// Warning is what did not work although the root is mounted, nil if all did: read-ahead
// that could not be set costs speed, not data. Valid after Done.
func (r *Root) Warning() error { return r.warning }

// Dir is the root directory; valid after Done without error. It stays the
// root's and must not be used after Close.
func (r *Root) Dir() *tree.Dir { return r.dir }

// Close gives the root up. The unmount itself may talk to the server, so it
// goes on in the background; clones that were attached stay.
func (r *Root) Close() { r.closing.Do(func() { close(r.closed) }) }

// Finished is closed when a closed root's unmount is over.
func (r *Root) Finished() <-chan struct{} { return r.finished }

// runThread is the root's thread. It is never unlocked, so that the Go runtime
// ends the thread with the goroutine, and the kernel the namespaces with it.
func (r *Root) runThread() {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The process's first thread is what /proc/self shows, and it cannot
		// end: hold it while a goroutine on another one takes over.
		go r.runThread()
		<-r.done
		runtime.UnlockOSThread()
		return
	}
	defer close(r.finished)
	r.err = r.setUp()
	close(r.done)
	if r.err != nil {
		return
	}
	// Explicitly, and not by the end of the namespace, which nobody could wait for: with the
	// last mount of a server the kernel takes leave of it.
	defer func() { _ = unix.Unmount(rootDir, unix.MNT_DETACH) }()
	defer r.table.Close()
	defer r.stats.Close()
	defer r.dir.Close()
	for {
		select {
		case call := <-r.calls:
			call()
		case <-r.closed:
			return
		}
	}
}

func (r *Root) setUp() error {
	source := -1
	table, stats, err := enterNamespaces(r.mount.Host, func() (err error) {
		if r.mount.Type == "bind" {
			// The directory's path is out of sight in the new namespace.
			source, err = unix.OpenTree(unix.AT_FDCWD, r.mount.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		}
		return err
	})
	if err != nil {
		return err
	}
	if r.mount.Type != "bind" {
		source, err = newMount(r.mount)
	}
	if err == nil {
		r.dir, err = attachRoot(source)
	}
	if err != nil {
		table.Close()
		stats.Close()
		return fmt.Errorf("mount %s: %w", r.mount.Source, err)
	}
	r.table, r.stats = table, stats
	if r.mount.ReadAheadKiB != 0 {
		r.warning = setReadAhead(r.dir, r.mount.ReadAheadKiB)
	}
	return nil
}

// do runs f on the root's thread. f must not block on the server.
func (r *Root) do(f func() error) error {
	<-r.done
	if r.err != nil {
		return r.err
	}
	result := make(chan error, 1)
	select {
	case r.calls <- func() { result <- f() }:
		return <-result
	case <-r.closed:
		return ErrClosed // the thread may be waiting for the server to unmount
	}
}

// Flags are the per-mount flags of a clone.
type Flags struct{ ReadOnly bool }

// Attach clones the directory, which must lie on this root, onto target, an
// existing directory on the host. It does not talk to the server.
func (r *Root) Attach(dir *tree.Dir, target string, flags Flags) error {
	clone := -1
	err := r.do(func() (err error) {
		// Only a thread of the root's own mount namespace may clone it.
		clone, err = unix.OpenTree(dir.FD(), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return err
	})
	if err != nil {
		return fmt.Errorf("clone directory for %s: %w", target, err)
	}
	defer unix.Close(clone)
	if err := setFlags(clone, flags); err != nil {
		return fmt.Errorf("set flags of %s: %w", target, err)
	}
	if err := unix.MoveMount(clone, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach %s: %w", target, err)
	}
	return nil
}

// setFlags makes a clone "nodev" (what containers write must not become
// devices of the host) and read-only if asked.
func setFlags(clone int, flags Flags) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	if flags.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	err := unix.MountSetattr(clone, "", unix.AT_EMPTY_PATH, &attr)
	if errors.Is(err, unix.ENOSYS) {
		return errors.New("mount_setattr(2) is missing: Linux 5.12 or newer is needed")
	}
	return err
}

// Detach unmounts the uppermost mount at target and tells whether there was one.
// The mount leaves the table at once. Only if it was the last one of its superblock, the
// call then waits for the server.
func Detach(target string) (mounted bool, err error) {
	err = unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return false, nil
	}
	return false, fmt.Errorf("unmount %s: %w", target, err)
}
