package catalog

import "github.com/docker-volume-efs/docker-volume-efs/driver/tree"

// ParseRecord is parseRecord, for the fuzz test.
func ParseRecord(name string, data []byte) (Record, error) { return parseRecord(name, data) }

// ParseHost is parseHost, for the fuzz test.
func ParseHost(id string, data []byte) (Host, error) { return parseHost(id, data) }

// Encode is encode, for the fuzz test.
func (r Record) Encode() ([]byte, error) { return r.encode() }

// Drop removes whatever record has the name.
func (c *Catalog) Drop(name string) error {
	return c.DropIf(name, func(Record) bool { return true })
}

// UndoWrongMove is undoWrongMove: the moment between the look and the move cannot be
// had from outside.
func UndoWrongMove(entry, parent *tree.Dir, name string, inode uint64) (wrong uint64, err error) {
	return undoWrongMove(entry, parent, name, inode)
}

// RestoreAfter is Restore with something in between that another host does when the entry is open and read already.
func (c *Catalog) RestoreAfter(id string, between func()) (Record, error) {
	entry, err := c.openEntry(id)
	if err != nil {
		return Record{}, err
	}
	defer entry.Close()
	record, err := recordIn(entry)
	if err != nil {
		return Record{}, err
	}
	between()
	return c.restore(entry, id, record)
}

// DropTaken is dropTaken: what another host does between the look at a record and its
// removal cannot be timed from outside.
func (c *Catalog) DropTaken(taken, name string, meant func(Record) bool) error {
	return c.dropTaken(taken, name, meant)
}

// EndRestoration is endRestoration: what happens between its look at the directory and this cannot be timed from
// outside.
func (c *Catalog) EndRestoration(record, ready Record) error { return c.endRestoration(record, ready) }

// TmpDir is where a record is while it is taken.
const TmpDir = tmpDir

// Mark is the name of a volume's mark in paths/.
func Mark(record Record) string { return mark(record) }

// Way is what a mark says of a path.
func Way(path string) string { return way(path) }

// MayMeet tells whether one of two volumes can lie in the directory of the other, as their marks say.
func MayMeet(way, other string) bool { return mayMeet(way, other) }
