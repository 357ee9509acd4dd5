package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

// Trashed is a removed volume whose data is still there.
type Trashed struct {
	// Entry names it: of one name several may have been removed.
	Entry      string    `json:"entry"`
	Volume     string    `json:"volume"`
	FileSystem string    `json:"filesystem"`
	Path       string    `json:"path"`
	Removed    time.Time `json:"removed"`
	// Trouble is why it cannot be restored, if it cannot.
	Trouble string `json:"trouble,omitempty"`
}

// onEachTrash does work on each file system of known volumes, side by side: one that is dead keeps no other's
// trash from being seen. What failed is one error.
func (d *Driver) onEachTrash(work func(*fileSystem) error) error {
	known := d.known.All()
	for _, k := range known {
		if _, err := d.fileSystemOf(k); err != nil { // after a start nobody may have used it yet
			d.log.Warnf("the trash of %s is not looked at: %v", k.FileSystem, err)
		}
	}
	all := d.usedFileSystems(known)
	failed := make([]error, len(all))
	var asked sync.WaitGroup
	for i, f := range all {
		asked.Go(func() {
			if err := work(f); err != nil {
				failed[i] = fmt.Errorf("the trash of %s: %w", f.spec, err)
			}
		})
	}
	asked.Wait()
	var sum error
	for _, err := range failed {
		switch {
		case sum == nil:
			sum = err
		case err != nil:
			sum = fmt.Errorf("%w; %w", sum, err)
		}
	}
	return sum
}

// Trash lists the removed volumes of all file systems in use, the latest first. Besides those it found
// it returns why there may be more: a file system that did not answer.
func (d *Driver) Trash(ctx context.Context) ([]Trashed, error) {
	all := []Trashed{}
	var mu sync.Mutex // guards all
	failed := d.onEachTrash(func(f *fileSystem) error {
		entries, err := f.trash(ctx, anyEntry)
		mu.Lock()
		defer mu.Unlock()
		for _, e := range entries {
			one := Trashed{Entry: e.ID, Volume: e.Record.Name, FileSystem: f.spec.String(), Path: e.Record.Path, Removed: e.Removed}
			if e.Trouble != nil {
				one.Trouble = e.Trouble.Error()
			}
			all = append(all, one)
		}
		return err
	})
	slices.SortFunc(all, func(a, b Trashed) int {
		return cmp.Or(b.Removed.Compare(a.Removed), cmp.Compare(b.Entry, a.Entry), cmp.Compare(a.FileSystem, b.FileSystem))
	})
	return all, failed
}

// trashAtOnce is how many entries of the trash one question reads or condemns. All of a full trash in one would take
// longer than an answer may, and the file system would count as dead.
const trashAtOnce = 64

// inTrash does work on the entries that are meant, the latest first, some in each question. What a question brought goes
// to done; the first one that fails is the last.
func inTrash[T any](ctx context.Context, f *fileSystem, meant func(id string) bool, work func(*catalog.Catalog, string) (T, error), done func([]T)) error {
	ids, err := withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) ([]string, error) { return c.Trash() })
	if err != nil {
		return err
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return !meant(id) })
	for batch := range slices.Chunk(ids, trashAtOnce) {
		some, err := withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, _ *session) ([]T, error) {
			var some []T
			for _, id := range batch {
				if err := ctx.Err(); err != nil {
					return some, err
				}
				one, err := work(c, id)
				if errors.Is(err, catalog.ErrNoEntry) {
					continue // gone since
				}
				if err != nil {
					return some, err
				}
				some = append(some, one)
			}
			return some, nil
		})
		done(some)
		if err != nil {
			return err
		}
	}
	return nil
}

// trash reads the entries that are meant. Besides an error it returns those that it has read.
func (f *fileSystem) trash(ctx context.Context, meant func(id string) bool) (all []catalog.TrashEntry, err error) {
	err = inTrash(ctx, f, meant, (*catalog.Catalog).Trashed, func(some []catalog.TrashEntry) { all = append(all, some...) })
	return all, err
}

func anyEntry(string) bool { return true }

// Restore makes a removed volume a volume again, with its data and options, under its own name or
// another one. What is an entry's name or the volume's; of several removed ones of that name the
// latest is meant.
func (d *Driver) Restore(ctx context.Context, what, as string) (name string, err error) {
	f, entry, err := d.findTrashed(ctx, what)
	if err != nil {
		return "", fail("restore", what, err)
	}
	name = cmp.Or(as, entry.Record.Name)
	if err := catalog.CheckName(name); err != nil {
		return "", fail("restore", what, invalid{err})
	}
	release, err := d.takeTurn(ctx, name)
	if err != nil {
		return "", fail("restore", what, err)
	}
	defer release()
	return name, fail("restore", what, f.restore(ctx, entry.ID, name, as))
}

