package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// learnAtOnce is how many records a refresh reads before it keeps them: a host
// that sees 10,000 volumes for the first time shows them as it goes.
const learnAtOnce = 64

// watch looks after file systems and mounts until the Driver closes.
func (d *Driver) watch() {
	tick := time.NewTicker(d.options.Check)
	defer tick.Stop()
	for {
		_ = d.uses.trySave() // it was logged, and the next tick tries again
		d.check(d.life)
		select {
		case <-tick.C:
		case <-d.life.Done():
			return
		}
	}
}

// check asks every file system in use whether it answers, each on its own, and
// learns what other hosts have changed.
func (d *Driver) check(ctx context.Context) {
	if d.options.Misconfigured != nil {
		return
	}
	d.home()
	inUse := d.fileSystemsInUse()
	for _, f := range d.allFileSystems() {
		d.spawn(func() { d.checkFileSystem(ctx, f, inUse[f]) })
	}
}

// fileSystemsInUse are those of volumes that containers here use. After a start they are connected again
// without a call for them: else the other hosts would take this one for dead.
func (d *Driver) fileSystemsInUse() map[*fileSystem]bool {
	inUse := map[*fileSystem]bool{}
	for _, k := range d.inUse() {
		if f, err := d.fileSystemOf(k); err == nil {
			inUse[f] = true
		}
	}
	return inUse
}

// inUse are the known volumes that containers here use, counted or not.
func (d *Driver) inUse() map[string]knowledge {
	inUse := map[string]knowledge{}
	for _, uses := range []*state.Table[use]{d.uses.table, d.uses.uncounted} {
		for name, u := range uses.All() {
			if k, known := d.known.Get(name); known && u.total() > 0 {
				inUse[name] = k
			}
		}
	}
	return inUse
}

// checkFileSystem is run by one goroutine for each file system at a time.
func (d *Driver) checkFileSystem(ctx context.Context, f *fileSystem, inUse bool) {
	if !f.checking.CompareAndSwap(false, true) {
		return
	}
	defer f.checking.Store(false)
	var err error
	if f == d.home() {
		err = d.refresh(ctx)
	} else if inUse || f.main().established() != nil {
		_, err = withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (tree.Stamp, error) { return c.Stamp() })
	}
	if d.life.Err() != nil {
		return
	}
	if err != nil || f.main().established() != nil {
		f.note(err)
	}
	if err == nil {
		d.checkPresence(ctx, f)
		d.checkTrash(ctx, f)
		d.checkTransports(ctx, f)
	}
}

// reachAgain is when a transport is tried again that could not be connected without a call.
const reachAgain = 5 * time.Minute

// reach connects a transport again that containers have, also uncounted ones: what has no session is not
// moved to another zone.
func (t *transport) reach() {
	if t.lease == nil && t.established() == nil && !t.refusedLately() && t.mayReach() {
		_, _ = t.current() // what keeps it from working is noted
	}
}

func (t *transport) mayReach() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reached.IsZero() && time.Since(t.reached) < reachAgain {
		return false
	}
	t.reached = time.Now()
	return true
}

// checkPresence renews this host's entry and looks at the others'.
func (d *Driver) checkPresence(ctx context.Context, f *fileSystem) {
	if f.main().established() == nil {
		return
	}
	if err := errors.Join(f.presence.renew(ctx), f.presence.lookNow(ctx, lookEvery)); err != nil && d.life.Err() == nil {
		d.log.WithField("filesystem", f.spec).Warnf("which host uses what: %v", err)
	}
}

