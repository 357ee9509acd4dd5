package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/relay"
)

// Listeners outlive the process that serves them; see package keeper.
type Listeners interface {
	// Listener returns what is kept under a name, nil if nothing is. It is the caller's.
	Listener(name string) net.Listener
	// Keep has a listener kept under a name.
	Keep(name string, listener net.Listener) error
	// Drop ends that.
	Drop(name string) error
}

// endpoint is a relayed transport's place on this host. It outlives crashes, upgrades
// and disable -f: mounts in running containers connect there again.
type endpoint struct {
	FileSystem string         `json:"filesystem"`
	Port       uint16         `json:"port"`
	Boot       string         `json:"boot"`
	Targets    []proxy.Target `json:"targets"`
	HomeZone   string         `json:"home_zone,omitempty"`
	// Protection is what the relay gives to the bytes, in the file system's Region.
	Protection protection `json:"protection,omitzero"`
	Region     string     `json:"region,omitempty"`
	// Lease is the key of an exclusive volume's lease, Tenure this host's.
	Lease  string       `json:"lease,omitempty"`
	Tenure lease.Tenure `json:"tenure,omitzero"`
	// Lost: another host has taken it, and this relay is there for what the kernel still wants of it.
	Lost *lease.LostError `json:"lost,omitempty"`
}

// address is where the relay listens.
func (e endpoint) address() netip.AddrPort {
	return netip.AddrPortFrom(relayAddress(e.Lease != ""), e.Port)
}

// finds tells whether the next start opens the same relay by what is kept of it already: mount targets are found anew.
func (e endpoint) finds(now endpoint) bool {
	return e.Boot == now.Boot && e.Port == now.Port && e.Protection == now.Protection && e.Region == now.Region &&
		e.Lease == now.Lease && e.Tenure == now.Tenure && (e.Lost == nil || now.Lost != nil) // that is found anew
}

// relays are the relays that run on this host, by their transport's identity.
type relays struct {
	d         *Driver
	endpoints *state.Table[endpoint]
	turns     turns // of identities: who opens or closes a relay may wait for the disk, and nobody else for them

	mu      sync.Mutex // guards the following fields; held for moments only: fences wait for it
	running map[string]*relayed
	ended   map[*fileSystem]*relay.Stats // what those counted that were closed
}

func newRelays(d *Driver) relays {
	return relays{d: d, running: map[string]*relayed{}, ended: map[*fileSystem]*relay.Stats{}}
}

type relayed struct {
	*relay.Relay
	fs         *fileSystem
	addr       netip.AddrPort
	protection protection
	listener   net.Listener
}

// gate lets bytes pass as long as this host has a lease, from the kernel's NFS client of that
// lease: the one that others evict.
type gate struct {
	*lease.Lease
	owner string
}

// IsRelay tells whether a listener that is kept by that name is a relay's; see [Listeners].
func IsRelay(name string) bool { return strings.HasPrefix(name, relayPrefix) }

// Introduce implements [relay.Gate].
func (g gate) Introduce(owner []byte) error {
	if string(owner) != g.owner {
		return identifiedError(owner)
	}
	return nil
}

// identifiedError reports an NFS client whose name for servers is not the one that other hosts would evict.
type identifiedError string

func (e identifiedError) Error() string {
	return fmt.Sprintf("the kernel introduces itself as %q, which other hosts could not evict: unset the NFS client's identifier on this host (nfs4_unique_id, or nfs_client/identifier in sysfs)", string(e))
}

// checkIdentifier looks for that before there is a mount: the kernel would try it again for ever, and have
// all that need a new NFS client wait.
func (d *Driver) checkIdentifier() error {
	if d.rpc == nil {
		return nil
	}
	id, err := d.rpc.Identifier()
	if err == nil && id != "" {
		err = identifiedError(id)
	}
	return err
}

// errRelayClosed keeps what comes late from opening what was closed with its lease.
var errRelayClosed = errors.New("the relay was closed")

