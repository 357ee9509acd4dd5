package tree

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/moby/locker"
	"golang.org/x/sys/unix"
)

var (
	// ErrSymlink reports a symbolic link on a path, or where a directory or
	// file was expected.
	ErrSymlink = errors.New("a symbolic link is in the way")
	// ErrCrosses reports a component on which another file system is mounted.
	ErrCrosses = errors.New("another file system is mounted there")
)

// Dir is an open directory.
type Dir struct {
	fd      int
	path    string         // as in error messages
	readers *locker.Locker // of files, shared with every Dir that was opened from this one
}

// Open opens a directory by its path on the host, which is trusted: links in
// it are followed.
func Open(hostPath string) (*Dir, error) {
	fd, err := unix.Open(hostPath, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: hostPath, Err: err}
	}
	return FromFD(fd, hostPath), nil
}

// FromFD makes a Dir of a directory's descriptor and takes it over. The name is
// for error messages.
func FromFD(fd int, name string) *Dir { return &Dir{fd: fd, path: name, readers: locker.New()} }

// FD returns the descriptor, which stays the Dir's.
func (d *Dir) FD() int { return d.fd }

// Close closes the directory. What was opened from it stays open.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// Identity is what makes two descriptors the same directory.
type Identity struct {
	Device, Inode uint64
	// Handle is the file system's own name of the directory, where it tells one
	// (name_to_handle_at(2)): a server may give a new directory the inode number of
	// one that was deleted.
	Handle string
}

// Identity returns the directory's identity as the kernel knows it, without
// asking a server.
func (d *Dir) Identity() (Identity, error) {
	return identityAt(d.fd, "", d.path, unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC)
}

// IdentityOf returns the identity of what lies at a path on the host, as the
// kernel knows it, without asking a server: it does not block on a dead mount.
func IdentityOf(hostPath string) (Identity, error) {
	return identityAt(unix.AT_FDCWD, hostPath, hostPath, unix.AT_STATX_DONT_SYNC|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT)
}

func identityAt(fd int, name, shown string, flags int) (Identity, error) {
	var stat unix.Statx_t
	if err := unix.Statx(fd, name, flags, unix.STATX_INO, &stat); err != nil {
		return Identity{}, &fs.PathError{Op: "statx", Path: shown, Err: err}
	}
	id := Identity{Device: unix.Mkdev(stat.Dev_major, stat.Dev_minor), Inode: stat.Ino}
	if handle, _, err := unix.NameToHandleAt(fd, name, flags&unix.AT_EMPTY_PATH); err == nil {
		id.Handle = string(handle.Bytes())
	}
	return id, nil
}

// Stamp tells whether a directory's list of names may have changed.
type Stamp struct{ Seconds, Nanoseconds int64 }

// Refresh fetches the directory's attributes from the server, so that the
// kernel looks names up again if another host has changed any, and returns the
// time of the last change.
func (d *Dir) Refresh() (Stamp, error) {
	var stat unix.Statx_t
	err := retry(func() error {
		return unix.Statx(d.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_MTIME|unix.STATX_CTIME, &stat)
	})
	if err != nil {
		return Stamp{}, &fs.PathError{Op: "refresh", Path: d.path, Err: err}
	}
	return stampOf(stat.Mtime), nil
}

// Owner is who owns a directory, and its permission bits.
type Owner struct {
	UID, GID uint32
	// Mode has the bits of chmod(2), set-group-id and sticky included.
	Mode uint32
}

// Owner returns the directory's owner and permission bits.
func (d *Dir) Owner() (Owner, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(d.fd, &stat); err != nil {
		return Owner{}, &fs.PathError{Op: "stat", Path: d.path, Err: err}
	}
	return Owner{UID: stat.Uid, GID: stat.Gid, Mode: stat.Mode & 0o7777}, nil
}

// beneath is how every name is resolved. Without O_PATH a directory that only
// its owner may read could not be opened by a squashed root.
func (d *Dir) openAt(name string, flags int, mode uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Mode:    mode,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	var (
		fd  int
		err error
	)
	// What is moved out of d while it is being opened looks like a mount
	// (complete_walk, fs/namei.c). A mount is still there the next time.
	for range 4 {
		err = retry(func() (err error) {
			fd, err = unix.Openat2(d.fd, name, &how)
			return err
		})
		if !errors.Is(err, unix.EXDEV) {
			break
		}
	}
	if err != nil {
		return -1, d.fail("open", name, err)
	}
	return fd, nil
}

// single refuses what is not one plain name. Calls other than openat2(2) would
// climb with it, follow links, or, if it begins with a slash, leave d altogether.
func (d *Dir) single(op, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return &fs.PathError{Op: op, Path: d.path + ": " + name, Err: syscall.EINVAL}
	}
	return nil
}

