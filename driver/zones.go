package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// zones is what outlives a restart of the plugin of where file systems are: mounts go on meanwhile, and each
// move may cost them locks.
type zones struct {
	positions *state.Table[position] // to which a file system was moved last, by its name
	// origins are the addresses by which the kernel's NFS clients of direct root mounts were made, by their
	// identities. The kernel knows a client by it wherever that was moved (nfs_match_client), and would make
	// another one for a mount by the address where it is now: what containers have could not be moved any more.
	origins *state.Table[position]
	drained *state.Table[time.Time] // since when, by zone
}

// position is a mount target's address.
type position struct {
	Boot string         `json:"boot"` // after a reboot nothing is mounted that could be moved
	Addr netip.AddrPort `json:"address"`
}

// position is where the file system was in an earlier run, zero if it was not moved since the boot or nothing
// uses it any more: then home costs nobody a lock.
func (f *fileSystem) position() netip.AddrPort {
	kept, ok := f.d.zones.positions.Get(f.spec.String())
	switch {
	case !ok:
	case kept.Boot == f.d.host.boot && f.d.fileSystemsInUse()[f]:
		return kept.Addr
	default: // or the next start would go there, from home
		if err := f.d.zones.positions.Delete(f.spec.String()); err != nil {
			f.d.log.WithField("filesystem", f.spec).Errorf("forget its mount target: %v", err)
		}
	}
	return netip.AddrPort{}
}

// keepPosition remembers where the file system is now, in the background: what else is to be moved does not wait
// for this host's disk. It is called in the order of moves.
func (f *fileSystem) keepPosition(now proxy.Target) {
	f.place.latest.Store(&now.Addr)
	f.d.spawn(func() {
		f.place.keeping.Lock()
		defer f.place.keeping.Unlock()
		latest := position{f.d.host.boot, *f.place.latest.Load()}
		if kept, _ := f.d.zones.positions.Get(f.spec.String()); kept == latest {
			return
		}
		if err := f.d.zones.positions.Put(f.spec.String(), latest); err != nil {
			f.d.log.WithField("filesystem", f.spec).Errorf("remember its mount target: %v", err)
		}
	})
}

// place is where a file system is, for the next start to know.
type place struct {
	latest  atomic.Pointer[netip.AddrPort] // by the latest move
	keeping sync.Mutex                     // held by who writes that to this host's disk
}

// origin is the address by which the kernel knows the transport's NFS client, if containers still have it
// mounted; else zero.
func (t *transport) origin(ctx context.Context) netip.AddrPort {
	kept := t.usedOrigin()
	// A mount by a dead address waits for it, unless the client was moved.
	if kept.IsValid() && askTarget(ctx, t.fs.targetOf(kept), proxy.Ping) != nil && !t.fs.wasMoved(ctx, kept) {
		return netip.AddrPort{}
	}
	return kept
}

// usedOrigin is what was kept, if containers have a mount of that identity.
func (t *transport) usedOrigin() netip.AddrPort {
	f, identity := t.fs, t.identity(viaDirect)
	kept, ok := f.d.zones.origins.Get(identity)
	if !ok || kept.Boot != f.d.host.boot {
		return netip.AddrPort{}
	}
	for used := range f.usedTransports() {
		if used.lease == nil && used.via != viaRelay && !used.TLS && used.identity(viaDirect) == identity {
			return kept.Addr
		}
	}
	return netip.AddrPort{}
}

// wasMoved tells whether the kernel has nothing at an address any more, and something at the mount target in use,
// which answers.
func (f *fileSystem) wasMoved(ctx context.Context, from netip.AddrPort) bool {
	group := f.knownTargets()
	if group == nil || f.d.rpc == nil || askTarget(ctx, group.Current(), proxy.Ping) != nil {
		return false
	}
	all, err := f.d.rpc.Transports()
	at := func(addr netip.AddrPort) bool {
		return slices.ContainsFunc(all, func(t sunrpc.Transport) bool { return t.Server == addr.Addr() })
	}
	return err == nil && !at(from) && at(group.Current().Addr)
}

