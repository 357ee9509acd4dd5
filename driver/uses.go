package driver

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
)

// use is a volume's mount on this host and who holds it.
type use struct {
	Boot    string    `json:"boot"`
	Since   time.Time `json:"since"`
	Mounted time.Time `json:"mounted"`
	// Counts has the number of mounts by mount ID: docker cp on a running
	// container mounts again with the container's own ID.
	Counts map[string]int `json:"counts"`
	// Unanswered is the mount ID of a call whose answer is not known to have
	// left; after a crash it does not count, because Docker asks again.
	Unanswered string `json:"unanswered,omitempty"`
	ReadOnly   bool   `json:"readonly,omitempty"`
}

func (u use) total() int {
	n := 0
	for _, count := range u.Counts {
		n += count
	}
	return n
}

// without is the use with one mount of an ID less, which it has.
func (u use) without(id string) use {
	u.Counts = maps.Clone(u.Counts)
	if u.Counts[id]--; u.Counts[id] == 0 {
		delete(u.Counts, id)
	}
	if u.Unanswered == id {
		u.Unanswered = ""
	}
	return u
}

// uses keeps the counts of all volumes. They outlive a crash of the plugin; a
// reboot makes them void.
//
// What a disk of this host that is full does not take is refused where a container begins: a use that a
// crash forgets would be unmounted under it. Where one ends it is done in memory and written later (save),
// because Docker tells of it once. A crash before that brings back a use that nobody has, which keeps a
// volume from other hosts and takes it from none: also the lease of an exclusive volume, which was given
// back meanwhile, is asked on the file system before anything is believed of it.
type uses struct {
	log logrus.FieldLogger

	mu    sync.Mutex // makes read-change-write of one volume a single step
	table *state.Table[use]
	// uncounted are uses whose mount was taken away while containers went on (docker plugin disable -f).
	// Docker still tells of each one's end.
	uncounted *state.Table[use]
}

// current is how containers use a volume, and whether they are counted.
func (u *uses) current(name string) (now use, counted bool) {
	if now, _ = u.table.Get(name); now.total() > 0 {
		return now, true
	}
	now, _ = u.uncounted.Get(name)
	return now, false
}

// has tells whether containers use a volume, counted or not.
func (u *uses) has(name string) bool {
	now, _ := u.current(name)
	return now.total() > 0
}

// late has the end of a use that this host's disk did not take in memory alone. Any other error, and none,
// is returned as it is.
func (u *uses) late(name string, err error, inMemory func()) error {
	if !errors.Is(err, state.ErrHostDisk) {
		return err
	}
	u.log.WithField("volume", name).Errorf("the end of its use is not saved: %v; it is tried again, but a restart of the plugin before that counts the use again", err)
	inMemory()
	return nil
}

// save writes what could not be written.
func (u *uses) save() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.saveLocked()
}

// trySave is save that waits for nobody: whoever has the lock writes, to a disk that may hang, and the caller comes again.
func (u *uses) trySave() error {
	if !u.mu.TryLock() {
		return nil
	}
	defer u.mu.Unlock()
	return u.saveLocked()
}

// saveLocked has the uncounted uses come first: they were counted before. The caller holds mu.
func (u *uses) saveLocked() error {
	if err := u.uncounted.Save(); err != nil {
		return err
	}
	return u.table.Save()
}

// drop removes a volume from one of the tables. The caller holds mu.
func (u *uses) drop(table *state.Table[use], name string) error {
	return u.late(name, table.Delete(name), func() { table.DeleteLater(name) })
}

// put sets what is left of a volume's use. The caller holds mu.
func (u *uses) put(table *state.Table[use], name string, left use) error {
	return u.late(name, table.Put(name, left), func() { table.PutLater(name, left) })
}

// void drops a volume's use whose mount is gone. If its containers may go on, they are uncounted from now on.
func (u *uses) void(name string, goOn bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	current, _ := u.table.Get(name)
	if id := current.Unanswered; current.Counts[id] > 0 {
		current = current.without(id) // Docker never heard of it
	}
	older, there := u.uncounted.Get(name)
	// A start that could not write this table may have written the other.
	moved := there && older.Mounted.Equal(current.Mounted)
	if goOn && !moved && current.total() > 0 {
		current.Counts = maps.Clone(current.Counts)
		for id, n := range older.Counts {
			current.Counts[id] += n
		}
		if err := u.uncounted.Put(name, current); err != nil {
			return u.late(name, err, func() {
				u.uncounted.PutLater(name, current)
				u.table.DeleteLater(name) // not before the other
			})
		}
	}
	return u.drop(u.table, name)
}

// forgetUncounted drops the uncounted uses of a volume.
func (u *uses) forgetUncounted(name string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.drop(u.uncounted, name)
}

// releaseUncounted takes one mount of an ID away that is not counted, and reports whether that was
// the volume's last.
func (u *uses) releaseUncounted(name, id string) (last bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	current, ok := u.uncounted.Get(name)
	if !ok || current.Counts[id] == 0 {
		return false, nil
	}
	if current = current.without(id); current.total() > 0 {
		return false, u.put(u.uncounted, name, current)
	}
	return true, u.drop(u.uncounted, name)
}

// update changes a volume's use; change gets a copy. A use without counts stays:
// its mount is still there, waiting for the next container.
func (u *uses) update(name string, change func(*use)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	current, _ := u.table.Get(name)
	current.Counts = maps.Clone(current.Counts)
	if current.Counts == nil {
		current.Counts = map[string]int{}
	}
	change(&current)
	if err := u.saveLocked(); err != nil {
		return err
	}
	return u.table.Put(name, current)
}

// forget drops a volume's use if it is not held, or in any case if forced.
func (u *uses) forget(name string, force bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	current, ok := u.table.Get(name)
	if ok && !force && current.total() > 0 {
		return nil
	}
	if force {
		if err := u.drop(u.uncounted, name); err != nil {
			return err
		}
	}
	return u.drop(u.table, name)
}

// release takes one mount of an ID away and returns what is left. An unknown ID
// or volume changes nothing.
func (u *uses) release(name, id string) (left int, changed bool, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	current, ok := u.table.Get(name)
	if !ok || current.Counts[id] == 0 {
		return current.total(), false, nil
	}
	current = current.without(id)
	return current.total(), true, u.put(u.table, name, current)
}