func (d *Dir) fail(op, name string, err error) error {
	switch {
	case errors.Is(err, unix.ELOOP):
		err = ErrSymlink
	case errors.Is(err, unix.EXDEV):
		err = ErrCrosses
	}
	return &fs.PathError{Op: op, Path: path.Join(d.path, name), Err: err}
}

// retry repeats a system call that a signal interrupted, or whose path lookup
// lost a race with a rename (openat2(2), EAGAIN), a bounded number of times.
func retry(call func() error) error {
	var err error
	for range 64 {
		if err = call(); !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	return err
}

// components splits a path beneath a directory; slashes at its ends do not
// count.
func components(p string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(p, "/") {
		switch name {
		case "":
		case ".", "..":
			return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.EINVAL}
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

// Open opens the directory at a path beneath d; an empty path or "/" is d
// itself. The caller closes the result.
func (d *Dir) Open(p string) (*Dir, error) {
	dir, _, err := d.walk(p, func(parent *Dir, name string) (*Dir, bool, error) {
		dir, err := parent.child(name)
		return dir, false, err
	})
	return dir, err
}

// Make opens the directory at a path beneath d and makes what is missing of
// it. It tells whether the last component was made. The mode is that of all
// directories made, whatever the process's umask. The caller closes the result.
func (d *Dir) Make(p string, mode uint32) (dir *Dir, made bool, err error) {
	return d.walk(p, func(parent *Dir, name string) (*Dir, bool, error) {
		return parent.makeChild(name, mode)
	})
}

func (d *Dir) walk(p string, step func(*Dir, string) (*Dir, bool, error)) (dir *Dir, made bool, err error) {
	names, err := components(p)
	if err != nil {
		return nil, false, err
	}
	fd, err := d.openAt(".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, false, err
	}
	at := &Dir{fd: fd, path: d.path, readers: d.readers}
	for _, name := range names {
		next, newly, err := step(at, name)
		_ = at.Close()
		if err != nil {
			return nil, false, err
		}
		at, made = next, newly
	}
	return at, made, nil
}

func (d *Dir) child(name string) (*Dir, error) {
	if _, err := d.Refresh(); err != nil {
		return nil, err
	}
	fd, err := d.openAt(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) && d.isSymlink(name) {
		err = d.fail("open", name, unix.ELOOP)
	}
	if err != nil {
		return nil, err
	}
	return &Dir{fd: fd, path: path.Join(d.path, name), readers: d.readers}, nil
}

// isSymlink explains ENOTDIR: with O_PATH and O_NOFOLLOW a link is opened as
// itself and then found not to be a directory.
func (d *Dir) isSymlink(name string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(d.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFLNK
}

func (d *Dir) makeChild(name string, mode uint32) (*Dir, bool, error) {
	dir, err := d.child(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return dir, false, err
	}
	if err := unix.Mkdirat(d.fd, name, mode&0o777); errors.Is(err, fs.ErrExist) {
		dir, err := d.child(name) // another host was first
		return dir, false, err
	} else if err != nil {
		return nil, false, d.fail("mkdir", name, err)
	}
	if dir, err = d.child(name); err != nil {
		return nil, false, err
	}
	if err := dir.SetMode(mode); err != nil {
		_ = dir.Close()
		_ = unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
		return nil, false, err
	}
	return dir, true, nil
}

// SetMode sets the permission bits.
func (d *Dir) SetMode(mode uint32) error {
	return d.reopened(func(fd int) error {
		if err := unix.Fchmod(fd, mode&0o7777); err != nil {
			return &fs.PathError{Op: "chmod", Path: d.path, Err: err}
		}
		return nil
	})
}

// reopened calls f with a descriptor that can be read and changed: d's own may
// be one that only names the directory (O_PATH).
func (d *Dir) reopened(f func(fd int) error) error {
	fd, err := d.openAt(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd)
}

// SetOwner sets user and group.
func (d *Dir) SetOwner(uid, gid uint32) error {
	if err := unix.Fchownat(d.fd, "", int(uid), int(gid), unix.AT_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "chown", Path: d.path, Err: err}
	}
	return nil
}

// Exists tells whether there is anything by that name, following nothing.
func (d *Dir) Exists(name string) (bool, error) {
	if err := d.single("stat", name); err != nil {
		return false, err
	}
	if _, err := d.Refresh(); err != nil {
		return false, err
	}
	var stat unix.Stat_t
	err := unix.Fstatat(d.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, d.fail("stat", name, err)
	}
	return true, nil
}

// Names reads the directory's names, without "." and "..", in no order.
func (d *Dir) Names() ([]string, error) {
	fd, err := d.openAt(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), d.path)
	defer file.Close()
	return file.Readdirnames(-1)
}