// findTrashed needs only the file system that has the entry. By a volume's name all are asked, and those
// that do not answer may have a later one.
func (d *Driver) findTrashed(ctx context.Context, what string) (*fileSystem, catalog.TrashEntry, error) {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	var mu sync.Mutex // guards at and found
	var at *fileSystem
	var found catalog.TrashEntry
	mayBe := func(id string) bool { return id == what || catalog.IsTrashOf(id, what) }
	failed := d.onEachTrash(func(f *fileSystem) error {
		entries, err := f.trash(ctx, mayBe)
		mu.Lock()
		defer mu.Unlock()
		for _, e := range entries {
			if e.ID == what || e.Record.Name == what && found.ID != what && e.ID > found.ID {
				at, found = f, e
			}
			if e.ID == what {
				enough()
			}
		}
		return err
	})
	switch {
	case at != nil && failed != nil && found.ID != what:
		return nil, found, fmt.Errorf("there may be a later one of that name, give an entry's name (docker-volume-efs trash list): %w", failed)
	case at != nil:
		return at, found, found.Trouble
	case failed != nil:
		return nil, found, failed
	}
	return nil, found, fmt.Errorf("%w: docker-volume-efs trash list shows them", catalog.ErrNoEntry)
}

// restore has the name's pointer at home before the entry leaves the trash: as long as there is an entry,
// the same call finishes what was cut off.
func (f *fileSystem) restore(ctx context.Context, id, name, as string) error {
	record, home, err := f.bringBack(ctx, id, name, as)
	if errors.Is(err, catalog.ErrTaken) {
		if backErr := f.takeBack(ctx, id, name); backErr != nil {
			return fmt.Errorf("%w, and it is not back in the trash yet: %w", err, backErr)
		}
		return conflict{fmt.Errorf("%w: give the volume another name (--as NAME)", err)}
	}
	if err != nil {
		return err
	}
	_, err = withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, c.Restored(record)
	})
	if errors.Is(err, catalog.ErrTaken) {
		return errors.Join(err, f.unpointRestored(ctx, record))
	}
	if err != nil {
		return err
	}
	return f.d.learn(map[string]knowledge{name: {Record: restored(record), FileSystem: f.spec.String(), Catalog: home}})
}

// bringBack brings the data back to its path and has the home catalogue point at it. The record says
// "removing" still. It returns the home catalogue's id.
func (f *fileSystem) bringBack(ctx context.Context, id, name, as string) (record catalog.Record, home string, err error) {
	catalogID, err := f.catalogID(ctx)
	if err != nil {
		return record, "", err
	}
	if err := f.refuseTaken(ctx, name, catalogID); err != nil {
		return record, "", err
	}
	record, err = withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, _ *session) (catalog.Record, error) {
		if err := errors.Join(c.CheckFormat(), ctx.Err()); err != nil {
			return catalog.Record{}, err
		}
		return c.Restore(id, as)
	})
	if err != nil {
		return record, "", err
	}
	// The one that the volume had went with it.
	if record, err = f.makeAccessPoint(ctx, record); err != nil {
		return record, "", err
	}
	home, err = f.point(ctx, restored(record), catalogID)
	if taken := (conflict{}); errors.As(err, &taken) {
		err = fmt.Errorf("%w: %w", catalog.ErrTaken, err) // since home was asked
	}
	return record, home, err
}

// restored is the record of a volume whose restoration has ended.
func restored(record catalog.Record) catalog.Record {
	record.State, record.Trash, record.Directory = catalog.Ready, "", 0
	return record
}

// refuseTaken refuses a name that home has for a volume elsewhere, before anything is moved. Home has to
// answer: the volume will need it.
func (f *fileSystem) refuseTaken(ctx context.Context, name, catalogID string) error {
	home := f.d.home()
	if f == home {
		return nil // the record of that name is in the way itself
	}
	_, err := withCatalog(ctx, home, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		if c.ID() == catalogID {
			return struct{}{}, nil // another address of home
		}
		current, err := c.Lookup(name)
		if errors.Is(err, catalog.ErrNotFound) {
			return struct{}{}, nil
		}
		if err == nil && current.FileSystem != f.spec.String() {
			err = fmt.Errorf("%w: there is a volume %q on file system %s", catalog.ErrTaken, name, locationText(current, home.spec))
		}
		return struct{}{}, err
	})
	return err
}

