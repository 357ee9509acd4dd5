package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

const (
	// deadAfter is how long another host's entry must have been as it is until that host
	// counts as dead: twelve renewals were missed by then. A host that was cut off for so long
	// may still run containers; what is removed meanwhile is in the trash.
	deadAfter = 2 * time.Minute
	// lookEvery is how often the others' entries are looked at when nobody asks, and
	// lookAgain how old a look may be that an answer rests on.
	lookEvery = time.Minute
	lookAgain = 5 * time.Second
	// lookLimit is how far apart two looks may be for the time between them to count: a check and
	// two answers later than they should. In a longer one this host saw nothing itself, and nobody
	// may have reached the server.
	lookLimit = lookEvery + DefaultCheck + 2*answerTimeout
)

// sighting is another host's entry, and since when, by this host's monotonic clock, it has been
// seen as it is.
type sighting struct {
	catalog.FoundHost
	since time.Time
}

// look reads the other hosts' entries, and removes those of dead ones.
func (p *presence) look(c *catalog.Catalog) error {
	number, before := p.beginLook()
	all, err := c.Hosts(before)
	if err != nil {
		return err
	}
	var failed error
	for _, dead := range p.saw(number, all) {
		p.f.d.log.WithField("filesystem", p.f.spec).Warnf("host %s has not been heard of for %v and counts as dead; it used %v",
			dead.Name, deadAfter, slices.Sorted(maps.Keys(dead.Volumes)))
		failed = errors.Join(failed, c.DropHost(dead.FoundHost))
	}
	return failed
}

// beginLook gives a look its number, and what earlier ones have found.
func (p *presence) beginLook() (number uint64, before map[string]catalog.FoundHost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before = make(map[string]catalog.FoundHost, len(p.others))
	for id, one := range p.others {
		before[id] = one.FoundHost
	}
	p.looks++
	return p.looks, before
}

// saw keeps what a look has found, and returns the hosts that are dead. Of looks at the same time the one
// that began last counts: it has found whatever there was before the others began.
func (p *presence) saw(number uint64, all map[string]catalog.FoundHost) (dead []sighting) {
	own := p.f.d.ownIDs()
	p.mu.Lock()
	defer p.mu.Unlock()
	if number < p.seen {
		return nil
	}
	p.seen = number
	now := time.Now()
	blind := now.Sub(p.looked) > lookLimit
	p.looked = now
	for id := range p.others {
		if _, there := all[id]; !there || own[id] {
			delete(p.others, id)
		}
	}
	for id, found := range all {
		one, known := p.others[id]
		switch {
		case own[id]:
		case !known || blind || !found.Same(one.FoundHost):
			p.others[id] = sighting{found, now}
		case now.Sub(one.since) > deadAfter:
			dead = append(dead, one)
			delete(p.others, id)
		}
	}
	return dead
}

// lookNow and then keeps what is known fresh. It does not wait for another that is at it.
func (p *presence) lookNow(ctx context.Context, age time.Duration) error {
	if !p.looking.TryLock() {
		return nil
	}
	defer p.looking.Unlock()
	p.mu.Lock()
	fresh := !p.looked.IsZero() && time.Since(p.looked) < age
	p.mu.Unlock()
	if fresh {
		return nil
	}
	_, err := withCatalog(ctx, p.f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, p.look(c)
	})
	return err
}

// stale tells whether the latest look is too old for an answer.
func (p *presence) stale() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.looked) > lookAgain
}

// usedElsewhere are the other hosts that use a volume, as they were when last looked at, in the
// order of their names.
func (p *presence) usedElsewhere(name string) []sighting {
	p.mu.Lock()
	defer p.mu.Unlock()
	var users []sighting
	for _, one := range p.others {
		if _, uses := one.Volumes[name]; uses {
			users = append(users, one)
		}
	}
	slices.SortFunc(users, func(a, b sighting) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return users
}

// usedByOthers are all volumes that other hosts use, as they were when last looked at, each with those
// hosts' names in order.
func (p *presence) usedByOthers() map[string][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	users := map[string][]string{}
	for _, one := range p.others {
		for name := range one.Volumes {
			users[name] = append(users[name], one.Name)
		}
	}
	for _, hosts := range users {
		slices.Sort(hosts)
	}
	return users
}

// freeLimit is how long a removal waits for a volume that other hosts may just have ceased to use.
const (
	freeLimit = withdrawAfter + time.Second
	freePause = 100 * time.Millisecond
)

// awaitFree waits a moment for the other hosts to cease to use a volume, so that a removal right
// after the last container's end works, and refuses if they do not.
func (p *presence) awaitFree(ctx context.Context, name string) error {
	return soonFree(ctx, func() error {
		_, err := withCatalog(ctx, p.f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
			return struct{}{}, p.refuseUsed(c, name)
		})
		return err
	})
}

// soonFree asks whether a volume is in use until it is not, for a moment.
func soonFree(ctx context.Context, refuse func() error) error {
	for begun := time.Now(); ; {
		err := refuse()
		var used conflict
		if !errors.As(err, &used) || time.Since(begun) > freeLimit {
			return err
		}
		timer := time.NewTimer(freePause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// refuseUsed refuses to remove a volume that another host uses. It asks now, and the server itself.
func (p *presence) refuseUsed(c *catalog.Catalog, name string) error {
	if err := c.ForgetNames(); err != nil && !isUnwritable(err) { // who may not write removes nothing
		return err
	}
	if err := p.look(c); err != nil {
		return err
	}
	users := p.usedElsewhere(name)
	if len(users) == 0 {
		return nil
	}
	one := users[0]
	left := max(0, deadAfter-time.Since(one.since)).Round(time.Second)
	more := ""
	if len(users) > 1 {
		more = fmt.Sprintf(" and %d more", len(users)-1)
	}
	return conflict{fmt.Errorf("host %s%s uses it since %s: stop its containers there first; if that host is dead, this works when nothing was heard of it for %v, in %v at the earliest",
		one.Name, more, one.Volumes[name].Since.Format(time.RFC3339), deadAfter, left)}
}
