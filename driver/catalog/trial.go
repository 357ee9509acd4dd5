package catalog

import (
	"crypto/rand"
	"errors"
	"time"
)

// Trial is what writing a file took.
type Trial struct {
	// Write is to make, write and sync it, Remove to remove it.
	Write, Remove time.Duration
	// Ahead is by how much this host's clock is ahead of the one by which the file system
	// recorded the write.
	Ahead time.Duration
}

// Try writes a file among the catalogue's temporary ones and removes it. Like all of those it
// is swept later if this call does not get to it.
func (c *Catalog) Try() (Trial, error) {
	tmp := c.dirs[tmpDir]
	name := c.name + "-" + rand.Text()
	begun := time.Now()
	if err := tmp.WriteTemporary(name, []byte("a test of docker-volume-efs doctor\n"), fileMode); err != nil {
		return Trial{}, err
	}
	written := time.Now()
	stamp, err := tmp.FileStamp(name)
	removing := time.Now()
	if err := errors.Join(err, tmp.Unlink(name)); err != nil {
		return Trial{}, err
	}
	return Trial{
		Write: written.Sub(begun), Remove: time.Since(removing),
		Ahead: begun.Add(written.Sub(begun) / 2).Sub(timeOf(stamp.Modified)),
	}, nil
}
