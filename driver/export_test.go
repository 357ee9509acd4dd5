package driver

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

// AwaitStragglers waits for calls that were left behind on a file system. Where a test
// keeps one from answering, they do not end, and the limit does.
func (d *Driver) AwaitStragglers(limit time.Duration) {
	for end := time.Now().Add(limit); d.stragglers.running.Load() > 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// AskHome asks the home file system's catalogue a question, as every call does; undo is told of a
// late success.
func (d *Driver) AskHome(ctx context.Context, question func(context.Context) error, undo func()) error {
	return askBy(ctx, d.home().main(), question, undo)
}

// AskBy asks a question by the transport of a volume that is mounted.
func (d *Driver) AskBy(ctx context.Context, volume string, question func(context.Context) error) error {
	k, _ := d.known.Get(volume)
	return askBy(ctx, d.home().mountedBy(k.Record), question, nil)
}

func askBy(ctx context.Context, t *transport, question func(context.Context) error, undo func()) error {
	_, err := ask(ctx, t, func(ctx context.Context) (struct{}, error) { return struct{}{}, question(ctx) },
		func(struct{}) {
			if undo != nil {
				undo()
			}
		})
	return err
}

// GoesOn tells whether an error says that a question was left behind, and it has not ended.
func GoesOn(err error) bool {
	var left leftBehind
	return errors.As(err, &left) && !left.isOver()
}

// FinishCreating does what Create and Mount do with a volume that is half made.
func (d *Driver) FinishCreating(ctx context.Context, name string) error {
	record, err := d.home().record(context.WithoutCancel(ctx), name)
	if err == nil {
		_, err = d.home().finishCreating(ctx, record)
	}
	return err
}

// LateRemoval is a removal that was cut off when it had read the record, and goes on when it is called.
func (d *Driver) LateRemoval(ctx context.Context, name string) (goOn func() error) {
	f := d.home()
	record, err := f.record(ctx, name)
	return func() error {
		if err != nil {
			return err
		}
		_, err := withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
			return struct{}{}, f.finishRemoving(c, record, f.presence.refuseUsed(c, name))
		})
		return err
	}
}

// RemovalLeftBehind is what the server is still asked when a removal was given up while it was silent.
func (d *Driver) RemovalLeftBehind(ctx context.Context, name string) error {
	f := d.home()
	_, err := withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, _ *session) (leftover, error) {
		return f.removeData(ctx, c, name)
	})
	return err
}

// RemoveLate is what a removal does after its look at who uses the volume.
func (d *Driver) RemoveLate(ctx context.Context, name string) error {
	return d.home().removeUnused(ctx, name)
}

// FreeLease is what a removal does that has found a lease, however late.
func (d *Driver) FreeLease(ctx context.Context, name string) error {
	return d.home().freeLease(ctx, name)
}

// Pace returns what a deletion in the background waits for between two files, without the limit of files in a second.
func Pace() func(context.Context) error {
	p := pace{rate.NewLimiter(rate.Inf, 0), time.Now()}
	return p.next
}

// LookSlowly looks at the other hosts' entries, and has something happen before what it found counts.
func (d *Driver) LookSlowly(ctx context.Context, meanwhile func()) error {
	p := d.home().presence
	_, err := withCatalog(ctx, d.home(), func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		number, before := p.beginLook()
		all, err := c.Hosts(before)
		meanwhile()
		p.saw(number, all)
		return struct{}{}, err
	})
	return err
}

// TakeBack does what Restore does with what it brought back to a name that was taken meanwhile.
func (d *Driver) TakeBack(ctx context.Context, id, name string) error {
	return d.home().takeBack(ctx, id, name)
}

// RecordsKept is how many records are kept as they were last read.
func (d *Driver) RecordsKept() int {
	n := 0
	for _, f := range d.allFileSystems() {
		f.mu.Lock()
		n += len(f.found)
		f.mu.Unlock()
	}
	return n
}

// IsUsed tells whether containers have a volume, or had it when the plugin was disabled.
func (d *Driver) IsUsed(volume string) bool { return d.uses.has(volume) }

// RelaysKept is how many relays the next start would open again.
func (d *Driver) RelaysKept() int { return len(d.relays.endpoints.All()) }

// OpenRelay opens a relay to the home file system by an identity of its own, as a mount does.
func (d *Driver) OpenRelay(ctx context.Context, identity string) (netip.AddrPort, error) {
	if _, err := d.home().mountTargets(ctx); err != nil {
		return netip.AddrPort{}, err
	}
	return d.relays.open(identity, d.home(), protection{}, "", nil)
}

// CloseRelay ends it for good.
func (d *Driver) CloseRelay(identity string) { d.relays.close(identity) }

// RelaysRunning are the addresses of relays that run.
func (d *Driver) RelaysRunning() []netip.AddrPort {
	var all []netip.AddrPort
	for _, one := range d.relays.all() {
		all = append(all, one.addr)
	}
	return all
}

// HangRelays has what writes the file of the relays wait, as for a disk that hangs, until the result is called.
func (d *Driver) HangRelays() (release func()) {
	return hangTable(d.relays.endpoints)
}

// HangPositions has what writes the file of the mount targets in use wait in the same way.
func (d *Driver) HangPositions() (release func()) { return hangTable(d.zones.positions) }

func hangTable(table any) (release func()) {
	writing := reflect.ValueOf(table).Elem().FieldByName("writing")
	lock := (*sync.Mutex)(writing.Addr().UnsafePointer())
	lock.Lock()
	return lock.Unlock
}

// FenceVolume ends what the relay of an exclusive volume passes, as when its lease could not be renewed in time.
func (d *Driver) FenceVolume(name string) { d.home().holdingOf(name).fence() }

// CheckTrash is the look at the home file system's trash that comes once an hour.
func (d *Driver) CheckTrash(ctx context.Context) {
	f := d.home()
	for !f.checking.CompareAndSwap(false, true) || f.emptying.Load() {
		f.checking.CompareAndSwap(true, false)
		time.Sleep(time.Millisecond)
	}
	defer f.checking.Store(false)
	f.emptied = time.Time{}
	d.checkTrash(ctx, f)
}

// SaveWhileAnotherWrites saves the ends of uses while a call waits for this host's disk.
func (d *Driver) SaveWhileAnotherWrites() error {
	d.uses.mu.Lock()
	defer d.uses.mu.Unlock()
	return d.uses.trySave()
}

// WithdrawAfter is how long a volume counts as in use after its last use.
const WithdrawAfter = withdrawAfter

// TrashAtOnce is how many entries of the trash one question reads or condemns.
const TrashAtOnce = trashAtOnce

// KeepsPort is why via=auto takes a relay for mount targets with several ports.
var KeepsPort = keepsPort

// MayBeClientOf is what gives an exclusive volume's lease back.
var MayBeClientOf = mayBeClientOf

// CloseRelays ends all relays for good, as that of a lease that is given back.
func (d *Driver) CloseRelays() {
	for identity := range d.relays.endpoints.All() {
		d.relays.close(identity)
	}
}

// UsedServers are the addresses of mounts that are not shut down if the driver's end takes too long.
func (d *Driver) UsedServers() []netip.AddrPort {
	var servers []netip.AddrPort
	for _, f := range d.allFileSystems() {
		for t := range f.usedTransports() {
			if s := t.established(); s != nil {
				servers = append(servers, s.serverNow())
			}
		}
	}
	return servers
}

// ExplainSessions is what doctor says of a mount target and the first.
var ExplainSessions = explainSessions
