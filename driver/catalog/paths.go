package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// A volume at its default path, /NAME, lies in no other volume's directory. So
// two volumes can meet only if one of them has a path of its own choice; those have a mark in
// paths/, and a question about neighbours reads the records of those whose mark allows that they are.

const (
	// markSeparator is in no volume's name.
	markSeparator = "@"
	// markDigits of the digest of each directory on the way are in a mark, of markDepth of them at most: with the longest
	// name a file's name is full. Two directories with the same digits cost the reading of a record, no more.
	markDigits = 6
	markDepth  = 9
)

// mark is the name of a volume's mark.
func mark(record Record) string { return record.Name + markSeparator + way(record.Path) }

// way is the digests of the directories down to a path: one path lies in another's directory only if the other's way is
// the beginning of its own, as far as both go.
func way(path string) string {
	var digits strings.Builder
	at := 0
	for range markDepth {
		next := strings.IndexByte(path[at+1:], '/')
		end := at + 1 + next
		if next < 0 {
			end = len(path)
		}
		sum := sha256.Sum256([]byte(path[:end]))
		digits.WriteString(hex.EncodeToString(sum[:])[:markDigits])
		if next < 0 {
			break
		}
		at = end
	}
	return digits.String()
}

// mayMeet tells whether one of two paths can lie in the directory of the other.
func mayMeet(way, other string) bool {
	return strings.HasPrefix(way, other) || strings.HasPrefix(other, way)
}

// claim marks a volume with a path of its own choice, before its record is there.
func (c *Catalog) claim(record Record) error {
	if !isClaimed(record) {
		return nil
	}
	err := c.dirs[pathsDir].WriteNew(mark(record), nil, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func isClaimed(record Record) bool {
	return record.FileSystem == "" && !record.Foreign() && record.Path != "/"+record.Name
}

// unclaim takes the mark of a volume away whose record has gone. If there is a new
// record by then, it is marked again: one that lies in another volume's directory
// unseen would lose its data with that one.
func (c *Catalog) unclaim(record Record) error {
	if !isClaimed(record) {
		return nil
	}
	if err := c.dirs[pathsDir].Unlink(mark(record)); err != nil {
		return err
	}
	current, err := c.Lookup(record.Name)
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
	marks, err := c.dirs[pathsDir].Names()
	if err != nil {
		return nil, err
	}
	names, mine := []string(nil), way(record.Path)
	for _, one := range marks {
		name, other, ok := strings.Cut(one, markSeparator)
		if ok && mayMeet(mine, other) && !slices.Contains(names, name) {
			names = append(names, name)
		}
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