const (
	// takenAgain is how often a port is tried that another process has taken.
	takenAgain = 500 * time.Millisecond
	// relayPrefix is what a relay's listener is called in [Listeners].
	relayPrefix = "relay/"
)

// reopen serves the relays of an earlier run, before anything else is done: the
// kernel's clients of running containers' mounts are waiting. Those of an earlier
// boot are nobody's.
func (r *relays) reopen() {
	all := r.endpoints.All()
	for _, identity := range r.inOrder(all) {
		e := all[identity]
		spec, err := filesystem.Parse(e.FileSystem)
		if e.Boot != r.d.host.boot || err != nil || len(e.Targets) == 0 {
			if err := r.endpoints.Delete(identity); err != nil {
				r.d.log.Errorf("forget a relay: %v", err)
			}
			continue
		}
		f := r.d.fileSystem(spec)
		f.useTargets(r.latest(f, e), true)
		if h := f.holdingOf(catalog.VolumeOf(e.Lease)); h != nil && e.Lost == nil {
			r.d.log.WithField("filesystem", spec).Warnf("two leases of volume %s are left of an earlier run", h.volume)
			e.Lost = &lease.LostError{Volume: e.Lease}
			r.keepLost(identity, e.Lost) // a crash came before that was done
		}
		l := r.leaseOf(f, identity, e)
		if _, err := r.open(identity, f, e.Protection, e.Region, l); err != nil {
			r.d.log.WithField("filesystem", spec).Errorf("relay at port %d: %v; trying again", e.Port, err)
			r.d.spawn(func() { r.openLater(identity, f, e, l) })
		}
	}
}

// inOrder are the relays' identities, of one volume's first that of the lease that the volume has now. A
// volume has one holding.
func (r *relays) inOrder(all map[string]endpoint) []string {
	isOlder := func(e endpoint) int {
		k, _ := r.d.known.Get(catalog.VolumeOf(e.Lease))
		switch {
		case e.Lost != nil:
			return 2
		case e.Lease != k.Record.LeaseKey():
			return 1
		}
		return 0
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(isOlder(all[a]), isOlder(all[b])), cmp.Compare(all[b].Tenure.Epoch, all[a].Tenure.Epoch))
	})
}

// leaseOf is the lease that a relay of an earlier run has, nil if it needs none. One that was lost is over, and
// nobody's: whoever uses the volume may have it by another.
func (r *relays) leaseOf(f *fileSystem, identity string, e endpoint) *lease.Lease {
	if e.Lost == nil {
		return f.adopt(identity, e)
	}
	l := f.leases.Adopt(e.Lease, e.Tenure)
	l.End(e.Lost)
	f.leases.Forget(l)
	volume := catalog.VolumeOf(e.Lease)
	if k, known := r.d.known.Get(volume); known && k.Record.LeaseKey() == e.Lease && !r.d.isHeld(volume) {
		r.d.setTrouble(volume, troubleOf(e.Lost))
		r.d.endUse(volume)
	}
	r.d.cutOff(volume, e.address())
	r.d.spawn(func() { r.seeOff(identity) })
	return l
}

// keepLost remembers that a relay's lease was lost. If the disk does not take it, the next start finds the lease lost anew.
func (r *relays) keepLost(identity string, why *lease.LostError) {
	release, err := r.turns.take(r.d.life, identity)
	if err != nil {
		return
	}
	defer release()
	e, kept := r.endpoints.Get(identity)
	if !kept {
		return
	}
	e.Lost = why
	if err := r.endpoints.Put(identity, e); err != nil {
		r.d.log.Errorf("remember that the lease of a relay was lost: %v", err)
	}
}

