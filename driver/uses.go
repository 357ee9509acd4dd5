package driver

import (
	"maps"
	"sync"
	"time"

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
type uses struct {
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

// void drops a volume's use whose mount is gone. If its containers may go on, they are uncounted from now on.
func (u *uses) void(name string, goOn bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	current, _ := u.table.Get(name)
	if id := current.Unanswered; current.Counts[id] > 0 {
		current = current.without(id) // Docker never heard of it
	}
	if goOn && current.total() > 0 {
		current.Counts = maps.Clone(current.Counts)
		older, _ := u.uncounted.Get(name)
		for id, n := range older.Counts {
			current.Counts[id] += n
		}
		if err := u.uncounted.Put(name, current); err != nil {
			return err
		}
	}
	return u.table.Delete(name)
}

// forgetUncounted drops the uncounted uses of a volume.
func (u *uses) forgetUncounted(name string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.uncounted.Delete(name)
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
		return false, u.uncounted.Put(name, current)
	}
	return true, u.uncounted.Delete(name)
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
		if err := u.uncounted.Delete(name); err != nil {
			return err
		}
	}
	return u.table.Delete(name)
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
	return current.total(), true, u.table.Put(name, current)
}
