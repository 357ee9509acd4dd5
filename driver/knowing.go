package driver

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// settled is how long a directory's time of change must have been seen before
// a list of its names counts for good: file systems record times in steps, of up to a
// second, so a later change may leave the time as it was.
const settled = 2 * time.Second

// listed tells how far the last list of a catalogue's names can be trusted.
type listed struct {
	stamp tree.Stamp
	since time.Time // when stamp was first seen
	whole bool      // the names were listed since then, once it was settled
}

// observe takes a catalogue's time of change, just read, and tells whether it
// has been the same for long enough.
func (l *listed) observe(stamp tree.Stamp, now time.Time) bool {
	if l.since.IsZero() || l.stamp != stamp {
		*l = listed{stamp: stamp, since: now}
	}
	return now.Sub(l.since) >= settled
}

// locate finds the file system that has a volume's record: from what is known
// on this host, else from the home file system's catalogue.
func (d *Driver) locate(ctx context.Context, name string) (*fileSystem, error) {
	if d.options.Misconfigured != nil {
		return nil, d.options.Misconfigured
	}
	k, ok := d.known.Get(name)
	if !ok {
		var err error
		if k, err = d.discover(ctx, name); err != nil {
			return nil, err
		}
	}
	return d.fileSystemOf(k)
}

func (d *Driver) fileSystemOf(k knowledge) (*fileSystem, error) {
	spec, err := filesystem.Parse(k.FileSystem)
	if err != nil {
		return nil, err
	}
	f := d.fileSystem(spec)
	f.askFor(k.Record.Options)
	return f, nil
}

// discover looks a volume up in the home catalogue and keeps what it finds.
func (d *Driver) discover(ctx context.Context, name string) (knowledge, error) {
	home := d.home()
	k, err := withCatalog(ctx, home, func(_ context.Context, c *catalog.Catalog, _ *session) (knowledge, error) {
		return home.lookUp(c, name)
	})
	if err != nil {
		return knowledge{}, err
	}
	return k, d.learn(map[string]knowledge{name: k})
}

// lookUp reads a record, unless it is the one that was read before, and keeps it for
// the mount that may follow.
func (f *fileSystem) lookUp(c *catalog.Catalog, name string) (knowledge, error) {
	found, err := c.LookupAgain(name, f.foundBefore(name))
	f.keepFound(name, found, err)
	return f.knowledgeOf(c, name, found.Record, err)
}

// lookUpSoon does that in the background for a record that was just written: the first
// mount then has one question to ask and not five.
func (f *fileSystem) lookUpSoon(name string) {
	f.d.spawn(func() {
		// What fails here the mount does again, and tells.
		_, _ = withCatalog(f.d.life, f, func(_ context.Context, c *catalog.Catalog, _ *session) (knowledge, error) {
			return f.lookUp(c, name)
		})
	})
}

// knowledgeOf turns what a look-up in this file system's catalogue said into
// what is to be known. A record that cannot be used is known with its trouble: the
// volume exists. Any other failure of the look-up is returned.
func (f *fileSystem) knowledgeOf(c *catalog.Catalog, name string, record catalog.Record, err error) (knowledge, error) {
	k := knowledge{Record: record, FileSystem: f.spec.String(), Catalog: c.ID()}
	switch {
	case errors.Is(err, catalog.ErrDamaged), errors.Is(err, catalog.ErrNewer):
		k.Record, k.Trouble = catalog.Record{Name: name}, err.Error()
		if old, ok := f.d.known.Get(name); ok && old.Catalog == k.Catalog {
			k.Record = old.Record // the last good one
		}
	case err != nil:
		return knowledge{}, err
	case record.FileSystem != "":
		k.FileSystem = record.FileSystem
	}
	return k, nil
}

// learn keeps knowledge of volumes.
func (d *Driver) learn(all map[string]knowledge) error {
	if len(all) == 0 {
		return nil
	}
	err := d.known.PutAll(all)
	d.list.invalidate()
	return err
}

// unlearn forgets a volume that is no more, and what was kept for it. The caller has its turn.
func (d *Driver) unlearn(name string) error {
	if k, known := d.known.Get(name); known {
		if f, err := d.fileSystemOf(k); err == nil {
			f.leaveAccessPoint(k.Record)
		}
	}
	err := d.known.Delete(name)
	for _, f := range d.allFileSystems() {
		f.keepFound(name, catalog.Found{}, catalog.ErrNotFound)
	}
	d.setTrouble(name, "")
	d.list.invalidate()
	return err
}

// whereItIs does a call's work on the file system that has a volume's record. If the
// volume is not there any more, because another host has made it anew elsewhere, it is
// looked for at home and the work done once more.
func (d *Driver) whereItIs(ctx context.Context, name string, work func(*fileSystem) error) error {
	f, err := d.locate(ctx, name)
	if err != nil {
		return err
	}
	err = work(f)
	if !errors.Is(err, catalog.ErrMoved) && !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	k, discoverErr := d.discover(ctx, name)
	if discoverErr != nil {
		return err
	}
	if k.FileSystem == f.spec.String() && !errors.Is(err, catalog.ErrMoved) {
		return err
	}
	if f, discoverErr = d.fileSystemOf(k); discoverErr != nil {
		return discoverErr
	}
	return work(f)
}

// record returns a volume's record as it is now on the file system. If it is the
// one that was read before, one question to the server tells that.
func (f *fileSystem) record(ctx context.Context, name string) (catalog.Record, error) {
	type answer struct {
		found   catalog.Found
		catalog string
	}
	a, err := withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (answer, error) {
		found, err := c.LookupAgain(name, f.foundBefore(name))
		f.keepFound(name, found, err)
		if err == nil && found.Record.FileSystem != "" {
			err = catalog.ErrMoved
		}
		if errors.Is(err, catalog.ErrNotFound) {
			err = f.explainGone(name, c.ID(), err)
		}
		return answer{found, c.ID()}, err
	})
	if err == nil {
		err = f.relearn(a.found.Record)
	} else if errors.Is(err, catalog.ErrDamaged) || errors.Is(err, catalog.ErrNewer) {
		f.d.setTrouble(name, err.Error())
	}
	return a.found.Record, err
}

func (f *fileSystem) explainGone(name, id string, err error) error {
	if k, ok := f.d.known.Get(name); ok && f == f.d.home() && k.Catalog != id {
		return fmt.Errorf("%w: it was made in another catalogue than the one that %s has now: were EFS_FILESYSTEM or EFS_ROOT changed?", err, f.spec)
	}
	return fmt.Errorf("%w: its record on %s is gone, another host may have removed it", err, f.spec)
}

// relearn keeps a record that differs from what was known: another host has removed
// the volume and made it anew.
func (f *fileSystem) relearn(record catalog.Record) error {
	k, ok := f.d.known.Get(record.Name)
	if !ok {
		return nil
	}
	pointed := record
	pointed.FileSystem = k.Record.FileSystem
	if k.Trouble == "" && reflect.DeepEqual(k.Record, pointed) {
		return nil
	}
	if k.Record.AccessPointID != record.AccessPointID {
		f.leaveAccessPoint(k.Record)
	}
	k.Record, k.Trouble = record, ""
	return f.d.learn(map[string]knowledge{record.Name: k})
}

func (f *fileSystem) foundBefore(name string) catalog.Found {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found[name]
}

// keepFound keeps a record for the next time; of one that is gone nothing stays.
func (f *fileSystem) keepFound(name string, found catalog.Found, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		delete(f.found, name)
		return
	}
	f.found[name] = found
}
