package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// A volume at its default path, /NAME, lies in no other volume's directory. So
// two volumes can meet only if one of them has a path of its own choice; those are
// marked in paths/, and a question about neighbours reads their records and no others.

// claim marks a volume with a path of its own choice, before its record is there.
func (c *Catalog) claim(record Record) error {
	if record.FileSystem != "" || record.Foreign() || record.Path == "/"+record.Name {
		return nil
	}
	err := c.dirs[pathsDir].WriteNew(record.Name, nil, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// unclaim takes the mark of a volume away whose record has gone. If there is a new
// record by then, it is marked again: one that lies in another volume's directory
// unseen would lose its data with that one.
func (c *Catalog) unclaim(name string) error {
	if err := c.dirs[pathsDir].Unlink(name); err != nil {
		return err
	}
	current, err := c.Lookup(name)
	if err != nil {
		return nil //nolint:nilerr // none, or one that Neighbours cannot read either
	}
	return c.claim(current)
}

// Neighbours returns the other volumes of this file system whose directories are the
// same as the record's, contain it, or lie inside it. A neighbour whose record cannot be
// read is an error: nothing is known about where its data is.
func (c *Catalog) Neighbours(record Record) ([]Record, error) {
	if record.Foreign() {
		return nil, nil // its data never leaves
	}
	if _, err := c.dirs[pathsDir].Refresh(); err != nil {
		return nil, err
	}
	names, err := c.dirs[pathsDir].Names()
	if err != nil {
		return nil, err
	}
	// The one whose default path is the first component.
	first, _, _ := strings.Cut(strings.TrimPrefix(record.Path, "/"), "/")
	if CheckName(first) == nil && !slices.Contains(names, first) {
		names = append(names, first)
	}
	var neighbours []Record
	for _, name := range names {
		if name == record.Name || CheckName(name) != nil {
			continue
		}
		other, err := c.Lookup(name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot tell whether volume %q lies in the same directory: %w", name, err)
		}
		if other.FileSystem == "" && !other.Foreign() && (within(other.Path, record.Path) || within(record.Path, other.Path)) {
			neighbours = append(neighbours, other)
		}
	}
	return neighbours, nil
}

// within tells whether a path is another one or lies beneath it.
func within(path, other string) bool {
	return path == other || strings.HasPrefix(path, other+"/")
}

// Within tells whether the record's directory is another volume's or lies inside
// it.
func (r Record) Within(other Record) bool { return within(r.Path, other.Path) }
