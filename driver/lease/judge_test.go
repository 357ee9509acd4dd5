package lease_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

// tally is how often something happened.
type tally struct {
	tenures, writes, released, lost, preempted int
	old                                        int // looks and signs that were not the latest
	dropped                                    int // hosts that heard that others had dropped them
	lingered                                   int // writes of tenures that had not found out
}

func (t *tally) add(more tally) {
	t.tenures += more.tenures
	t.writes += more.writes
	t.released += more.released
	t.lost += more.lost
	t.preempted += more.preempted
	t.old += more.old
	t.dropped += more.dropped
	t.lingered += more.lingered
}

func (t tally) String() string {
	return fmt.Sprintf("%d tenures, %d writes, %d leases given back, %d lost, %d preempted; %d old answers, %d hosts dropped, %d writes lingered",
		t.tenures, t.writes, t.released, t.lost, t.preempted, t.old, t.dropped, t.lingered)
}

// accept is a write that the server does.
func (w *world) accept(t lease.Tenure) {
	w.writes++
	if w.broken.noEviction && t.Host == w.serves.Host {
		return // a host takes its own lease again at once: that needs the eviction
	}
	if t.Epoch < w.serves.Epoch && !w.lingers(t) {
		w.wrong = append(w.wrong, fmt.Sprintf("at %v tenure %d of %s wrote, while tenure %d of %s has the lease",
			w.now, t.Epoch, t.Host.ID, w.serves.Epoch, w.serves.Host.ID))
	}
}

// lingers tells whether a tenure that another one has followed may still write: it was evicted nowhere.
func (w *world) lingers(t lease.Tenure) bool {
	if !w.broken.lingers || !w.nodeOf(t.Host).Now().Before(w.ends[t]) {
		return false
	}
	w.lingered++
	return true
}

// told is the moment in which a host hears that it has the lease. Who had it before finds out when it
// asks in turn, or with its next sign if others have dropped it.
func (w *world) told(t lease.Tenure) {
	if t.Epoch > w.serves.Epoch {
		w.serves = t
		w.tenures++
	}
	w.current = slices.DeleteFunc(append(w.current, t), func(one lease.Tenure) bool {
		if one.Epoch >= w.serves.Epoch {
			return false
		}
		n := w.nodeOf(one.Host)
		w.ends[one] = n.within(lease.Term)
		if n.gone {
			w.ends[one] = n.within(lease.Every)
		}
		return true
	})
}

// wasDropped is the moment in which others have dropped a host.
func (n *node) wasDropped() {
	n.gone = true
	for one, end := range n.ends {
		if soon := n.within(lease.Every); one.Host == n.self && soon.Before(end) {
			n.ends[one] = soon
		}
	}
}

// within is when a host must have done, by its clock, what it does once in so long, with all that it asks.
func (n *node) within(often time.Duration) time.Time {
	return n.Now().Add(often + time.Second + 5*n.weather.slow)
}

func (w *world) nodeOf(h lease.Host) *node {
	return w.nodes[slices.IndexFunc(w.nodes, func(n *node) bool { return n.self == h })]
}
