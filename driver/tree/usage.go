package tree

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of statx(2)'s stx_blocks.
const blockSize = 512

// Usage is what a tree takes of its file system.
type Usage struct {
	Bytes uint64 `json:"bytes"`
	// Files are all but directories; one with several names counts once.
	Files uint64 `json:"files"`
	// Skipped are directories that were not looked into: too deep, on another file system, or
	// not readable.
	Skipped uint64 `json:"skipped,omitempty"`
}

// usage is one walk.
type usage struct {
	Usage
	report func(Usage) error
	linked map[uint64]bool // inodes of files with several names
}

// Usage adds up what lies in the directory and beneath it. Links are not followed. What changes
// meanwhile is counted as it is met. report hears the sum so far after each directory; an
// error of it stops the walk.
func (d *Dir) Usage(report func(Usage) error) (Usage, error) {
	u := &usage{report: report, linked: map[uint64]bool{}}
	err := u.walk(d, 0)
	return u.Usage, err
}

func (u *usage) walk(d *Dir, depth int) error {
	names, err := d.Names()
	if err != nil {
		return u.skip(err)
	}
	for _, name := range names {
		isDir, err := u.count(d, name)
		if err != nil {
			return err
		}
		if !isDir {
			continue
		}
		if depth == maxDepth {
			u.Skipped++
			continue
		}
		if err := u.descend(d, name, depth+1); err != nil {
			return err
		}
	}
	return u.report(u.Usage)
}

func (u *usage) descend(d *Dir, name string, depth int) error {
	child, err := d.child(name)
	if err != nil {
		return u.skip(err)
	}
	defer child.Close()
	return u.walk(child, depth)
}

// count adds one name and tells whether it is a directory's.
func (u *usage) count(d *Dir, name string) (isDir bool, err error) {
	var stat unix.Statx_t
	const mask = unix.STATX_TYPE | unix.STATX_NLINK | unix.STATX_INO | unix.STATX_BLOCKS
	err = retry(func() error { return unix.Statx(d.fd, name, unix.AT_SYMLINK_NOFOLLOW, mask, &stat) })
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // gone since
	}
	if err != nil {
		return false, d.fail("stat", name, err)
	}
	if isDir = stat.Mode&unix.S_IFMT == unix.S_IFDIR; !isDir {
		if stat.Nlink > 1 {
			if u.linked[stat.Ino] {
				return false, nil
			}
			u.linked[stat.Ino] = true
		}
		u.Files++
	}
	u.Bytes += stat.Blocks * blockSize
	return isDir, nil
}

// skip leaves out what cannot be looked into; other errors stop the walk.
func (u *usage) skip(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, ErrSymlink):
		return nil // replaced since
	case errors.Is(err, fs.ErrPermission), errors.Is(err, ErrCrosses):
		u.Skipped++
		return nil
	}
	return err
}