// isTarget tells whether an address is one of the file system's mount targets.
func (f *fileSystem) isTarget(addr netip.AddrPort) bool {
	group := f.knownTargets()
	return group != nil && slices.ContainsFunc(group.State().Targets, func(t proxy.TargetState) bool { return t.Addr == addr })
}

// keepOrigin keeps by which address the transport's client was made. The one that containers have stays known.
func (t *transport) keepOrigin(server netip.AddrPort) {
	if t.usedOrigin().IsValid() {
		return
	}
	if err := t.fs.d.zones.origins.Put(t.identity(viaDirect), position{t.fs.d.host.boot, server}); err != nil {
		t.fs.d.log.WithField("filesystem", t.fs.spec).Errorf("remember by which address it is mounted: %v", err)
	}
}

func (d *Driver) drainedZones() []string {
	return slices.Sorted(maps.Keys(d.zones.drained.All()))
}

// Drain leaves a zone's mount targets, also those of file systems that come into use later, or lets
// them be used again. It fails if no file system in use has that zone. After [proxy.ErrNotLeft] the zone
// is drained, and in use as long as there is no other.
func (d *Driver) Drain(zone string, on bool) error {
	var unknown error
	var notLeft []error
	_, found := d.zones.drained.Get(zone)
	for _, f := range d.allFileSystems() {
		group := f.knownTargets()
		if group == nil || f.spec.Kind == filesystem.Directory {
			continue
		}
		switch err := group.Drain(zone, on); {
		case errors.Is(err, proxy.ErrNotLeft):
			found, notLeft = true, append(notLeft, fmt.Errorf("file system %s: %w", f.spec, err))
		case err != nil:
			unknown = err
		default:
			found = true
		}
	}
	switch {
	case !found && unknown != nil:
		return unknown
	case !found:
		return errors.New("no file system with mount targets is in use on this host")
	}
	if err := d.keepDrained(zone, on); err != nil {
		return err
	}
	for _, f := range d.allFileSystems() { // one may have come into use meanwhile
		if group := f.knownTargets(); group != nil {
			_ = group.Drain(zone, on) // what it says was said before
		}
	}
	if on {
		notLeft = append(notLeft, d.awaitLeft(zone)...)
	}
	if len(notLeft) > 0 {
		return oneLine(notLeft)
	}
	return nil
}

func (d *Driver) keepDrained(zone string, on bool) error {
	if on {
		return d.zones.drained.Put(zone, time.Now().UTC().Truncate(time.Second))
	}
	return d.zones.drained.Delete(zone)
}

// leaveZoneLimit is how long a drain waits for the kernel to take direct mounts elsewhere.
const leaveZoneLimit = 3 * time.Second

// awaitLeft waits a while for direct mounts to leave a zone. One that has to stay is an error; one that is
// slow is not.
func (d *Driver) awaitLeft(zone string) (fixed []error) {
	for begun := time.Now(); ; {
		staying, fixed := d.stayingIn(zone)
		if len(fixed) > 0 || !staying || time.Since(begun) > leaveZoneLimit {
			return fixed
		}
		select {
		case <-time.After(steerCheck):
		case <-d.life.Done():
			return []error{d.life.Err()}
		}
	}
}

// stayingIn tells whether a direct mount is in a zone that its file system has left, and why if it has to be.
func (d *Driver) stayingIn(zone string) (staying bool, fixed []error) {
	for _, f := range d.allFileSystems() {
		group := f.knownTargets()
		if group == nil || group.Current().Zone == zone {
			continue
		}
		for _, s := range f.sessions() {
			if s.path != viaDirect || f.targetOf(s.serverNow()).Zone != zone {
				continue
			}
			staying = true
			if why := s.whyFixed(); why != "" {
				fixed = append(fixed, fmt.Errorf("file system %s: a direct mount stays in zone %s: %s", f.spec, zone, why))
			}
		}
	}
	return staying, fixed
}
