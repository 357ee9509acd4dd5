package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

const (
	// mountShare is what a call keeps of its time for the mount, after it has waited for a lease.
	mountShare = 5 * time.Second
	// exclusiveWarm is how long an exclusive volume stays mounted after a use that was shorter than
	// passingUse: docker run mounts, unmounts and mounts again within milliseconds. After a longer one
	// it is unmounted at once: another host may be waiting.
	exclusiveWarm = 100 * time.Millisecond
	passingUse    = time.Second
	// leaveTries is how long is waited between two tries to give a lease back.
	leaveTries = time.Second
	// flushLimit is how long a server may take to write what the kernel still has, forcedFlush if
	// the volume is being removed.
	flushLimit  = 20 * time.Second
	forcedFlush = 5 * time.Second
)

// holding is an exclusive volume's lease on this host, with the NFS client and the relay that are
// of it alone. It ends for good: the next mount has a new one.
type holding struct {
	f         *fileSystem
	volume    string
	lease     *lease.Lease
	transport *transport
	left      chan struct{} // closed when it has ended
	leaving   bool          // guarded by the file system's mu

	// Of an earlier run: containers may use it that nobody counts; see orphan.go.
	adopted   bool
	orphan    atomic.Bool  // it is being kept as such
	unmounted atomic.Int64 // when Docker took a mount away that was not counted, in Unix seconds

	flushing sync.Mutex // guards flushed
	flushed  *flush     // under way
}

// isExclusive tells whether a volume is mounted by one host at a time.
func isExclusive(r catalog.Record) bool { return r.Options.Access == catalog.AccessExclusive }

// isHeld tells whether this host holds a volume by any name of its file system.
func (d *Driver) isHeld(volume string) bool {
	return slices.ContainsFunc(d.allFileSystems(), func(f *fileSystem) bool { return f.holdingOf(volume) != nil })
}

// isFenced tells whether that is enforced: a local directory has no server and no relay.
func (f *fileSystem) isFenced(r catalog.Record) bool {
	return isExclusive(r) && f.spec.Kind != filesystem.Directory
}

// holdingOf returns what this host holds of a volume, nil if that is nothing.
func (f *fileSystem) holdingOf(volume string) *holding {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.holdings[volume]
}

// heldVolumes are those whose leases this host has.
func (f *fileSystem) heldVolumes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name, h := range f.holdings {
		if h.lease.Over() == nil {
			names = append(names, name)
		}
	}
	return names
}

// transportFor returns the transport to mount a volume by. That of an exclusive volume comes with its
// lease, for which the call waits.
func (f *fileSystem) transportFor(ctx context.Context, record catalog.Record) (*transport, error) {
	if !f.isFenced(record) {
		return f.transportOf(record), nil
	}
	for {
		h := f.holdingOf(record.Name)
		if h == nil {
			return f.acquire(ctx, record)
		}
		f.mu.Lock()
		ending := h.leaving
		f.mu.Unlock()
		if !ending && h.lease.Over() == nil {
			return h.transport, nil
		}
		select { // an earlier one is just being given back, or was found to be lost
		case <-h.left:
		case <-ctx.Done():
			return nil, fmt.Errorf("its lease is still being given back: %w", ctx.Err())
		}
	}
}

// mountedBy returns the transport by which a volume is or would be mounted, nil if that is not
// known: an exclusive volume has none without its lease.
func (f *fileSystem) mountedBy(record catalog.Record) *transport {
	if !f.isFenced(record) {
		return f.transportOf(record)
	}
	if h := f.holdingOf(record.Name); h != nil {
		return h.transport
	}
	return nil
}

// acquire waits for a volume's lease. The caller has the volume's turn.
func (f *fileSystem) acquire(ctx context.Context, record catalog.Record) (*transport, error) {
	if err := f.d.checkIdentifier(); err != nil {
		return nil, err
	}
	// Who waits for the lease sees from the entry that this host lives.
	if err := f.presence.whyUntold(record.Name); err != nil {
		return nil, fmt.Errorf("other hosts cannot be told that this one uses it: %w", err)
	}
	key := record.LeaseKey()
	if err := f.leaseStore.make(ctx, key); err != nil {
		return nil, err
	}
	waiting := ctx
	if end, limited := ctx.Deadline(); limited {
		var cancel context.CancelFunc
		waiting, cancel = context.WithDeadline(ctx, end.Add(-mountShare))
		defer cancel()
	}
	l, err := f.leases.Acquire(waiting, key)
	if err != nil {
		return nil, err
	}
	id, err := f.catalogID(ctx)
	if err != nil {
		f.spawnLeave(f.hold(l, record.Options, f.protectionFor(record), "", false))
		return nil, err
	}
	return f.hold(l, record.Options, f.protectionFor(record), leaseIdentity(id, key, l.Tenure), false).transport, nil
}

