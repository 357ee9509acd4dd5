package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// settled is how long a directory's time of change must have been seen before
// what is read under it counts as read for good: file systems record times
// in steps, of up to a second, so a later change may leave the time as it was.
const settled = 2 * time.Second

// freshness tells how far what is known of a catalogue can be trusted.
type freshness struct {
	stamp tree.Stamp
	since time.Time // when stamp was first seen
	// records that were read since then, once it was settled
	read map[string]catalog.Record
	// names were listed since then, once it was settled
	listed bool
}

// observe takes a catalogue's time of change, just read, and tells whether it
// has been the same for long enough.
func (f *freshness) observe(stamp tree.Stamp, now time.Time) bool {
	if f.since.IsZero() || f.stamp != stamp {
		*f = freshness{stamp: stamp, since: now, read: map[string]catalog.Record{}}
	}
	return now.Sub(f.since) >= settled
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
	return d.fileSystem(spec), nil
}

// discover looks a volume up in the home catalogue and keeps what it finds.
func (d *Driver) discover(ctx context.Context, name string) (knowledge, error) {
	home := d.home()
	k, err := withCatalog(ctx, home, func(c *catalog.Catalog, _ *session) (knowledge, error) {
		record, err := c.Lookup(name)
		return home.knowledgeOf(c, name, record, err)
	})
	if err != nil {
		return knowledge{}, err
	}
	return k, d.learn(map[string]knowledge{name: k})
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

func (d *Driver) unlearn(name string) error {
	err := d.known.Delete(name)
	d.setTrouble(name, "")
	d.list.invalidate()
	return err
}

// record returns a volume's record as it is now on the file system. If nothing
// in the catalogue has changed since it was last read, one question to the server
// tells that.
func (f *fileSystem) record(ctx context.Context, name string) (catalog.Record, error) {
	record, err := withCatalog(ctx, f, func(c *catalog.Catalog, _ *session) (catalog.Record, error) {
		began := time.Now()
		stamp, err := c.Stamp()
		if err != nil {
			return catalog.Record{}, err
		}
		if record, ok := f.alreadyRead(name, stamp, began); ok {
			return record, nil
		}
		record, err := c.Lookup(name)
		if err != nil {
			return catalog.Record{}, err
		}
		f.keepRead(record, stamp, began)
		return record, nil
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return record, fmt.Errorf("its record on %s is gone, another host may have removed it: %w", f.spec, err)
	}
	return record, err
}

func (f *fileSystem) alreadyRead(name string, stamp tree.Stamp, now time.Time) (catalog.Record, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.freshness.observe(stamp, now)
	record, ok := f.freshness.read[name]
	return record, ok
}

func (f *fileSystem) keepRead(record catalog.Record, stamp tree.Stamp, began time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.freshness.stamp == stamp && f.freshness.observe(stamp, began) {
		f.freshness.read[record.Name] = record
	}
}
