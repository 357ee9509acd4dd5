package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"
)

// NewTrashEntry returns a fresh name for a trash entry, which sorts by time.
func NewTrashEntry(name string, now time.Time, random string) string {
	// A volume's name may fill its 200 bytes; the entry keeps to the same rule.
	if len(name) > 160 {
		name = name[:160]
	}
	return now.UTC().Format("20060102T150405Z") + "-" + random + "-" + name
}

// MoveToTrash moves a volume's directory, with a copy of its record, into the
// trash entry that the record names. It may be repeated: what has been done stays
// done. The directory is moved by name from its own parent and nothing is
// followed, so that nobody can have another directory moved instead.
func (c *Catalog) MoveToTrash(record Record) error {
	entry, _, err := c.dirs[trashDir].Make(record.Trash, dirMode)
	if err != nil {
		return fmt.Errorf("make trash entry: %w", err)
	}
	defer entry.Close()
	data, err := record.encode()
	if err != nil {
		return err
	}
	if err := entry.WriteNew(recordFile, data, fileMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write trash entry: %w", err)
	}
	parent, err := c.root.Open(path.Dir(record.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	if _, err := parent.Refresh(); err != nil {
		return err
	}
	err = parent.Rename(path.Base(record.Path), entry, dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Condemn marks a trash entry to be deleted by [Catalog.DeleteCondemned].
func (c *Catalog) Condemn(entry string) error {
	err := c.dirs[trashDir].Rename(entry, c.dirs[deletingDir], entry)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// DeleteCondemned deletes what is condemned, on this host or another, also what
// an earlier run left. more is asked before each file; an error of it stops.
func (c *Catalog) DeleteCondemned(more func() error) error {
	names, err := c.dirs[deletingDir].Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.dirs[deletingDir].RemoveTree(name, more); err != nil {
			return err
		}
	}
	return nil
}
