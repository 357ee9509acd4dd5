package catalog

import (
	"errors"
	"path"
)

// Confirm fails with [ErrNotFound], and drops the record, if the volume, which was just
// made ready, has no directory: another host removed it at that moment. It asks the server.
func (c *Catalog) Confirm(record Record) error {
	directory, err := c.DirectoryOf(record)
	if err != nil || directory != 0 {
		return err
	}
	err = c.DropIf(record.Name, func(current Record) bool { return c.isHollow(current, record) })
	return errors.Join(err, ErrNotFound)
}

// TakeBack removes the directory that a Create has made, with the given inode, for a volume that another host
// removed at that moment. It must be empty. If somebody has begun to use it as a volume's directory, there is one again.
func (c *Catalog) TakeBack(record Record, directory uint64) error {
	now, err := c.DirectoryOf(record)
	if err != nil || now != directory || c.usesPath(record) {
		return err
	}
	parent, err := c.root.Open(path.Dir(record.Path))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := parent.RemoveEmpty(path.Base(record.Path)); err != nil {
		return err
	}
	for used := c.usesPath(record); used; used = c.usesPath(record) {
		dir, made, err := parent.Make(path.Base(record.Path), parentMode)
		if err != nil {
			return err
		}
		if err := dir.Close(); err != nil || !made || c.usesPath(record) {
			return err
		}
		// That volume has gone as well.
		if err := parent.RemoveEmpty(path.Base(record.Path)); err != nil {
			return err
		}
	}
	return nil
}

// usesPath tells whether the name is a volume's that is ready and has the record's path.
func (c *Catalog) usesPath(record Record) bool {
	current, err := c.Lookup(record.Name)
	return err == nil && current.State == Ready && current.Path == record.Path
}

// isHollow tells whether the current record says that the volume of a record is ready, and it has no directory. That of
// a foreign one is out of sight, and never leaves.
func (c *Catalog) isHollow(current, record Record) bool {
	if current.State != Ready || current.Foreign() || !current.Same(record) {
		return false
	}
	directory, err := c.DirectoryOf(current)
	return err == nil && directory == 0
}
