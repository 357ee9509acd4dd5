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

// uses keeps the counts of all volumes. They outlive a crash of the plugin; a
// reboot makes them void.
type uses struct {
	mu    sync.Mutex // makes read-change-write of one volume a single step
	table *state.Table[use]
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
	current.Counts = maps.Clone(current.Counts)
	if current.Counts[id]--; current.Counts[id] == 0 {
		delete(current.Counts, id)
	}
	if current.Unanswered == id {
		current.Unanswered = ""
	}
	return current.total(), true, u.table.Put(name, current)
}