// hold begins a holding; adopted is one of an earlier run.
func (f *fileSystem) hold(l *lease.Lease, o catalog.Options, p protection, identity string, adopted bool) *holding {
	h := &holding{
		f: f, volume: catalog.VolumeOf(l.Volume), lease: l, left: make(chan struct{}), adopted: adopted,
		transport: f.newTransport(o.NFS, viaRelay, p),
	}
	h.transport.lease, h.transport.clientIdentity = l, identity
	f.mu.Lock()
	f.holdings[h.volume] = h
	f.transports["lease "+identity] = h.transport
	f.mu.Unlock()
	f.keepLeases.Do(func() { f.d.spawn(func() { f.leases.Run(f.d.life) }) })
	f.d.spawn(func() { h.watch(f.d.life) })
	return h
}

// adopt goes on with an exclusive volume's lease of an earlier run, nil for other relays.
func (f *fileSystem) adopt(identity string, e endpoint) *lease.Lease {
	if e.Lease == "" {
		return nil
	}
	l := f.leases.Adopt(e.Lease, e.Tenure)
	k, _ := f.d.known.Get(catalog.VolumeOf(e.Lease))
	f.presence.use(catalog.VolumeOf(e.Lease), false) // also one that nobody counts any more
	f.hold(l, k.Record.Options, e.Protection, identity, true)
	return l
}

// watch fences the relay whenever the gate shuts, and ends a holding that was lost.
func (h *holding) watch(ctx context.Context) {
	log := h.f.d.log.WithField("volume", h.volume)
	for h.lease.Shut(ctx) == nil {
		h.fence()
		if h.lease.Over() == nil {
			log.Warn("its lease " + notRenewed)
			if h.lease.Wait(ctx) == nil {
				log.Info("its lease is renewed")
				continue
			}
		}
		over := h.lease.Over()
		if lost := new(lease.LostError); errors.As(over, &lost) {
			h.lost(lost)
		}
		return
	}
}

func (h *holding) fence() {
	if one := h.f.d.relays.find(h.transport.identity(viaRelay)); one != nil {
		one.Fence()
	}
}

// lost ends a holding that another host has taken. Containers here that use the volume get
// errors, as from a disk that was pulled out. The relay stays for what the kernel still wants of it.
func (h *holding) lost(why *lease.LostError) {
	d, volume := h.f.d, h.volume
	d.log.WithField("volume", volume).Errorf("%v: its containers here cannot write any more; stop them", why)
	d.setTrouble(volume, troubleOf(why))
	h.f.leases.Forget(h.lease)
	identity := h.transport.identity(viaRelay)
	d.cutOff(volume, d.relays.address(identity))
	d.spawn(func() { d.relays.keepLost(identity, why) }) // which may wait for the disk
	d.spawn(func() { d.relays.seeOff(identity) })
	h.end()
}

// endUse forgets the containers that nobody counts of a volume whose lease this host has not any more: none can be
// there without it. Other hosts are told so.
func (d *Driver) endUse(volume string) {
	if err := d.uses.forgetUncounted(volume); err != nil {
		d.log.WithField("volume", volume).Errorf("forget its containers: %v", err)
	}
	d.withdrawSoon(volume)
}

// troubleOf is what Status says of a volume whose lease was lost under its containers.
func troubleOf(lost *lease.LostError) string {
	return lost.Error() + ": its containers here get errors; stop them"
}

// end forgets a holding whose gate is shut for good. What is mounted stays until its containers
// are gone.
func (h *holding) end() {
	f := h.f
	if s := h.transport.established(); s != nil {
		h.transport.reset(s)
	}
	f.mu.Lock()
	if f.holdings[h.volume] == h {
		delete(f.holdings, h.volume)
	}
	delete(f.transports, "lease "+h.transport.clientIdentity)
	f.mu.Unlock()
	f.d.endUse(h.volume)
	close(h.left)
}

// leave gives a volume's lease back, if this host holds it and no container uses it. The
// caller has the volume's turn.
func (d *Driver) leave(volume string) {
	if u, ok := d.uses.table.Get(volume); ok && u.total() > 0 {
		return
	}
	for _, f := range d.allFileSystems() {
		switch h := f.holdingOf(volume); {
		case h == nil:
		case h.adopted:
			d.spawn(h.keepOrphan)
		default:
			f.spawnLeave(h)
		}
	}
}

// awaitLeaving waits until leases that are being given back are, or the driver's end.
func (f *fileSystem) awaitLeaving() {
	f.mu.Lock()
	var leaving []*holding
	for _, h := range f.holdings {
		if h.leaving {
			leaving = append(leaving, h)
		}
	}
	f.mu.Unlock()
	for _, h := range leaving {
		select {
		case <-h.left:
			f.d.withdraw(f.d.life, h.volume)
		case <-f.d.life.Done():
			return
		}
	}
}

