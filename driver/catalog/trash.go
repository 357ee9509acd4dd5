package catalog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// staleAfter is how old a file in tmp/ is, by the server's clock, when it counts as left by a
// crash, no call takes a minute; and how late a host may be at a removal that has its verdict.
const staleAfter = 24 * time.Hour

// staleAttempts bounds the deletion of an entry beside another host's: each attempt goes on until both meet
// in one directory. A catalogue that was replaced is stale for good.
const staleAttempts = 100

// trashTime is how a trash entry's name begins.
const trashTime = "20060102T150405Z"

// NewTrashEntry returns a fresh name for a trash entry, which sorts by time.
func NewTrashEntry(name string, now time.Time, random string) string {
	return now.UTC().Format(trashTime) + "-" + random + trashSuffix(name)
}

// trashSuffix is how the trash entries of a volume end.
func trashSuffix(name string) string {
	// A volume's name may fill its 200 bytes; the entry keeps to the same rule.
	if len(name) > 160 {
		name = name[:160]
	}
	return "-" + name
}

// IsTrashOf tells whether a trash entry may be that of a volume, without reading its record.
func IsTrashOf(entry, name string) bool { return strings.HasSuffix(entry, trashSuffix(name)) }

// DirectoryOf asks the server for the inode of the volume's directory, 0 if there is none.
func (c *Catalog) DirectoryOf(record Record) (uint64, error) {
	parent, err := c.root.Open(path.Dir(record.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer parent.Close()
	if _, err := parent.Refresh(); err != nil { // another host may just have moved it
		return 0, err
	}
	dir, err := parent.Open(path.Base(record.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	id, err := dir.Identity()
	return id.Inode, err
}

// ErrMadeAnew reports that another directory than the one to be removed is at a volume's path, and
// that nobody has moved the one that was meant: another host made the volume, for the first time or
// anew, and its record was there when that of the removal was written over it.
var ErrMadeAnew = errors.New("another host has made it meanwhile")

// MoveToTrash moves a volume's directory, with a copy of its record, into the
// trash entry that the record names. It may be repeated: what has been done stays
// done. Only the directory with the record's inode is moved: if another host has
// finished this removal and made a new volume at the path, that one stays; it fails with
// [ErrMadeAnew] if this removal has moved none. The move is
// made from the parent's descriptor and nothing is followed.
func (c *Catalog) MoveToTrash(record Record) error {
	now, err := c.DirectoryOf(record)
	if err != nil || now == 0 {
		return err
	}
	if now != record.Directory {
		moved, err := c.hasMoved(record.Trash)
		if err == nil && !moved {
			err = ErrMadeAnew
		}
		return err
	}
	entry, _, err := c.dirs[trashDir].Make(record.Trash, dirMode)
	if err != nil {
		return fmt.Errorf("make trash entry: %w", err)
	}
	defer entry.Close()
	data, err := record.encode()
	if err != nil {
		return err
	}
	// By a rename: a crash must not leave half a record to the repetition.
	err = c.place(data, func(tmp *tree.Dir, name string) error { return tmp.Rename(name, entry, recordFile) })
	if err != nil {
		return fmt.Errorf("write trash entry: %w", err)
	}
	parent, err := c.root.Open(path.Dir(record.Path))
	if err != nil {
		return err
	}
	defer parent.Close()
	// Again: the entry took a while to make.
	if now, err := c.DirectoryOf(record); err != nil || now != record.Directory {
		return err
	}
	name := path.Base(record.Path)
	if err := parent.Rename(name, entry, dataDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	wrong, err := undoWrongMove(entry, parent, name, record.Directory)
	if wrong != 0 && err == nil {
		err = c.takeBackAbandoned(record, wrong)
	}
	return errors.Join(err, parent.Sync(), entry.Sync())
}

// hasMoved tells whether a removal has moved a directory to its trash entry, be it that the entry is
// about to be deleted.
func (c *Catalog) hasMoved(entry string) (bool, error) {
	condemned, err := c.dirs[deletingDir].Exists(entry)
	if err != nil || condemned {
		return condemned, err
	}
	dir, err := c.dirs[trashDir].Open(entry)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	return dir.Exists(dataDir)
}

// undoWrongMove puts a directory back that took the place of the one to be moved
// between the look at it and the move, and returns its inode.
func undoWrongMove(entry, parent *tree.Dir, name string, inode uint64) (wrong uint64, err error) {
	moved, err := entry.Open(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer moved.Close()
	id, err := moved.Identity()
	if err != nil || id.Inode == inode {
		return 0, err
	}
	err = entry.Rename(dataDir, parent, name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // another host, at work on the same removal, was faster
	}
	return id.Inode, err
}

// takeBackAbandoned removes a directory, which was away for a moment, if its volume was given up for that.
func (c *Catalog) takeBackAbandoned(record Record, directory uint64) error {
	current, err := c.Lookup(record.Name)
	if err == nil && current.State != Removing || err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	err = c.TakeBack(record, directory)
	if errors.Is(err, syscall.ENOTEMPTY) {
		return nil // it is used, and so not abandoned
	}
	return err
}

// Condemn marks a trash entry to be deleted by [Catalog.DeleteCondemned]. It may
// be repeated.
func (c *Catalog) Condemn(entry string) error {
	err := c.dirs[trashDir].Rename(entry, c.dirs[deletingDir], entry)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, fs.ErrExist):
		// It was condemned before a crash, and the repetition has made an entry
		// without data.
		return c.dropEmptyEntry(entry)
	}
	return err
}

// CondemnOlder condemns an entry if it came into the trash at least that long ago by the server's clock, whatever the
// hosts' clocks say. It tells whether it did.
func (c *Catalog) CondemnOlder(entry string, age time.Duration) (bool, error) {
	// The time of modification is that of the last move into the entry. The time of change of attributes is younger if
	// anything was done to the directory itself, and nobody can set it who brings an entry back from a backup.
	stamp, err := c.dirs[trashDir].FileStamp(entry)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	now, err := c.now()
	if err != nil || now.Sub(timeOf(stamp.Modified)) < age {
		return false, err
	}
	return true, c.Condemn(entry)
}

// dropEmptyEntry removes an entry without data; one that is not there, because another host has
// condemned it, is no error.
func (c *Catalog) dropEmptyEntry(name string) error {
	entry, err := c.dirs[trashDir].Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer entry.Close()
	there, err := entry.Exists(dataDir)
	if err == nil && there {
		err = fmt.Errorf("trash entry %s: %w", name, syscall.ENOTEMPTY)
	}
	if err != nil {
		return err
	}
	if err := entry.Unlink(recordFile); err != nil {
		return err
	}
	return c.dirs[trashDir].RemoveEmpty(name)
}

// DeleteCondemned deletes what is condemned, on this host or another, also what
// an earlier run left. One entry that cannot be deleted
// does not keep the others. more is asked before each file; an error of it stops.
func (c *Catalog) DeleteCondemned(more func() error) error {
	var failed error
	for done := map[string]bool{}; ; {
		names, err := c.dirs[deletingDir].Names()
		if err != nil {
			return err
		}
		progress := false
		for _, name := range names {
			if done[name] {
				continue
			}
			done[name], progress = true, true
			if err := c.deleteEntry(name, more); err != nil {
				failed = err
			}
			if err := more(); err != nil {
				return err
			}
		}
		if !progress {
			return failed
		}
	}
}

// deleteEntry deletes a condemned entry, as another host may at the same time: what one of them has open
// is stale when the other has removed it (ESTALE, NFS), and is then looked up again.
func (c *Catalog) deleteEntry(name string, more func() error) error {
	for attempt := 0; ; attempt++ {
		err := c.takeData(name)
		if err == nil {
			err = c.dirs[deletingDir].RemoveTree(name, more)
		}
		if !errors.Is(err, syscall.ESTALE) || attempt == staleAttempts {
			return err
		}
	}
}

// takeData gives the data of a condemned entry another name before anything in it is deleted. A restoration on another
// host may have opened the entry while it was in the trash, and moves the data from where the entry is now: of the two
// renames one finds it, so that what has become a volume again is not deleted, and what is being deleted becomes none.
func (c *Catalog) takeData(name string) error {
	entry, err := c.dirs[deletingDir].Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, tree.ErrSymlink) {
		return nil // nobody's entry
	}
	if err != nil {
		return err
	}
	defer entry.Close()
	there, err := entry.Exists(dataDir) // asks the server
	if err != nil || !there {
		return err
	}
	err = entry.Rename(dataDir, entry, dataDir+"-"+rand.Text())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// discard removes what is in tmp/: a file, or a directory that was to become a lease's.
func discard(tmp *tree.Dir, name string) error {
	err := tmp.Unlink(name)
	if !errors.Is(err, syscall.EISDIR) {
		return err
	}
	dir, err := tmp.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Names()
	for _, inside := range names {
		err = errors.Join(err, dir.Unlink(inside))
	}
	return errors.Join(err, tmp.RemoveEmpty(name))
}

// Tidy removes what lies in tmp/ for longer than a day, which crashes left, and verdicts as old. A host that may not
// write leaves that to others. more is asked before each file; an error of it stops.
func (c *Catalog) Tidy(more func() error) error {
	now, err := c.now()
	if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(c.removeOld(tmpDir, now, more), c.removeOld(verdictsDir, now, more))
}

func (c *Catalog) removeOld(dir string, now time.Time, more func() error) error {
	names, err := c.dirs[dir].Names()
	if err != nil {
		return err
	}
	var failed error
	for _, name := range names {
		if err := more(); err != nil {
			return err
		}
		stamp, err := c.dirs[dir].FileStamp(name)
		if err == nil && now.Sub(timeOf(stamp.Modified)) > staleAfter {
			err = discard(c.dirs[dir], name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = err // the others go nevertheless
		}
	}
	return failed
}

// now is the time by the server's clock, which all times of files and directories are of.
func (c *Catalog) now() (time.Time, error) {
	tmp := c.dirs[tmpDir] // whose own time tells nobody anything
	if err := tmp.TouchSelf(); err != nil {
		return time.Time{}, err
	}
	stamp, err := tmp.Refresh()
	return timeOf(stamp), err
}

func timeOf(stamp tree.Stamp) time.Time { return time.Unix(stamp.Seconds, stamp.Nanoseconds) }
