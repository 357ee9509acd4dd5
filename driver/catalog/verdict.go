package catalog

import (
	"errors"
	"io/fs"

	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// Verdict is how a removal ends.
type Verdict string

const (
	// Goes has the record go, and the directory to the trash.
	Goes Verdict = "goes"
	// Keeps has the record go; the directory stays where it is.
	Keeps Verdict = "keeps"
	// Stays has the volume stay as it was.
	Stays Verdict = "stays"
)

// Decide has all hosts that are at work on one removal agree on its end: the first one's verdict counts, and is
// returned to all. One that finds a user where another found none would else write "ready" while the other moves
// the directory. A verdict is kept for a day: a host may be late. It fails as the file system does.
func (c *Catalog) Decide(entry string, verdict Verdict) (Verdict, error) {
	if entry == "" {
		return verdict, nil // not a record that a plugin has written: there is nobody to agree with
	}
	verdicts := c.dirs[verdictsDir]
	err := c.place([]byte(verdict), func(tmp *tree.Dir, name string) error { return tmp.Link(name, verdicts, entry) })
	if !errors.Is(err, fs.ErrExist) {
		return verdict, err
	}
	if _, err := verdicts.Refresh(); err != nil { // or the kernel may remember that there was none
		return verdict, err
	}
	first, err := verdicts.ReadFile(entry)
	if err != nil {
		return verdict, err
	}
	switch first := Verdict(first); first {
	case Goes, Keeps, Stays:
		return first, nil
	}
	return verdict, ErrDamaged
}
