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
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// learnAtOnce is how many records a refresh reads before it keeps them: a host
// that sees 10,000 volumes for the first time shows them as it goes.
const learnAtOnce = 256

// watch looks after file systems and mounts until the Driver closes.
func (d *Driver) watch() {
	tick := time.NewTicker(d.options.Check)
	defer tick.Stop()
	d.sweepSoon(d.home())
	for {
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
	for _, f := range d.allFileSystems() {
		d.spawn(func() { d.checkFileSystem(ctx, f) })
	}
}

// checkFileSystem is run by one goroutine for each file system at a time: if the last
// one still waits, it has told already that there is trouble.
func (d *Driver) checkFileSystem(ctx context.Context, f *fileSystem) {
	if !f.checking.CompareAndSwap(false, true) {
		return
	}
	defer f.checking.Store(false)
	if f == d.home() {
		if err := d.refresh(ctx); err != nil {
			f.noteUnlessClosing(err)
			return
		}
	} else if f.transport(nil).established() != nil {
		if _, err := withCatalog(ctx, f, func(c *catalog.Catalog, _ *session) (tree.Stamp, error) { return c.Stamp() }); err != nil {
			f.noteUnlessClosing(err)
			return
		}
	}
	d.checkMounts(ctx, f)
}

func (f *fileSystem) noteUnlessClosing(err error) {
	if f.d.life.Err() == nil {
		f.note(err)
	}
}

// refreshSoon refreshes what is known of the home file system, waiting for it no
// longer than patience, and not at all if the file system is in trouble.
func (d *Driver) refreshSoon(ctx context.Context, patience time.Duration) {
	home := d.home()
	if _, trouble := home.health(); trouble != nil || home.transport(nil).established() == nil || d.options.Misconfigured != nil {
		return
	}
	done := make(chan struct{})
	d.spawn(func() {
		defer close(done)
		if err := d.refresh(d.life); err != nil {
			home.noteUnlessClosing(err)
		}
	})
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
	}
	l, err := withCatalog(ctx, home, func(c *catalog.Catalog, _ *session) (listing, error) {
		began := time.Now()
		stamp, err := c.Stamp()
		if err != nil || home.alreadyListed(stamp, began) {
			return listing{}, err
		}
		names, err := c.Names()
		if err == nil {
			home.keepListed(stamp, began)
		}
		return listing{names, c.ID(), true}, err
	})
	if err != nil || !l.changed {
		return err
	}
	return d.apply(ctx, home, l.names, l.catalog)
}

func (f *fileSystem) alreadyListed(stamp tree.Stamp, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.freshness.observe(stamp, now)
	return f.freshness.listed
}

func (f *fileSystem) keepListed(stamp tree.Stamp, began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.freshness.stamp == stamp {
		f.freshness.listed = f.freshness.observe(stamp, began)
	}
}

// apply makes what is known agree with the names in a catalogue. What came from
// another catalogue is not touched: Docker may still refer to it.
func (d *Driver) apply(ctx context.Context, home *fileSystem, names []string, id string) error {
	listed := make(map[string]bool, len(names))
	var fresh []string
	known := d.known.All()
	for _, name := range names {
		listed[name] = true
		if k, ok := known[name]; !ok || k.Trouble != "" {
			fresh = append(fresh, name)
		}
	}
	for len(fresh) > 0 {
		batch := fresh[:min(len(fresh), learnAtOnce)]
		fresh = fresh[len(batch):]
		if err := d.learnBatch(ctx, home, batch); err != nil {
			return err
		}
	}
	for name, k := range known {
		if k.Catalog == id && !listed[name] {
			if err := d.forgetRemoved(ctx, home, name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Driver) learnBatch(ctx context.Context, home *fileSystem, names []string) error {
	learned, err := withCatalog(ctx, home, func(c *catalog.Catalog, _ *session) (map[string]knowledge, error) {
		all := make(map[string]knowledge, len(names))
		for _, name := range names {
			record, err := c.Lookup(name)
			k, err := home.knowledgeOf(c, name, record, err)
			if errors.Is(err, catalog.ErrNotFound) {
				continue // gone again
			}
			if err != nil {
				return nil, err
			}
			all[name] = k
		}
		return all, nil
	})
	if err != nil {
		return err
	}
	return d.learn(learned)
}

// forgetRemoved forgets a volume that another host has removed. One that is in use
// here stays known, with that trouble. A call at work on the volume comes first:
// it may just have made it.
func (d *Driver) forgetRemoved(ctx context.Context, home *fileSystem, name string) error {
	release, err := d.turns.take(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	gone, err := withCatalog(ctx, home, func(c *catalog.Catalog, _ *session) (bool, error) {
		_, err := c.Lookup(name)
		if errors.Is(err, catalog.ErrNotFound) {
			return true, nil
		}
		return false, nil // it is there, in whatever condition
	})
	if err != nil || !gone {
		return err
	}
	if u, ok := d.uses.table.Get(name); ok && u.total() > 0 {
		d.setTrouble(name, "another host has removed this volume while containers here use it")
		return nil
	}
	return d.unlearn(name)
}

// checkMounts notices mounted volumes whose directory is gone or was replaced.
// The next container's Mount heals what can be healed; until then Status says it.
func (d *Driver) checkMounts(ctx context.Context, f *fileSystem) {
	for name := range d.uses.table.All() {
		k, ok := d.known.Get(name)
		if !ok || k.FileSystem != f.spec.String() || k.Record.Path == "" {
			continue
		}
		t := f.transport(k.Record.Options.NFS)
		dir, s, err := t.openDir(ctx, k.Record.Path)
		if errors.Is(err, fs.ErrNotExist) {
			d.setTrouble(name, fmt.Sprintf("its directory %s is gone from the file system: restore it there", k.Record.Path))
			continue
		}
		if err != nil {
			continue // the file system's own trouble, noted there
		}
		now, err := dir.Identity()
		there, thereErr := tree.IdentityOf(d.mountpoint(name))
		_ = dir.Close()
		s.release()
		if u, ok := d.uses.table.Get(name); ok && u.total() > 0 && err == nil && thereErr == nil && now.Inode != there.Inode {
			d.setTrouble(name, "its directory was replaced on the file system; running containers have the old one: restart them")
		}
	}
}

// reconcile makes counts and mount table agree after a start. A count without
// its mount is void (the host was restarted, or Docker detached everything); a mount
// without a count is detached after the warm time.
func (d *Driver) reconcile() error {
	mounted, err := d.kernel.Under(filepath.Join(d.options.Data, volumesDir))
	if err != nil {
		return err
	}
	for name, u := range d.uses.table.All() {
		if u.Boot != d.host.boot || !mounted[name] {
			if err := d.uses.forget(name, true); err != nil {
				return err
			}
			_ = os.Remove(d.mountpoint(name))
			continue
		}
		if u.Unanswered != "" {
			if _, _, err := d.uses.release(name, u.Unanswered); err != nil {
				return err
			}
		}
	}
	for name := range mounted {
		if _, ok := d.uses.table.Get(name); !ok {
			if err := d.uses.update(name, func(u *use) { u.Boot, u.Mounted = d.host.boot, time.Now().UTC() }); err != nil {
				return err
			}
		}
		d.startIdle(name)
	}
	return nil
}
