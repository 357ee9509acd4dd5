package tree

import (
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxFile bounds what ReadFile takes into memory: what lies on the file system
// may have been made to be huge.
const maxFile = 1 << 20

// ErrTooLarge reports a file beyond what its reader takes.
var ErrTooLarge = errors.New("the file is too large")

// ReadFile reads a regular file of the directory, at most 1 MiB.
func (d *Dir) ReadFile(name string) ([]byte, error) {
	// O_NONBLOCK: a named pipe must not hold the caller.
	fd, err := d.openAt(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, d.fail("read", name, errors.New("it is not a regular file"))
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, d.fail("read", name, err)
	}
	if len(data) > maxFile {
		return nil, d.fail("read", name, ErrTooLarge)
	}
	return data, nil
}

// WriteNew makes a file that must not exist yet, writes it and has it on disk
// (fsync) when it returns. A file that could not be written whole is removed.
func (d *Dir) WriteNew(name string, data []byte, mode uint32) error {
	fd, err := d.openAt(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, uint64(mode&0o777))
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
	if err := unix.Linkat(d.fd, name, to.fd, newName, 0); err != nil {
		return to.fail("link", newName, err)
	}
	return nil
}

// Rename moves a file or directory to a name in directory to, replacing a file
// or an empty directory of that name.
func (d *Dir) Rename(name string, to *Dir, newName string) error {
	if err := unix.Renameat(d.fd, name, to.fd, newName); err != nil {
		return d.fail("rename", name, err)
	}
	return nil
}

// Unlink removes a file; one that is not there is no error.
func (d *Dir) Unlink(name string) error {
	if err := unix.Unlinkat(d.fd, name, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.fail("unlink", name, err)
	}
	return nil
}

// RemoveEmpty removes an empty directory; one that is not there is no error.
func (d *Dir) RemoveEmpty(name string) error {
	if err := unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.fail("rmdir", name, err)
	}
	return nil
}

// RemoveTree removes what lies at a name, with all beneath it: links are
// removed and not followed, another file system on the way is an error. more is
// asked before each directory; an error of it stops the work.
func (d *Dir) RemoveTree(name string, more func() error) error {
	if err := more(); err != nil {
		return err
	}
	err := unix.Unlinkat(d.fd, name, 0)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Linux answers EISDIR to unlink(2) of a directory, POSIX EPERM.
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return d.fail("unlink", name, err)
	}
	dir, err := d.child(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.empty(more); err != nil {
		return err
	}
	return d.RemoveEmpty(name)
}

func (d *Dir) empty(more func() error) error {
	names, err := d.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := d.RemoveTree(name, more); err != nil {
			return err
		}
	}
	return nil
}
