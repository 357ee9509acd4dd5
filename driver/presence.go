package driver

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

// withdrawAfter is how long a volume that nobody uses any more counts as in use for the
// other hosts: docker run mounts, unmounts and mounts again within milliseconds, and each
// change of the entry costs the server some five operations.
const withdrawAfter = time.Second

// presence is this host's entry in the catalogue of one file system by one address, and what the
// entries of the other hosts say. A volume is in the entry before its mount counts, and a removal
// looks at the entries after the volume's record says "removing": of two hosts at work at once, one
// sees the other.
type presence struct {
	f       *fileSystem
	writing chan struct{} // held by who writes the entry, until the write has ended
	looking sync.Mutex    // one look at a time; never waited for

	mu      sync.Mutex // guards the following fields
	begun   bool       // used has what an earlier run left
	used    map[string]announced
	changes uint64                     // of used
	written uint64                     // the change that the entry shows
	told    map[string]catalog.HostUse // what it has; not changed, but replaced
	there   bool                       // the entry is on the file system
	trouble error                      // why the others cannot be told
	refused error                      // of the latest renewal of the entry: they see no sign of life
	dropped uint64                     // how often others took this host for dead
	others  map[string]sighting
	looks   uint64 // that began
	seen    uint64 // the number of the one that found others
	looked  time.Time
}

// at is this host as others see it on a file system. It is another one at each address: should two be of
// one file system, neither writes over what the other tells, and neither waits for a server that only
// the other needs.
func (h host) at(spec filesystem.Spec) lease.Host {
	return lease.Host{ID: digest(h.id + " " + spec.String()), Name: h.name}
}

// ownIDs are this host's at all addresses that it uses.
func (d *Driver) ownIDs() map[string]bool {
	own := map[string]bool{}
	for _, f := range d.allFileSystems() {
		own[f.self.ID] = true
	}
	return own
}

// announced is a volume in use here, and the change of the entry with which it came.
type announced struct {
	catalog.HostUse
	change uint64
}

func newPresence(f *fileSystem) *presence {
	return &presence{f: f, writing: make(chan struct{}, 1), used: map[string]announced{}, others: map[string]sighting{}}
}

// begin learns once what an earlier run left in use: the entry must not be written without that.
// The caller holds mu.
func (p *presence) begin() {
	if p.begun {
		return
	}
	p.begun = true
	p.changes++ // the entry may show what a reboot has ended
	d := p.f.d
	for name, k := range d.inUse() {
		if k.FileSystem != p.f.spec.String() {
			continue
		}
		u, counted := d.uses.current(name)
		// An exclusive volume that nobody counts is announced with its lease: without one, this host's sign of
		// life would keep others from it.
		if counted || !p.f.isFenced(k.Record) {
			p.used[name] = announced{catalog.HostUse{Since: u.Since, ReadOnly: u.ReadOnly}, p.changes}
		}
	}
}

// announce tells the other hosts that a volume is about to be used here. Where they cannot be
// told, because the file system is full or may not be written, that is a trouble and no error.
func (p *presence) announce(ctx context.Context, name string, readOnly bool) error {
	change, told := p.use(name, readOnly)
	if told {
		return nil
	}
	return p.tell(ctx, change)
}

// use has what is written from now on say that a volume is used here. It returns the change with which that
// came, and whether the others have been told already.
func (p *presence) use(name string, readOnly bool) (change uint64, told bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	one, ok := p.used[name]
	if !ok || one.ReadOnly != readOnly {
		p.changes++
		one = announced{catalog.HostUse{Since: time.Now().UTC().Truncate(time.Second), ReadOnly: readOnly}, p.changes}
		p.used[name] = one
	}
	return one.change, p.written >= one.change
}

// tell has the entry show a change.
func (p *presence) tell(ctx context.Context, change uint64) error {
	_, err := withCatalog(ctx, p.f, func(ctx context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, p.write(ctx, c, change)
	})
	return err
}

// write writes the entry, one call at a time: what a call that was given up still writes comes
// before what the next one does. Who waited finds its change written as well.
func (p *presence) write(ctx context.Context, c *catalog.Catalog, change uint64) error {
	select {
	case p.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.writing }()
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.written >= change {
		p.mu.Unlock()
		return nil
	}
	entry, now := catalog.Host{ID: p.f.self.ID, Name: p.f.self.Name, Volumes: map[string]catalog.HostUse{}}, p.changes
	for name, one := range p.used {
		entry.Volumes[name] = one.HostUse
	}
	p.mu.Unlock()
	var err error
	if len(entry.Volumes) == 0 {
		err = c.RemoveHost(entry.ID)
	} else {
		err = c.PutHost(entry)
	}
	if isUnwritable(err) {
		p.recall(c)
	}
	return p.wrote(now, entry.Volumes, err)
}

// recall learns what an earlier run has told, which stands and can be renewed though nothing can be written. The
// caller is the entry's writer.
func (p *presence) recall(c *catalog.Catalog) {
	p.mu.Lock()
	there := p.there
	p.mu.Unlock()
	if there {
		return
	}
	if earlier, err := c.Host(p.f.self.ID, catalog.FoundHost{}); err == nil {
		p.mu.Lock()
		p.told, p.there = earlier.Volumes, true
		p.mu.Unlock()
	}
}

