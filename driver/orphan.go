package driver

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
)

// An orphan is a holding of an earlier run whose volume is not mounted any more, as far as can be
// seen: docker plugin disable -f detaches every mount, and containers keep theirs. The kernel's NFS
// client is alive as long as one of them has it, and that shows in its connection to the relay.

const (
	orphanCheck = time.Second
	// orphanIdle is how long a living NFS client may have no connection: it renews its state
	// at the server each minute or so, and for that connects again.
	orphanIdle = 3 * time.Minute
	// orphanGone is how long that is after Docker said that a container has ended, and for a client that
	// the kernel does not show any more.
	orphanGone = 2 * time.Second
	// orphanTold is for how long Docker's word counts where the kernel does not show its NFS clients: there may
	// be another container.
	orphanTold = 30 * time.Second
)

// keepOrphans keeps the leases of orphans until their NFS clients are gone.
func (d *Driver) keepOrphans() {
	for _, f := range d.allFileSystems() {
		f.mu.Lock()
		holdings := slices.Collect(maps.Values(f.holdings))
		f.mu.Unlock()
		for _, h := range holdings {
			if _, mounted := d.uses.table.Get(h.volume); !mounted {
				d.spawn(h.keepOrphan)
			}
		}
	}
}

// keepOrphan ends when the volume is in use again, or given back.
func (h *holding) keepOrphan() {
	if !h.orphan.CompareAndSwap(false, true) {
		return
	}
	defer h.orphan.Store(false)
	d := h.f.d
	if err := h.f.presence.announce(d.life, h.volume, false); err != nil && d.life.Err() == nil {
		d.log.WithField("volume", h.volume).Warnf("tell other hosts that containers here may still use it: %v; it is tried again", err)
	}
	relays, identity := &d.relays, h.transport.identity(viaRelay)
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
		if _, mounted := d.uses.table.Get(h.volume); mounted {
			return // its end comes back here
		}
		h.unmount() // this run's own: what is connected then is the containers'
		if idle += orphanCheck; relays.isConnected(identity) {
			idle = 0
		}
		told := time.Since(time.Unix(h.unmounted.Load(), 0)) < orphanTold
		gone, seen := relays.clientIsGone(identity)
		if idle >= orphanIdle || idle >= orphanGone && (gone || told && !seen) {
			h.leaveInTurn(h.f.spawnLeave)
			return
		}
	}
}

// isConnected tells whether the kernel's NFS client has a connection to the relay.
func (r *relays) isConnected(identity string) bool {
	one := r.find(identity)
	return one != nil && one.Stats().Conns > 0
}

// clientIsGone tells whether the kernel has no NFS client of the relay any more, as after an Engine that
// was killed: its successor ends the containers and says nothing. Older kernels are not seen to have any.
func (r *relays) clientIsGone(identity string) (gone, seen bool) {
	one, table := r.find(identity), r.d.rpc
	if one == nil || table == nil {
		return false, false
	}
	transports, err := table.Transports()
	if err != nil {
		return false, !errors.Is(err, sunrpc.ErrUnsupported)
	}
	return !slices.ContainsFunc(transports, func(t sunrpc.Transport) bool { return mayBeClientOf(t, one.addr) }), true
}

// mayBeClientOf tells whether a transport of the kernel may be one to the relay. Without a connection
// it does not show its port, so that one to any relay is taken for one to this.
func mayBeClientOf(t sunrpc.Transport, relay netip.AddrPort) bool {
	return t.Server == relay.Addr() && (!t.Connected || t.ServerPort == relay.Port())
}

// leaveInTurn has a lease given back unless its volume is mounted by then.
func (h *holding) leaveInTurn(leave func(*holding)) {
	d := h.f.d
	release, err := d.turns.take(d.life, h.volume)
	if err != nil {
		return
	}
	defer release()
	if _, mounted := d.uses.table.Get(h.volume); !mounted {
		leave(h)
	}
}

// noteUnmount is told that Docker has taken a mount away, of which none may be counted.
func (d *Driver) noteUnmount(volume string) {
	for _, f := range d.allFileSystems() {
		if h := f.holdingOf(volume); h != nil {
			h.unmounted.Store(time.Now().Unix())
		}
	}
}