// attemptPatience is how long a lease outlasts the call that it was taken for, if the kernel has not
// finished that one's mount: without its relay it would wait for ever, and others' new NFS clients with it.
const attemptPatience = 2 * time.Minute

// attemptWarm is how long a mount is there for the next call that came too late for the one that began it.
const attemptWarm = 10 * time.Second

// spawnLeave gives a lease back. If the kernel is still at work on its mount, that comes first, and the
// next call may find it done.
func (f *fileSystem) spawnLeave(h *holding) {
	if busy := h.transport.attempting(); busy != nil {
		f.d.spawn(func() { h.leaveAfter(busy) })
		return
	}
	f.beginLeave(h)
}

func (h *holding) leaveAfter(attempt <-chan struct{}) {
	patience := time.NewTimer(attemptPatience)
	defer patience.Stop()
	select {
	case <-attempt:
	case <-patience.C:
	case <-h.f.d.life.Done():
		return // the next start goes on
	}
	if h.transport.established() != nil {
		warm := time.NewTimer(attemptWarm)
		defer warm.Stop()
		select {
		case <-warm.C:
		case <-h.f.d.life.Done():
			return
		}
	}
	h.leaveInTurn(h.f.beginLeave)
}

func (f *fileSystem) beginLeave(h *holding) {
	f.mu.Lock()
	begun := h.leaving
	h.leaving = true
	f.mu.Unlock()
	if !begun {
		f.d.stragglers.Go(func() { h.leave(f.d.life) })
	}
}

// leave takes leave of the server and gives the lease back. As long as that fails it is tried
// again: another host may have the volume only after it, or when this host was silent for a
// whole term.
func (h *holding) leave(ctx context.Context) {
	log := h.f.d.log.WithField("volume", h.volume)
	for failed := ""; ; {
		h.unmount()
		h.lease.End(lease.ErrReleased)
		h.fence()
		err := h.f.leases.Release(ctx, h.lease)
		if err == nil || h.lease.Over() != nil && !errors.Is(h.lease.Over(), lease.ErrReleased) {
			break // given back, or lost: watch says so
		}
		if failed != err.Error() && ctx.Err() == nil {
			failed = err.Error()
			log.Warnf("its lease cannot be given back yet: %v", err)
		}
		timer := time.NewTimer(leaveTries)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return // the next start goes on
		}
	}
	if errors.Is(h.lease.Over(), lease.ErrReleased) {
		h.f.d.relays.close(h.transport.identity(viaRelay))
		h.end()
	}
}

// flush is one call that has the server get all that the kernel still has to write.
type flush struct {
	done chan struct{}
	err  error // valid when done is closed
}

// flush has the server get all that the kernel still has to write to an exclusive volume, which
// must be so before its lease is given back. It waits no longer than the limit; what it has begun
// goes on, and the next call waits for the same.
func (d *Driver) flush(volume string, limit time.Duration) error {
	if u, ok := d.uses.table.Get(volume); !ok || u.Boot != d.host.boot {
		return nil
	}
	for _, f := range d.allFileSystems() {
		if h := f.holdingOf(volume); h != nil && h.lease.Over() == nil {
			return h.flush(limit)
		}
	}
	return nil
}

func (h *holding) flush(limit time.Duration) error {
	h.flushing.Lock()
	current := h.flushed
	if current == nil {
		current = &flush{done: make(chan struct{})}
		h.flushed = current
		h.f.d.stragglers.Go(func() {
			current.err = h.flushNow()
			h.flushing.Lock()
			h.flushed = nil
			h.flushing.Unlock()
			close(current.done)
		})
	}
	h.flushing.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-current.done:
		if current.err != nil { // trying again would not help
			h.f.d.log.WithField("volume", h.volume).Errorf("what its containers wrote last may not be on the file system: %v", current.err)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("what its containers wrote is not on the file system yet: %w", errSilent)
	}
}

// flushNow syncs by the root mount, else by the volume's own, which not every export lets root
// open.
func (h *holding) flushNow() error {
	if s := h.transport.established(); s != nil && s.use() {
		defer s.release()
		if err := s.root.Dir().SyncAll(); err == nil {
			return nil
		}
	}
	dir, err := tree.Open(h.f.d.mountpoint(h.volume))
	if err != nil {
		return err
	}
	return errors.Join(dir.SyncAll(), dir.Close())
}

// unmount gives the root mount up and waits until the kernel has taken leave of the server, not
// forever: all is written.
func (h *holding) unmount() {
	s := h.transport.established()
	if s == nil {
		return
	}
	h.transport.reset(s)
	timer := time.NewTimer(detachLimit)
	defer timer.Stop()
	select {
	case <-s.root.Finished():
	case <-timer.C:
	}
}