// latest are the newest mount targets that are known without asking anybody.
func (r *relays) latest(f *fileSystem, e endpoint) whereabouts {
	if f.static() {
		return whereabouts{Targets: r.d.options.Targets, Source: sourceSettings, HomeZone: e.HomeZone}
	}
	if kept, ok := r.d.targets.Get(f.spec.String()); ok && len(kept.Targets) > 0 {
		return kept
	}
	return whereabouts{Targets: e.Targets, HomeZone: e.HomeZone}
}

// openLater waits for a port that another process has taken.
func (r *relays) openLater(identity string, f *fileSystem, e endpoint, l *lease.Lease) {
	tick := time.NewTicker(takenAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, err := r.open(identity, f, e.Protection, e.Region, l)
			if err == nil {
				r.d.log.WithField("filesystem", f.spec).Info("the relay has its port again")
				return
			}
			if errors.Is(err, errRelayClosed) {
				return
			}
		case <-r.d.life.Done():
			return
		}
	}
}

// open returns the address of a transport's relay, which it starts if need be. The file
// system's targets must be known. With a lease, bytes pass as long as this host has it.
func (r *relays) open(identity string, f *fileSystem, p protection, region string, l *lease.Lease) (netip.AddrPort, error) {
	release, err := r.turns.take(r.d.life, identity)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer release()
	if one := r.find(identity); one != nil {
		return one.addr, nil
	}
	e, kept := r.endpoints.Get(identity)
	if l != nil && l.Over() != nil && !(kept && isLost(l)) {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", errRelayClosed, l.Over())
	}
	listener, err := r.listen(identity, netip.AddrPortFrom(relayAddress(l != nil), e.Port))
	if err != nil {
		return netip.AddrPort{}, err
	}
	one := r.prepare(identity, f, p, region, l, listener)
	now := one.endpoint(region, l)
	if err := r.endpoints.Put(identity, now); err != nil {
		if !e.finds(now) {
			return netip.AddrPort{}, errors.Join(err, listener.Close(), r.drop(identity))
		}
		r.d.log.WithField("filesystem", f.spec).Errorf("remember the relay at %s anew: %v; what is known of it from before will do", one.addr, err)
	}
	r.mu.Lock()
	r.running[identity] = one
	r.mu.Unlock()
	r.d.spawn(func() {
		defer listener.Close() // this process's copy; whoever keeps it has another
		if err := one.Serve(r.d.life, listener); err != nil && r.d.life.Err() == nil {
			r.d.log.WithField("filesystem", f.spec).Errorf("relay at %s: %v", one.addr, err)
		}
	})
	return one.addr, nil
}

// prepare makes a transport's relay, which is not served yet.
func (r *relays) prepare(identity string, f *fileSystem, p protection, region string, l *lease.Lease, listener *net.TCPListener) *relayed {
	addr := listener.Addr().(*net.TCPAddr).AddrPort()
	one := &relayed{
		Relay: &relay.Relay{Group: f.knownTargets(), Admit: r.d.admit, Log: r.d.log.WithField("filesystem", f.spec)},
		fs:    f, protection: p, listener: listener, addr: netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()),
	}
	if l != nil {
		one.Gate = gate{l, clientOwner + identity}
	}
	if p.TLS {
		one.Secure = f.d.tls.of(f.spec, p, region).Secure
		f.checkByTLS(region)
	}
	return one
}

// whyOver tells why it passes nothing any more, "" if it does.
func (one *relayed) whyOver() string {
	if g, gated := one.Gate.(gate); gated && g.Over() != nil {
		return g.Over().Error() + ": what the kernel still wants of it gets errors"
	}
	return ""
}

// endpoint is what the next start needs to open the relay again.
func (one *relayed) endpoint(region string, l *lease.Lease) endpoint {
	group := one.fs.knownTargets().State()
	e := endpoint{
		FileSystem: one.fs.spec.String(), Port: one.addr.Port(), Boot: one.fs.d.host.boot, HomeZone: group.Home, Protection: one.protection, Region: region,
	}
	for _, t := range group.Targets {
		e.Targets = append(e.Targets, t.Target)
	}
	if l != nil {
		e.Lease, e.Tenure = l.Volume, l.Tenure
		if lost := new(lease.LostError); errors.As(l.Over(), &lost) {
			e.Lost = lost
		}
	}
	return e
}

