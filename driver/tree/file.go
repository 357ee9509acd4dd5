package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxFile bounds what ReadFile takes into memory: what lies on the file system
// may have been made to be huge.
const maxFile = 1 << 20

var (
	// ErrTooLarge reports a file beyond what its reader takes.
	ErrTooLarge = errors.New("the file is too large")
	// ErrNotRegular reports a directory, pipe or device where a file was expected.
	ErrNotRegular = errors.New("it is not a regular file")
)

// FileStamp tells one file of a name from another that has replaced it, and
// from itself after a change.
type FileStamp struct {
	Inode    uint64
	Links    uint32
	Size     uint64
	Modified Stamp
	Changed  Stamp // of the file's attributes, its names among them
}

const stampMask = unix.STATX_INO | unix.STATX_NLINK | unix.STATX_SIZE | unix.STATX_MTIME | unix.STATX_CTIME

// FileStamp returns the stamp of the file that has the name. The server is asked
// once, about the file and not about its directory: a file that was replaced or removed there
// has lost its name, which shows as a stale handle or in the number of its links, and
// one that was given another name shows another time of change.
func (d *Dir) FileStamp(name string) (FileStamp, error) {
	if err := d.single("stat", name); err != nil {
		return FileStamp{}, err
	}
	return fileStamp(d.fd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_FORCE_SYNC)
}

func fileStamp(fd int, name string, flags int) (FileStamp, error) {
	var stat unix.Statx_t
	if err := retry(func() error { return unix.Statx(fd, name, flags, stampMask, &stat) }); err != nil {
		return FileStamp{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return FileStamp{
		Inode: stat.Ino, Links: stat.Nlink, Size: stat.Size,
		Modified: stampOf(stat.Mtime), Changed: stampOf(stat.Ctime),
	}, nil
}

func stampOf(t unix.StatxTimestamp) Stamp { return Stamp{Seconds: t.Sec, Nanoseconds: int64(t.Nsec)} }

// ReadFile reads a regular file of the directory, at most 1 MiB.
func (d *Dir) ReadFile(name string) ([]byte, error) {
	data, _, err := d.ReadStamped(name)
	return data, err
}

// ReadStamped reads a file as ReadFile does and returns the stamp of what it read.
func (d *Dir) ReadStamped(name string) ([]byte, FileStamp, error) {
	closed, err := d.readAlone(name)
	if err != nil {
		return nil, FileStamp{}, err
	}
	defer closed()
	// O_NONBLOCK: a named pipe must not hold the caller.
	fd, err := d.openAt(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) { // a socket
		err = d.fail("read", name, ErrNotRegular)
	}
	if err != nil {
		return nil, FileStamp{}, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, FileStamp{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, FileStamp{}, d.fail("read", name, ErrNotRegular)
	}
	stamp, err := fileStamp(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC)
	if err != nil {
		return nil, FileStamp{}, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, FileStamp{}, d.fail("read", name, err)
	}
	if len(data) > maxFile {
		return nil, FileStamp{}, d.fail("read", name, ErrTooLarge)
	}
	return data, stamp, nil
}

// readAlone waits until nobody who opened from the same root as d has the directory's file of that name open for
// reading. The caller closes what it opens before it calls closed.
//
// A server may answer an OPEN that overtakes the CLOSE of the same file with a state that the CLOSE has
// ended (nfs-ganesha's issue 1395). The kernel then waits for the states that it takes to be missing,
// 5 seconds for each (nfs_set_open_stateid_locked, fs/nfs/nfs4proc.c), and starves for as long as others go on:
// one of 16,000 reads of a file by four threads took 43 seconds.
func (d *Dir) readAlone(name string) (closed func(), err error) {
	id, err := d.Identity()
	if err != nil {
		return nil, err
	}
	key := fmt.Sprintf("%d/%d/%s", id.Device, id.Inode, name)
	d.readers.Lock(key)
	return func() { _ = d.readers.Unlock(key) }, nil // it fails for what is not locked alone
}

// WriteNew makes a file that must not exist yet, writes it and has it on disk
// (fsync) when it returns. A file that could not be written whole is removed.
func (d *Dir) WriteNew(name string, data []byte, mode uint32) error {
	return d.write(name, unix.O_EXCL, data, mode)
}

// WriteTemporary is WriteNew under a name that nobody else can have chosen. It does
// not ask for an exclusive create: while one is under way, a server may show any time
// for the file (it keeps the create's verifier there, RFC 8881 section 18.16.3), and
// another host that sweeps old files would take it.
func (d *Dir) WriteTemporary(name string, data []byte, mode uint32) error {
	return d.write(name, unix.O_TRUNC, data, mode)
}

func (d *Dir) write(name string, how int, data []byte, mode uint32) error {
	fd, err := d.openAt(name, unix.O_WRONLY|unix.O_CREAT|how, uint64(mode&0o777))
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	// NFS reports a full file system at close at the latest.
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		_ = d.Unlink(name)
		return d.fail("write", name, err)
	}
	return nil
}

// Link gives the file another name in directory to. It fails with
// [fs.ErrExist] if that name is taken: of several hosts one wins.
func (d *Dir) Link(name string, to *Dir, newName string) error {
	if err := errors.Join(d.single("link", name), to.single("link", newName)); err != nil {
		return err
	}
	if err := unix.Linkat(d.fd, name, to.fd, newName, 0); err != nil {
		return to.fail("link", newName, err)
	}
	return nil
}

// Rename moves a file or directory to a name in directory to, replacing a file
// or an empty directory of that name.
func (d *Dir) Rename(name string, to *Dir, newName string) error {
	if err := errors.Join(d.single("rename", name), to.single("rename", newName)); err != nil {
		return err
	}
	if err := unix.Renameat(d.fd, name, to.fd, newName); err != nil {
		return d.fail("rename", name, err)
	}
	return nil
}

// Unlink removes a file; one that is not there is no error.
func (d *Dir) Unlink(name string) error {
	if err := d.single("unlink", name); err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd, name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.fail("unlink", name, err)
	}
	return nil
}

// RemoveEmpty removes an empty directory; one that is not there is no error.
func (d *Dir) RemoveEmpty(name string) error {
	if err := d.single("rmdir", name); err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.fail("rmdir", name, err)
	}
	return nil
}

// Touch has the file system record a time of change for a file, by its own clock. Its directory
// shows no change.
func (d *Dir) Touch(name string) error {
	if err := d.single("touch", name); err != nil {
		return err
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(d.fd, name, now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d.fail("touch", name, err)
	}
	return nil
}

// TouchSelf has the file system record a change of the directory itself.
func (d *Dir) TouchSelf() error {
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(d.fd, ".", now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "touch", Path: d.path, Err: err}
	}
	return nil
}

// SyncAll has all that was written to the directory's file system on disk (syncfs(2)): on NFS,
// with the server.
func (d *Dir) SyncAll() error {
	return d.reopened(func(fd int) error {
		if err := unix.Syncfs(fd); err != nil {
			return &fs.PathError{Op: "syncfs", Path: d.path, Err: err}
		}
		return nil
	})
}

// Sync has the directory's names on disk (fsync). On NFS the server has seen to
// that already, and it costs nothing.
func (d *Dir) Sync() error {
	return d.reopened(func(fd int) error {
		if err := unix.Fsync(fd); err != nil {
			return &fs.PathError{Op: "sync", Path: d.path, Err: err}
		}
		return nil
	})
}
