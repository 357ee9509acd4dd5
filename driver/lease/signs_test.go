package lease_test

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

// A host's signs of life are the renewals of its entry, which says that it uses the volume. Others drop
// the entry of a host that gives none.

const (
	sweepEvery = 20 * time.Second
	// deadAfter is how long a host must have given no sign to be dropped: sooner than in the product, so
	// that it happens to hosts that live.
	deadAfter = 40 * time.Second
)

// announce has the others know that the host uses the volume.
func (n *node) announce() error {
	n.uses = true
	return n.ask(func() error { n.give(); return nil })
}

func (n *node) withdraw() {
	n.uses = false
	_ = n.ask(func() error { delete(n.signs, n.self.ID); return nil })
}

// give is a sign as the server keeps it.
func (n *node) give() {
	n.gone = false
	n.sign++
	n.signs[n.self.ID] = n.sign
}

var errNoEntry = errors.New("the host has no entry")

// Renew implements lease.Store. A host that was dropped comes back first, and then tells its keeper.
func (n *node) Renew(context.Context) error {
	if !n.uses {
		return nil
	}
	begun := n.Now()
	err := n.ask(func() error {
		if n.signs[n.self.ID] == 0 {
			return errNoEntry
		}
		n.give()
		return nil
	})
	if errors.Is(err, errNoEntry) {
		n.forgotten = true
		err = n.announce()
	}
	if err != nil {
		return err
	}
	n.signed = begun
	if !n.forgotten {
		return nil
	}
	n.forgotten = false
	n.dropped++
	if n.broken.ignoresDrop {
		return nil
	}
	return lease.ErrForgotten
}

// Sign implements lease.Store.
func (n *node) Sign(_ context.Context, _ string, h lease.Host) (sign lease.Sign, err error) {
	err = n.ask(func() error { sign = n.signOf(h); return nil })
	return sign, err
}

// signOf is another host's sign as this one gets it.
func (n *node) signOf(h lease.Host) lease.Sign {
	if n.knownOf[h.ID] == nil {
		n.knownOf[h.ID] = new(memory[lease.Sign])
	}
	return recall(n, n.knownOf[h.ID], n.weather.oldSigns, asSign(n.signs[h.ID]))
}

func asSign(count int) lease.Sign {
	if count == 0 {
		return ""
	}
	return lease.Sign(strconv.Itoa(count))
}

// sighting is another host's sign, and since when by this host's clock it has been as it is.
type sighting struct {
	sign  lease.Sign
	since time.Time
}

// sweep looks for hosts that give no sign, whether this one wants the volume or not.
func (n *node) sweep() {
	seen := map[*node]sighting{}
	for {
		_ = n.Sleep(context.Background(), sweepEvery)
		signs := map[*node]lease.Sign{}
		err := n.ask(func() error {
			for _, other := range n.nodes {
				signs[other] = n.signOf(other.self)
			}
			return nil
		})
		if err != nil {
			clear(seen) // nobody may have reached the server
			continue
		}
		for _, other := range n.nodes {
			if other != n && n.saw(seen, other, signs[other]) {
				n.drop(other, signs[other])
			}
		}
	}
}

// saw tells whether a host is dead, as far as this one has seen.
func (n *node) saw(seen map[*node]sighting, other *node, sign lease.Sign) bool {
	if was := seen[other]; sign == "" || sign != was.sign {
		seen[other] = sighting{sign, n.Now()}
		return false
	} else if n.Now().Sub(was.since) <= deadAfter {
		return false
	}
	delete(seen, other)
	return true
}

// drop takes a host's entry away, and puts it back if the host has given a sign by then.
func (n *node) drop(other *node, found lease.Sign) {
	id, taken := other.self.ID, 0
	err := n.ask(func() error {
		taken = n.signs[id]
		delete(n.signs, id)
		if asSign(taken) == found {
			other.wasDropped()
		}
		return nil
	})
	if err != nil || taken == 0 || asSign(taken) == found {
		return
	}
	_ = n.ask(func() error {
		if n.signs[id] == 0 {
			n.signs[id] = taken
		}
		return nil
	})
}