// isLost tells whether another host has taken a lease.
func isLost(l *lease.Lease) bool { return errors.As(l.Over(), new(*lease.LostError)) }

// relayAddress is where relays listen. Those with a gate have an address of their own: while the plugin
// is disabled nobody has their ports, and the kernel goes on to connect to that of a lease that was
// lost. Whoever gets that port next must have a gate as well.
func relayAddress(gated bool) netip.Addr {
	if gated {
		return netip.AddrFrom4([4]byte{127, 0, 0, 2})
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// listen finds the listener of an earlier worker, or listens on the port of an earlier
// run, or on a free one.
func (r *relays) listen(identity string, addr netip.AddrPort) (*net.TCPListener, error) {
	kept := r.d.options.Listeners
	if kept != nil {
		if listener, ok := kept.Listener(relayPrefix + identity).(*net.TCPListener); ok {
			return listener, nil
		}
	}
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(addr))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: another process has the port that mounts of running containers connect to: end it", err)
	}
	if err != nil {
		return nil, err
	}
	if kept != nil {
		if err := kept.Keep(relayPrefix+identity, listener); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	return listener, nil
}

// address is where a transport's relay listens, or listened last.
func (r *relays) address(identity string) netip.AddrPort {
	if one := r.find(identity); one != nil {
		return one.addr
	}
	e, _ := r.endpoints.Get(identity)
	return e.address()
}

// find returns a transport's relay, nil if it does not run.
func (r *relays) find(identity string) *relayed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[identity]
}

// drop has a listener kept no more.
func (r *relays) drop(identity string) error {
	if kept := r.d.options.Listeners; kept != nil {
		return kept.Drop(relayPrefix + identity)
	}
	return nil
}

// close ends a transport's relay for good: whoever still wants to connect is refused. A call that
// is just opening it comes to its end before.
func (r *relays) close(identity string) {
	release, _ := r.turns.take(context.Background(), identity) // which does not end
	defer release()
	r.mu.Lock()
	one := r.running[identity]
	delete(r.running, identity)
	if one != nil {
		r.countEnded(one)
	}
	r.mu.Unlock()
	if err := r.endpoints.Delete(identity); err != nil {
		r.d.log.Errorf("forget a relay: %v", err)
	}
	if err := r.drop(identity); err != nil {
		r.d.log.Errorf("close a relay: %v", err)
	}
	if one == nil {
		return
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = one.Shutdown(now) // its error is that there were pairs
	_ = one.listener.Close()
}

// countEnded keeps what a relay has counted. The caller holds mu.
func (r *relays) countEnded(one *relayed) {
	sum := r.ended[one.fs]
	if sum == nil {
		sum = &relay.Stats{}
		r.ended[one.fs] = sum
	}
	sum.AddCounters(one.Stats())
}

// of are a file system's relays that run, and what those have counted that were closed, nil if none was. Each is
// in one of the two.
func (r *relays) of(f *fileSystem) (running []*relayed, ended *relay.Stats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.running {
		if one.fs == f {
			running = append(running, one)
		}
	}
	if r.ended[f] != nil {
		ended = &relay.Stats{}
		ended.AddCounters(*r.ended[f])
	}
	return running, ended
}

// all are the relays that run.
func (r *relays) all() []*relayed {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*relayed, 0, len(r.running))
	for _, one := range r.running {
		all = append(all, one)
	}
	return all
}

// shutdown ends the pairs at once: the kernel's clients connect again, to the next
// worker or after the next start. The listeners stay with whoever keeps them.
func (r *relays) shutdown() {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for _, one := range r.all() {
		_ = one.Shutdown(now) // its error is that there were pairs
	}
}