// refreshSoon refreshes what is known of the home file system, waiting for it no
// longer than patience, and not at all if the file system does not answer.
func (d *Driver) refreshSoon(ctx context.Context, patience time.Duration) {
	if d.options.Misconfigured != nil || !d.home().reachable() {
		return
	}
	done := make(chan struct{})
	begun := d.spawn(func() {
		defer close(done)
		if err := d.refresh(d.life); err != nil && d.life.Err() == nil {
			d.home().note(err)
		}
	})
	if !begun {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// refresh brings what is known of the home catalogue up to date. If nothing has
// changed there, it costs one question to the server.
func (d *Driver) refresh(ctx context.Context) error {
	home := d.home()
	if !home.refreshing.CompareAndSwap(false, true) {
		return nil
	}
	defer home.refreshing.Store(false)
	type listing struct {
		names   []string
		catalog string
		changed bool
		stamp   tree.Stamp
	}
	began := time.Now()
	l, err := withCatalog(ctx, home, func(_ context.Context, c *catalog.Catalog, _ *session) (listing, error) {
		stamp, err := c.Stamp()
		if err != nil || home.alreadyListed(stamp, began) {
			return listing{}, err
		}
		names, err := c.Names()
		return listing{names, c.ID(), true, stamp}, err
	})
	if err != nil || !l.changed {
		return err
	}
	whole, err := d.apply(ctx, home, l.names, l.catalog)
	if err == nil && whole {
		home.keepListed(l.stamp, began)
		d.amnesia.Store(false)
	}
	return err
}

func (f *fileSystem) alreadyListed(stamp tree.Stamp, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed.observe(stamp, now)
	return f.listed.whole
}

func (f *fileSystem) keepListed(stamp tree.Stamp, began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listed.stamp == stamp {
		f.listed.whole = f.listed.observe(stamp, began)
	}
}

// apply makes what is known agree with the names in a catalogue, and tells
// whether nothing had to be put off. What came from another catalogue is not touched:
// Docker may still refer to it.
func (d *Driver) apply(ctx context.Context, home *fileSystem, names []string, id string) (whole bool, err error) {
	listed := make(map[string]bool, len(names))
	var fresh []string
	known := d.known.All()
	for _, name := range names {
		listed[name] = true
		if k, ok := known[name]; !ok || k.Trouble != "" {
			fresh = append(fresh, name)
		}
	}
	whole = true
	for len(fresh) > 0 {
		batch := fresh[:min(len(fresh), learnAtOnce)]
		fresh = fresh[len(batch):]
		all, err := d.learnBatch(ctx, home, batch)
		if err != nil {
			return false, err
		}
		whole = whole && all
	}
	for name, k := range known {
		if k.Catalog == id && !listed[name] {
			forgotten, err := d.forgetRemoved(ctx, home, name)
			if err != nil {
				return false, err
			}
			whole = whole && forgotten
		}
	}
	return whole, nil
}

// learnBatch learns some volumes, and tells whether all could be read. One that
// cannot (the server refuses it, say) does not keep the others.
func (d *Driver) learnBatch(ctx context.Context, home *fileSystem, names []string) (all bool, err error) {
	type answer struct {
		learned map[string]knowledge
		failed  error
	}
	a, err := withCatalog(ctx, home, func(ctx context.Context, c *catalog.Catalog, _ *session) (answer, error) {
		a := answer{learned: make(map[string]knowledge, len(names))}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return a, err
			}
			k, err := home.lookUp(c, name)
			switch {
			case errors.Is(err, catalog.ErrNotFound): // gone again
			case err != nil:
				a.failed = fmt.Errorf("record of volume %q: %w", name, err)
			default:
				a.learned[name] = k
			}
		}
		return a, nil
	})
	if err != nil {
		return false, err
	}
	if a.failed != nil {
		d.log.WithField("filesystem", home.spec).Warn(a.failed)
	}
	return a.failed == nil, d.learn(a.learned)
}

// turnLimit is how long news of a removal wait for a call at work on the volume.
const turnLimit = time.Second

// forgetRemoved forgets a volume that another host has removed. One that is in use
// here stays known, with that trouble. A call at work on the volume comes first:
// it may just have made it.
func (d *Driver) forgetRemoved(ctx context.Context, home *fileSystem, name string) (forgotten bool, err error) {
	turn, cancel := context.WithTimeout(ctx, turnLimit)
	defer cancel()
	release, err := d.turns.take(turn, name)
	if err != nil {
		return false, ctx.Err() // later
	}
	defer release()
	gone, err := withCatalog(ctx, home, func(_ context.Context, c *catalog.Catalog, _ *session) (bool, error) {
		_, err := c.Lookup(name)
		return errors.Is(err, catalog.ErrNotFound), nil // whatever else: it is there
	})
	if err != nil || !gone {
		return err == nil, err
	}
	if d.uses.has(name) {
		d.setTrouble(name, "another host has removed this volume while containers here use it")
		return false, nil
	}
	if k, _ := d.known.Get(name); k.Record.Options.AccessPoint == catalog.OwnAccessPoint {
		d.stopIdle(name)
		if err := d.detach(name, false); err != nil { // as long as its relay is there
			d.log.WithField("volume", name).Warnf("detach: %v", err)
			return false, nil
		}
	}
	return true, d.unlearn(name)
}

