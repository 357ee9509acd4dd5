package catalog

import "github.com/docker-volume-efs/docker-volume-efs/driver/tree"

// ParseRecord is parseRecord, for the fuzz test.
func ParseRecord(name string, data []byte) (Record, error) { return parseRecord(name, data) }

// Encode is encode, for the fuzz test.
func (r Record) Encode() ([]byte, error) { return r.encode() }

// UndoWrongMove is undoWrongMove: the moment between the look and the move cannot be
// had from outside.
func UndoWrongMove(entry, parent *tree.Dir, name string, inode uint64) error {
	return undoWrongMove(entry, parent, name, inode)
}