// wrote keeps how a write of the entry ended.
func (p *presence) wrote(change uint64, volumes map[string]catalog.HostUse, err error) error {
	log := p.f.d.log.WithField("filesystem", p.f.spec)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		if p.trouble != nil {
			log.Info("other hosts can be told again which volumes are in use here")
		}
		p.written, p.told, p.there, p.trouble, p.refused = change, volumes, len(volumes) > 0, nil, nil
	case isUnwritable(err):
		if p.trouble == nil {
			log.Warnf("other hosts cannot be told which volumes are in use here, and may remove them: %v", err)
		}
		p.trouble = err
		return nil
	}
	return err
}

// renewed keeps how a renewal of the entry ended: what could not be written into it is still not there. The
// caller is the entry's writer.
func (p *presence) renewed(err error) error {
	p.mu.Lock()
	written, told, due := p.written, p.told, p.written < p.changes
	p.refused = nil
	if isUnwritable(err) {
		p.refused = err
	}
	p.mu.Unlock()
	if err == nil && due {
		return nil
	}
	return p.wrote(written, told, err)
}

// isUnwritable tells whether a file system can be used, though not written by this host.
func isUnwritable(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) ||
		errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// withdraw has what is written from now on say that a volume is not used here any more. It returns the
// change with which that comes, and whether the others are still to be told. The caller has the volume's turn.
func (p *presence) withdraw(name string) (change uint64, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, due = p.told[name]
	if _, used := p.used[name]; used {
		delete(p.used, name)
		p.changes++
		due = true
	}
	return p.changes, due
}

// cease forgets a use that was left over here. What is written next says so to the other hosts.
func (p *presence) cease(name string) {
	p.mu.Lock()
	p.begin() // or it would come back with that
	p.mu.Unlock()
	p.withdraw(name)
}

// uses tells whether a volume is used here, or about to be.
func (p *presence) uses(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, used := p.used[name]
	return used
}

// renew has the other hosts see that this one is there, and writes what could not be written.
func (p *presence) renew(ctx context.Context) error {
	p.mu.Lock()
	p.begin()
	change, due, there := p.changes, p.written < p.changes, p.there
	p.mu.Unlock()
	if !due {
		dropped, err := p.touch(ctx)
		if err != nil || !dropped {
			return err
		}
	}
	if err := p.tell(ctx, change); err != nil || !there {
		return err
	}
	// What another call was writing may have reached the server before this one began.
	_, err := p.touch(ctx)
	return err
}

// touch renews the entry, if there is one. It tells whether another host had removed it, which is then
// to be written again.
func (p *presence) touch(ctx context.Context) (dropped bool, err error) {
	return withCatalog(ctx, p.f, func(ctx context.Context, c *catalog.Catalog, _ *session) (bool, error) {
		select { // or the entry could be removed meanwhile by this host itself
		case p.writing <- struct{}{}:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		defer func() { <-p.writing }()
		p.mu.Lock()
		there := p.there
		p.mu.Unlock()
		if !there {
			return false, nil
		}
		err := c.RenewHost(p.f.self.ID)
		if !errors.Is(err, catalog.ErrNotFound) {
			return false, p.renewed(err)
		}
		p.f.d.log.WithField("filesystem", p.f.spec).Warn("another host took this one for dead, and may have removed volumes that are in use here")
		p.mu.Lock()
		defer p.mu.Unlock()
		p.written, p.told, p.there = 0, nil, false
		p.dropped++
		return true, nil
	})
}

func (p *presence) timesDropped() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

// whyUntold is why other hosts do not know that all of the volumes are used here, by a host that lives;
// nil if they do.
func (p *presence) whyUntold(volumes ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused != nil {
		return p.refused
	}
	for _, name := range volumes {
		if _, told := p.told[name]; !told {
			return p.trouble
		}
	}
	return nil
}

// withdrawSoon tells the other hosts that a volume is not used here any more, unless it is used
// again by then.
func (d *Driver) withdrawSoon(name string) {
	d.spawn(func() {
		timer := time.NewTimer(withdrawAfter)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-d.life.Done():
			return // takeLeave does it
		}
		release, err := d.turns.take(d.life, name)
		if err != nil {
			return
		}
		defer release()
		d.withdraw(d.life, name)
	})
}

// withdraw does so now, if the volume is not used. What cannot be written is written with the
// next renewal. The caller has the volume's turn.
func (d *Driver) withdraw(ctx context.Context, name string) {
	if d.uses.has(name) {
		return
	}
	for _, f := range d.allFileSystems() {
		if f.holdingOf(name) != nil {
			continue // its lease is given back first
		}
		change, due := f.presence.withdraw(name)
		if !due {
			continue
		}
		if err := f.presence.tell(ctx, change); err != nil && ctx.Err() == nil {
			d.log.WithField("volume", name).Warnf("tell other hosts that it is not used here any more: %v; it is tried again", err)
		}
	}
}