// checkTransports looks at the mounts of each transport in turn, and reaches it if it is in use. It does so
// beside the round: transports that hang hold up neither the others nor this host's sign of life.
func (d *Driver) checkTransports(ctx context.Context, f *fileSystem) {
	mounted, used := d.mountsOf(ctx, f), f.usedTransports()
	for t := range used {
		if _, ok := mounted[t]; !ok {
			mounted[t] = nil
		}
	}
	for t, records := range mounted {
		if !t.looking.CompareAndSwap(false, true) {
			continue
		}
		d.spawn(func() {
			defer t.looking.Store(false)
			d.checkMounts(ctx, t, records)
			if f.usedTransports()[t] { // still: one that was left may be gone for good
				t.reach()
			}
		})
	}
}

// mountsOf are the records of a file system's mounted volumes, by transport.
func (d *Driver) mountsOf(ctx context.Context, f *fileSystem) map[*transport][]catalog.Record {
	mounted := map[*transport][]catalog.Record{}
	for name := range d.uses.table.All() {
		k, ok := d.known.Get(name)
		if !ok || k.FileSystem != f.spec.String() {
			continue
		}
		record, err := f.record(ctx, name)
		if err != nil {
			continue // told by forgetRemoved, by Mount, or the file system's own trouble
		}
		if t := f.mountedBy(record); t != nil {
			mounted[t] = append(mounted[t], record)
		}
	}
	return mounted
}

// checkMounts notices mounted volumes whose directory is gone or was replaced.
// The next container's Mount heals what can be healed; until then Status says it.
func (d *Driver) checkMounts(ctx context.Context, t *transport, records []catalog.Record) {
	for _, record := range records {
		if _, mounted := d.uses.table.Get(record.Name); !mounted {
			continue // any more
		}
		if trouble, known := d.checkMount(ctx, t, record); known {
			d.setTrouble(record.Name, trouble)
		}
	}
}

// checkMount compares a volume's directory with what is mounted here; known is
// false if the file system did not say.
func (d *Driver) checkMount(ctx context.Context, t *transport, record catalog.Record) (trouble string, known bool) {
	if t.refusedLately() || t.lease != nil && !t.lease.Open() {
		return "", false
	}
	if _, why := t.silence(record.Name); why != nil {
		return "", false // told by that; another look would hang as well
	}
	dir, s, err := t.openDir(ctx, pathOn(record))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("its directory %s is gone from the file system: restore it there", record.Path), true
	}
	if err != nil {
		t.keepSilence(record.Name, err)
		return "", false
	}
	defer s.release()
	defer dir.Close()
	// Before the mountpoint is looked at: a mount that has just begun is there before it counts.
	u, _ := d.uses.table.Get(record.Name)
	now, err := dir.Identity()
	there, thereErr := tree.IdentityOf(d.mountpoint(record.Name))
	if err != nil || thereErr != nil {
		return "", false
	}
	if u.total() > 0 && (now.Inode != there.Inode || now.Handle != there.Handle) {
		return "its directory was replaced on the file system; running containers have the old one: restart them", true
	}
	return "", true
}

// reconcile makes counts and mount table agree after a start, and returns what is mounted. A
// count without its mount is void (the host was restarted, or Docker detached everything, and containers
// may go on); a mount without a count is for the caller to have detached after the warm time.
func (d *Driver) reconcile() (mounted map[string]bool, err error) {
	mounted, err = d.kernel.Under(filepath.Join(d.options.Data, volumesDir))
	if err != nil {
		return nil, err
	}
	for name, u := range d.uses.uncounted.All() {
		if u.Boot != d.host.boot {
			if err := d.uses.forgetUncounted(name); err != nil {
				return nil, err
			}
		}
	}
	for name, u := range d.uses.table.All() {
		if u.Boot != d.host.boot || !mounted[name] {
			if err := d.uses.void(name, u.Boot == d.host.boot); err != nil {
				return nil, err
			}
			_ = os.Remove(d.mountpoint(name))
			continue
		}
		if u.Unanswered != "" {
			if _, _, err := d.uses.release(name, u.Unanswered); err != nil {
				return nil, err
			}
		}
	}
	for name := range mounted {
		if _, ok := d.uses.table.Get(name); !ok {
			if err := d.uses.update(name, func(u *use) { u.Boot, u.Mounted = d.host.boot, time.Now().UTC() }); err != nil {
				return nil, err
			}
		}
	}
	return mounted, nil
}
