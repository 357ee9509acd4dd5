package driver

import (
	"maps"
	"slices"
	"time"
)

// An orphan is a holding of an earlier run whose volume is not mounted any more, as far as can be
// seen: docker plugin disable -f detaches every mount, and containers keep theirs. The kernel's NFS
// client is alive as long as one of them has it, and that shows in its connection to the relay.

const (
	orphanCheck = time.Second
	// orphanIdle is how long a living NFS client may have no connection: it renews its state
	// at the server each minute or so, and for that connects again.
	orphanIdle = 3 * time.Minute
	// orphanGone is how long that is after Docker said that a container has ended.
	orphanGone = 2 * time.Second
)

// keepOrphans keeps the leases of orphans until their NFS clients are gone.
func (d *Driver) keepOrphans() {
	for _, f := range d.allFileSystems() {
		f.mu.Lock()
		holdings := slices.Collect(maps.Values(f.holdings))
		f.mu.Unlock()
		for _, h := range holdings {
			if _, mounted := d.uses.table.Get(h.lease.Volume); !mounted {
				d.spawn(h.keepOrphan)
			}
		}
	}
}

// keepOrphan ends when the volume is in use again, or given back.
func (h *holding) keepOrphan() {
	d, volume := h.f.d, h.lease.Volume
	if err := h.f.presence.announce(d.life, volume, false); err != nil && d.life.Err() == nil {
		d.log.WithField("volume", volume).Warnf("tell other hosts that containers here still use it: %v; it is tried again", err)
	}
	tick := time.NewTicker(orphanCheck)
	defer tick.Stop()
	for idle := time.Duration(0); h.lease.Over() == nil; {
		select {
		case <-tick.C:
		case <-h.left:
			return
		case <-d.life.Done():
			return
		}
		if _, mounted := d.uses.table.Get(volume); mounted {
			return
		}
		if idle += orphanCheck; h.isConnected() {
			idle = 0
		}
		if idle >= orphanIdle || h.unmounted.Load() && idle >= orphanGone {
			h.leaveInTurn()
			return
		}
	}
}

// isConnected tells whether the kernel's NFS client has a connection to the relay.
func (h *holding) isConnected() bool {
	one := h.f.d.relays.find(h.transport.identity(viaRelay))
	return one != nil && one.Stats().Conns > 0
}

func (h *holding) leaveInTurn() {
	d, volume := h.f.d, h.lease.Volume
	release, err := d.turns.take(d.life, volume)
	if err != nil {
		return
	}
	defer release()
	d.leave(volume)
}

// noteUnmount is told that Docker has taken a mount away that is not counted.
func (d *Driver) noteUnmount(volume string) {
	for _, f := range d.allFileSystems() {
		if h := f.holdingOf(volume); h != nil {
			h.unmounted.Store(true)
		}
	}
}