// takeBack has what this restoration, or one of the same entry that was cut off, has brought back in the
// trash again.
func (f *fileSystem) takeBack(ctx context.Context, id, name string) error {
	half := func(r catalog.Record) bool { return r.State == catalog.Removing && r.Trash == id }
	record, err := withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, _ *session) (catalog.Record, error) {
		record, err := c.Lookup(name)
		if err != nil || !half(record) {
			return record, err
		}
		if err := ctx.Err(); err != nil {
			return record, err
		}
		return record, c.MoveToTrash(record)
	})
	if errors.Is(err, catalog.ErrNotFound) || err == nil && !half(record) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.deleteAccessPoint(ctx, record); err != nil {
		return err
	}
	_, err = withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, c.DropRemoved(record)
	})
	return err
}

// unpointRestored removes the pointer to a volume that another host removed while it was restored: that
// one may have looked for the pointer before it was there.
func (f *fileSystem) unpointRestored(ctx context.Context, record catalog.Record) error {
	if f == f.d.home() {
		return nil
	}
	_, err := withCatalog(ctx, f.d.home(), func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, c.DropIf(record.Name, func(current catalog.Record) bool {
			return current.FileSystem == f.spec.String() && current.Same(record)
		})
	})
	return err
}

// trashEvery is how often the trash, and what others have left half done, is looked through for what is too old.
const trashEvery = time.Hour

// checkTrash has what is in the trash for longer than the setting allows deleted, in the background: a large
// trash takes minutes, in which this host has to show that it lives. It is run by one
// goroutine for each file system at a time.
func (d *Driver) checkTrash(ctx context.Context, f *fileSystem) {
	if f.main().established() == nil || time.Since(f.emptied) < trashEvery {
		return
	}
	f.emptied = time.Now()
	d.tidySoon(f)
	if keep := d.options.TrashKeep; keep > 0 && f.emptying.CompareAndSwap(false, true) {
		d.spawn(func() {
			defer f.emptying.Store(false)
			f.emptyOld(ctx, keep)
		})
	}
}

func (f *fileSystem) emptyOld(ctx context.Context, keep time.Duration) {
	n, err := f.emptyTrash(ctx, removedBefore(keep), condemnOlder(keep))
	log := f.d.log.WithField("filesystem", f.spec)
	if n > 0 {
		log.Infof("%d removed volumes were in the trash for longer than %v and are deleted", n, keep)
	}
	if err != nil && f.d.life.Err() == nil {
		log.Warnf("empty the trash: %v", err)
	}
}

// hasTime tells whether an entry was made by a removal: what somebody put into the trash by hand is deleted only by name.
func hasTime(id string) bool { return !catalog.TrashedAt(id).IsZero() }

// condemning marks an entry to be deleted, if it is to be, and tells whether it was.
type condemning func(c *catalog.Catalog, id string) (bool, error)

func condemn(c *catalog.Catalog, id string) (bool, error) { return true, c.Condemn(id) }

// removedBefore tells of entries whether they were removed at least that long ago. It compares the remover's clock with
// this host's, of which either may be years off: see condemnOlder.
func removedBefore(age time.Duration) func(id string) bool {
	return func(id string) bool { return hasTime(id) && time.Since(catalog.TrashedAt(id)) >= age }
}

// condemnOlder condemns what has been in the trash for so long by the server's clock too.
func condemnOlder(age time.Duration) condemning {
	return func(c *catalog.Catalog, id string) (bool, error) { return c.CondemnOlder(id, age) }
}

// emptyTrash deletes those of the entries that are meant that are to be, in the background, and returns how many, also if
// there are more.
func (f *fileSystem) emptyTrash(ctx context.Context, meant func(id string) bool, condemn condemning) (n int, err error) {
	err = inTrash(ctx, f, meant, condemn, func(condemned []bool) {
		for _, one := range condemned {
			if one {
				n++
			}
		}
		f.d.sweepSoon(f)
	})
	return n, err
}

// EmptyTrash deletes removed volumes for good, in the background: those named, or if none is, all
// that were removed longer ago than age. It returns how many, also if it could not ask all file systems.
func (d *Driver) EmptyTrash(ctx context.Context, entries []string, age time.Duration) (int, error) {
	deleted := 0
	missing := slices.Clone(entries)
	var mu sync.Mutex // guards deleted and missing
	named := func(id string) bool {
		mu.Lock()
		defer mu.Unlock()
		missing = slices.DeleteFunc(missing, func(one string) bool { return one == id })
		return slices.Contains(entries, id)
	}
	meant, how := hasTime, condemn
	switch {
	case len(entries) > 0:
		meant = named
	case age > 0:
		meant, how = removedBefore(age), condemnOlder(age)
	}
	failed := d.onEachTrash(func(f *fileSystem) error {
		n, err := f.emptyTrash(ctx, meant, how)
		mu.Lock()
		defer mu.Unlock()
		deleted += n
		return err
	})
	if failed == nil && len(missing) > 0 {
		failed = fmt.Errorf("%s: %w", missing[0], catalog.ErrNoEntry)
	}
	return deleted, failed
}
