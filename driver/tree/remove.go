package tree

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// maxDepth bounds the descriptors that a removal holds, one for each level:
	// containers can make trees deeper than a process may have open files.
	maxDepth = 64
	// namesAtOnce bounds the memory that a directory's names take.
	namesAtOnce = 4096
)

// removal is one RemoveTree under way.
type removal struct {
	top  *Dir
	more func() error
}

// RemoveTree removes what lies at a name, with all beneath it: links are
// removed and not followed, another file system on the way is an error. What
// lies very deep is moved up into d under a name of its own and has to be
// removed by another call. more is asked before each file; an error of it stops the
// work.
func (d *Dir) RemoveTree(name string, more func() error) error {
	if err := d.single("remove", name); err != nil {
		return err
	}
	return removal{top: d, more: more}.remove(d, name, 0)
}

func (r removal) remove(d *Dir, name string, depth int) error {
	if err := r.more(); err != nil {
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
	if depth == maxDepth {
		return d.Rename(name, r.top, "deep-"+rand.Text())
	}
	dir, err := d.child(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := r.empty(dir, depth+1); err != nil {
		return err
	}
	return d.RemoveEmpty(name)
}

// empty removes a directory's content, some names at a time, until there is
// none.
func (r removal) empty(d *Dir, depth int) error {
	for {
		names, err := d.firstNames(namesAtOnce)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if err := r.remove(d, name, depth); err != nil {
				return err
			}
		}
	}
}

func (d *Dir) firstNames(count int) ([]string, error) {
	fd, err := d.openAt(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), d.path)
	defer file.Close()
	names, err := file.Readdirnames(count)
	if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return names, err
}
