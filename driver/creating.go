package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// Create makes a volume, or finds that it exists already and is the one asked
// for. It may be repeated, also after it failed half-way, and by several hosts at
// once: one record wins. If the volume exists with other options than
// those given, nothing is changed and the error shows the difference.
func (d *Driver) Create(ctx context.Context, name string, given map[string]string) error {
	return fail("create", name, d.create(ctx, name, given))
}

func (d *Driver) create(ctx context.Context, name string, given map[string]string) error {
	if err := catalog.CheckName(name); err != nil {
		return invalid{err}
	}
	w, err := parseWanted(name, given, d.options.Volume)
	if err != nil {
		return err
	}
	if d.options.Misconfigured != nil {
		return d.options.Misconfigured
	}
	release, err := d.takeTurn(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	f, err := d.place(ctx, name, &w)
	if err != nil {
		return err
	}
	err = f.create(ctx, name, w)
	if errors.Is(err, catalog.ErrMoved) {
		// Another host has made the volume elsewhere since it was looked for.
		if _, err = d.discover(ctx, name); err == nil {
			f, err = d.place(ctx, name, &w)
		}
		if err == nil {
			err = f.create(ctx, name, w)
		}
	}
	return err
}

// place chooses the file system of a volume to be created: where it is if it
// exists, else where the options say, else home.
func (d *Driver) place(ctx context.Context, name string, w *wanted) (*fileSystem, error) {
	home := d.options.FileSystem
	k, known := d.known.Get(name)
	if !known {
		found, err := d.discover(ctx, name)
		if err == nil {
			k, known = found, true
		} else if !errors.Is(err, catalog.ErrNotFound) && !w.given["filesystem"] {
			return nil, err
		}
	}
	if known {
		at, err := filesystem.Parse(k.FileSystem)
		if err != nil {
			return nil, err
		}
		if !w.given["filesystem"] {
			w.fileSystem = at
		}
		if w.fileSystem != at {
			if err := d.sameCatalog(ctx, w.fileSystem, at); err != nil {
				return nil, err
			}
			w.fileSystem = at
		}
		return d.fileSystem(at), nil
	}
	if !w.given["filesystem"] {
		w.fileSystem = home
	}
	return d.fileSystem(w.fileSystem), nil
}

// sameCatalog fails if a volume was asked for on another file system than the one
// it is on. Two addresses of one file system are the same: they show one catalogue.
func (d *Driver) sameCatalog(ctx context.Context, asked, at filesystem.Spec) error {
	var ids [2]string
	for i, spec := range []filesystem.Spec{asked, at} {
		id, err := withCatalog(ctx, d.fileSystem(spec), func(_ context.Context, c *catalog.Catalog, _ *session) (string, error) {
			return c.ID(), nil
		})
		if err != nil {
			return err
		}
		ids[i] = id
	}
	if ids[0] == ids[1] {
		return nil
	}
	return conflict{fmt.Errorf("it exists with other options: filesystem is %q, not %q; leave the option out to use it as it is, or remove it first",
		at, asked)}
}

// createAttempts is how often a Create begins anew because another host removed, or made, the volume
// at the same moment. Somebody who removes it each time means it.
const createAttempts = 3

// create agrees with all hosts on the record, makes the directory, and keeps
// what is known.
func (f *fileSystem) create(ctx context.Context, name string, w wanted) (err error) {
	for range createAttempts {
		err = f.createOnce(ctx, name, w)
		if !errors.Is(err, errRemovedMeanwhile) && !errors.Is(err, catalog.ErrMadeAnew) || ctx.Err() != nil {
			break
		}
	}
	return err
}

func (f *fileSystem) createOnce(ctx context.Context, name string, w wanted) error {
	f.askFor(w.options)
	location := f.spec.String()
	type agreed struct {
		record  catalog.Record
		catalog string
		fresh   bool
	}
	agree := func(ctx context.Context, c *catalog.Catalog, s *session) (agreed, error) {
		if err := c.CheckFormat(); err != nil {
			return agreed{}, err
		}
		record, fresh, err := f.agree(ctx, c, s, name, w)
		return agreed{record, c.ID(), fresh}, err
	}
	a, err := withCatalog(ctx, f, agree)
	if err != nil && f.preferAsked(err) {
		a, err = withCatalog(ctx, f, agree)
	}
	for try := 1; try < removeAttempts && errors.Is(err, errLeased); try++ { // of a removal that it has to finish first
		if err := f.freeLease(ctx, name); err != nil {
			return err
		}
		a, err = withCatalog(ctx, f, agree)
	}
	if err != nil {
		return err
	}
	if err := w.differences(a.record, location); err != nil {
		return err
	}
	if a.record.State == catalog.Creating {
		finished, err := f.finishCreating(ctx, a.record)
		if err != nil {
			if a.fresh && kindOf(err) != Unavailable && ctx.Err() == nil {
				f.giveUp(ctx, a.record)
			}
			return err
		}
		a.record = finished
		f.lookUpSoon(name)
	}
	home, err := f.point(ctx, a.record, a.catalog)
	if err != nil {
		return err
	}
	if home == a.catalog {
		location = f.d.home().spec.String()
	}
	f.d.setTrouble(name, "")
	return f.d.learn(map[string]knowledge{name: {Record: a.record, FileSystem: location, Catalog: home}})
}

// agree returns the volume's record, the existing one or a fresh one.
func (f *fileSystem) agree(ctx context.Context, c *catalog.Catalog, s *session, name string, w wanted) (record catalog.Record, fresh bool, err error) {
	record, err = c.Lookup(name)
	switch {
	case err == nil && record.FileSystem != "":
		return record, false, catalog.ErrMoved
	case err == nil && record.State == catalog.Removing && record.Options.AccessPoint == catalog.OwnAccessPoint:
		return catalog.Record{}, false, conflict{errors.New("its removal was not finished: run docker volume rm again first")}
	case err == nil && record.State == catalog.Removing:
		if err := f.finishRemoving(c, record, f.refuseUsed(c, name)); err != nil {
			now, lookupErr := c.Lookup(name)
			if isDefinite(err) && lookupErr == nil && now.State == catalog.Ready {
				return now, false, nil // it stays
			}
			return catalog.Record{}, false, fmt.Errorf("finish its removal first: %w", err)
		}
		f.d.sweepSoon(f)
	case err == nil:
		return record, false, nil
	case errors.Is(err, catalog.ErrDamaged):
		if used := f.refuseReplacing(ctx, c, name); used != nil {
			return catalog.Record{}, false, fmt.Errorf("%w, and is not made again as long as containers use the volume: %w", err, used)
		}
		aside, asideErr := c.SetAside(name)
		if asideErr != nil {
			return catalog.Record{}, false, asideErr
		}
		f.d.log.WithField("volume", name).Warnf("%v; it was set aside as %s/%s and is made again", err, catalog.DirName, aside)
	case !errors.Is(err, catalog.ErrNotFound):
		return catalog.Record{}, false, err
	}
	record = catalog.Record{
		Version: catalog.Version, Name: name, State: catalog.Creating, Path: w.path, Options: w.options,
		Created: time.Now().UTC().Truncate(time.Microsecond), CreatedBy: f.d.host.name,
	}
	if err := f.protectionFor(record).allows(f.spec, w.options.Via); err != nil {
		return catalog.Record{}, false, err
	}
	if home := f.settingsProtection().AccessPoint; home != "" && home == w.options.AccessPoint {
		return catalog.Record{}, false, invalid{fmt.Errorf("option accesspoint=%q: the catalogue and all volumes are reached by that one already (EFS_ACCESS_POINT): leave the option out", home)}
	}
	if !record.Foreign() {
		exists, err := adoptableForLong(ctx, c, s.base, name, w.path)
		if err != nil {
			return catalog.Record{}, false, err
		}
		if record.Made = !exists; exists && w.options.AccessPoint == "" {
			record.State = catalog.Ready // an existing directory is left alone
		}
	}
	record, fresh, err = c.Add(record)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && record.State == catalog.Removing {
		err = errRemovedMeanwhile // there was one a moment ago
	}
	if fresh && err == nil {
		if err = refuseLeaving(c, record); err != nil {
			err = errors.Join(err, c.DropIf(name, record.Same))
		}
	}
	if fresh && err == nil && record.State == catalog.Ready {
		err = confirm(c, record)
	}
	return record, fresh, err
}

// refuseReplacing refuses to make the record of a volume in use anew: the lease of an exclusive one would be
// another than its holder's, and two hosts could write. Hosts that may just have ceased to use it have a moment.
func (f *fileSystem) refuseReplacing(ctx context.Context, c *catalog.Catalog, name string) error {
	return soonFree(ctx, func() error { return f.refuseUsed(c, name) })
}

// refuseUsed refuses what must not happen to a volume in use, on this host or another. Docker asks a host to remove
// a volume when none of its own containers uses it; all else has to ask for those as well.
func (f *fileSystem) refuseUsed(c *catalog.Catalog, name string) error {
	if f.d.uses.has(name) {
		return conflict{errors.New("stop its containers on this host first")}
	}
	return f.presence.refuseUsed(c, name)
}

// refuseLeaving refuses a volume whose directory is about to go to the trash with
// another volume's. The record is there already, so that the other's removal sees it if
// it comes later.
func refuseLeaving(c *catalog.Catalog, record catalog.Record) error {
	neighbours, err := c.Neighbours(record)
	if err != nil {
		return err
	}
	for _, other := range neighbours {
		if other.State == catalog.Removing && record.Within(other) {
			return conflict{fmt.Errorf("volume %q, which has the directory %s, is being removed: try again when it is gone", other.Name, other.Path)}
		}
	}
	return nil
}

// adoptableForLong is adoptable with a second look at an empty directory: it may be that of a volume that
// another host removed while a third one was making it. That one looks for its record as long as it may be away, and
// then takes its directory back. Or it is that of a volume that was made this moment: then Create begins anew.
func adoptableForLong(ctx context.Context, c *catalog.Catalog, base *tree.Dir, name, path string) (exists bool, err error) {
	exists, err = adoptable(base, path)
	for begun := time.Now(); exists && err == nil && isEmpty(base, path) && time.Since(begun) < 2*asideLimit; {
		if err := waitAside(ctx); err != nil {
			return false, err
		}
		if _, err := c.Lookup(name); !errors.Is(err, catalog.ErrNotFound) {
			return false, errRemovedMeanwhile
		}
		if _, err := base.Refresh(); err != nil {
			return false, err
		}
		exists, err = adoptable(base, path)
	}
	return exists, err
}

func isEmpty(base *tree.Dir, path string) bool {
	dir, err := base.Open(path)
	if err != nil {
		return false
	}
	defer dir.Close()
	names, err := dir.Names()
	return err == nil && len(names) == 0
}

// adoptable tells whether the directory exists already, and refuses one that
// holds a catalogue: it would be seen in the container.
func adoptable(base *tree.Dir, path string) (exists bool, err error) {
	dir, err := base.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if nested, err := dir.Exists(catalog.DirName); err != nil {
		return false, err
	} else if nested {
		return false, invalid{fmt.Errorf("path %s holds a catalogue of volumes (%s); give a directory beneath it", path, catalog.DirName)}
	}
	return true, nil
}

// giveUpLimit is how long a failed Create may take to clean up behind itself.
const giveUpLimit = 3 * time.Second

// giveUp takes back what this call has made, after the volume could not be finished. If
// another host has finished it meanwhile, or has made another of that name, all of it stays: the
// access point may be that one's by now.
func (f *fileSystem) giveUp(ctx context.Context, record catalog.Record) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpLimit)
	defer cancel()
	log := f.d.log.WithField("volume", record.Name)
	half := func(current catalog.Record) bool { return current.State == catalog.Creating && current.Same(record) }
	others, err := withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (bool, error) {
		current, err := c.Lookup(record.Name)
		if errors.Is(err, catalog.ErrNotFound) {
			return false, nil
		}
		return err != nil || !half(current), err
	})
	if err == nil && !others {
		err = f.deleteAccessPoint(ctx, record)
	}
	if err != nil {
		log.Warnf("take back its access point: %v", err)
	}
	if others {
		return
	}
	dropped, err := withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, s *session) (bool, error) {
		current, err := c.Lookup(record.Name)
		if err != nil || ctx.Err() != nil || !half(current) {
			return false, err
		}
		if record.Made {
			if parent, err := s.base.Open(path.Dir(record.Path)); err == nil {
				_ = parent.RemoveEmpty(path.Base(record.Path))
				_ = parent.Close()
			}
		}
		return true, c.DropIf(record.Name, half)
	})
	if dropped && err == nil {
		err = f.d.unlearn(record.Name) // a look at the catalogue may have come by in between
	}
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		log.Warnf("take back its record: %v", err)
	}
}

// finishCreating makes what a record that says "creating" still needs, on
// whichever host comes first, and returns the record that says "ready". Each step
// may be repeated. Another host may be at it too, or be faster, so the record is looked at
// again after whatever takes long.
func (f *fileSystem) finishCreating(ctx context.Context, record catalog.Record) (catalog.Record, error) {
	if record.Foreign() {
		if err := f.makeInAccessPoint(ctx, record); err != nil {
			return record, err
		}
	}
	var made uint64
	if record.Made {
		now, err := withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, s *session) (catalog.Record, error) {
			now, err := stillThere(ctx, c, record)
			if err == nil && now.State == catalog.Creating {
				made, err = makeDirectory(ctx, s.base, record)
			}
			return now, err
		})
		if err != nil || now.State == catalog.Ready {
			return now, err
		}
	}
	finished, err := f.makeAccessPoint(ctx, record)
	if err != nil {
		return record, err
	}
	return withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, _ *session) (catalog.Record, error) {
		now, err := stillThere(ctx, c, record)
		if errors.Is(err, errRemovedMeanwhile) && made != 0 {
			err = errors.Join(err, c.TakeBack(record, made))
		}
		if err != nil || now.State == catalog.Ready {
			return now, err
		}
		finished.State = catalog.Ready
		return makeReady(ctx, c, now, finished)
	})
}

// makeReady writes the record that says "ready" over the one that says "creating", and returns the one that another
// host has written if it was faster.
func makeReady(ctx context.Context, c *catalog.Catalog, half, ready catalog.Record) (catalog.Record, error) {
	err := c.Replace(half, ready)
	if errors.Is(err, catalog.ErrChanged) || errors.Is(err, catalog.ErrNotFound) {
		now, err := stillThere(ctx, c, ready)
		if err == nil && now.State != catalog.Ready {
			err = errRemovedMeanwhile
		}
		return now, err
	}
	if err != nil {
		return ready, err
	}
	return ready, confirm(c, ready)
}

// confirm fails with [errRemovedMeanwhile] if the directory has gone while "ready" was written,
// perhaps over another host's "removing".
func confirm(c *catalog.Catalog, record catalog.Record) error {
	if record.Foreign() {
		return nil // it is out of sight
	}
	err := c.Confirm(record)
	if errors.Is(err, catalog.ErrNotFound) {
		return errRemovedMeanwhile
	}
	return err
}

// asideLimit is how long a record may be away: a host that finishes the removal of an earlier
// volume of that name takes the record aside, sees that it is another's, and puts it back
// ([catalog.Catalog.DropIf]). On a network that takes some round trips.
const (
	asideLimit = 250 * time.Millisecond
	asidePause = 5 * time.Millisecond
)

func waitAside(ctx context.Context) error {
	timer := time.NewTimer(asidePause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errRemovedMeanwhile = conflict{errors.New("another host has removed it meanwhile: try again")}

// stillThere returns a volume's record as it is now, if it is still the same volume's.
func stillThere(ctx context.Context, c *catalog.Catalog, record catalog.Record) (catalog.Record, error) {
	now, err := c.Lookup(record.Name)
	for begun := time.Now(); errors.Is(err, catalog.ErrNotFound) && time.Since(begun) < asideLimit; {
		if waitAside(ctx) != nil {
			break
		}
		now, err = c.Lookup(record.Name)
	}
	if errors.Is(err, catalog.ErrNotFound) || err == nil && (now.State == catalog.Removing || !now.Same(record)) {
		return record, errRemovedMeanwhile
	}
	return now, err
}

// makeDirectory makes a volume's directory with its owner and mode, and returns its inode if it
// was this call that made it.
func makeDirectory(ctx context.Context, base *tree.Dir, record catalog.Record) (made uint64, err error) {
	dir, newly, err := base.Make(record.Path, defaultMode)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, errRemovedMeanwhile // between its making and its opening
	}
	if err != nil {
		return 0, fmt.Errorf("make directory %s: %w", record.Path, err)
	}
	defer dir.Close()
	// A call that was left behind must not touch a directory that another
	// has finished and a container uses.
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := setOwner(dir, record.Options); err != nil {
		return 0, err
	}
	if newly {
		id, err := dir.Identity()
		if err != nil {
			return 0, err
		}
		made = id.Inode
	}
	return made, ctx.Err()
}

// defaultMode is what Docker's own volumes have.
const defaultMode = 0o755

// setOwner gives a new directory its owner and mode. A server that squashes root
// makes directories for somebody else: that is said now, because later a container
// would fail on it with less to go by.
func setOwner(dir *tree.Dir, options catalog.Options) error {
	var want tree.Owner
	uid, gid := ownerOf(options)
	if uid != nil {
		want.UID = *uid
	}
	if gid != nil {
		want.GID = *gid
	}
	have, err := dir.Owner()
	if err != nil {
		return err
	}
	if have.UID != want.UID || have.GID != want.GID {
		err := dir.SetOwner(want.UID, want.GID)
		now, nowErr := dir.Owner()
		switch {
		case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES),
			err == nil && nowErr == nil && (now.UID != want.UID || now.GID != want.GID): // some servers say yes and do nothing
			return fmt.Errorf("the server squashes root: the directory belongs to %d:%d and cannot be given to %d:%d; "+
				"export the file system with no_root_squash, or create the volume with -o uid=%d -o gid=%d and run the container as that user",
				have.UID, have.GID, want.UID, want.GID, have.UID, have.GID)
		case err != nil:
			return err
		case nowErr != nil:
			return nowErr
		}
	}
	mode := uint32(defaultMode)
	if options.Mode != nil {
		mode = uint32(*options.Mode)
	}
	return dir.SetMode(mode)
}

// point keeps a record in the home catalogue that points at a volume on another
// file system, so that other hosts find it by its name, and returns the home
// catalogue's id.
func (f *fileSystem) point(ctx context.Context, record catalog.Record, id string) (homeID string, err error) {
	home := f.d.home()
	if f == home {
		return id, nil
	}
	record.FileSystem = f.spec.String()
	return withCatalog(ctx, home, func(_ context.Context, c *catalog.Catalog, _ *session) (string, error) {
		if c.ID() == id {
			return id, nil // another address of home
		}
		if f.spec.Kind == filesystem.Directory && home.spec.Kind != filesystem.Directory {
			return id, nil // this host's own directory means nothing to others
		}
		current, won, err := c.Add(record)
		if err == nil && !won && current.FileSystem != record.FileSystem {
			err = conflict{fmt.Errorf("it exists on file system %q", locationText(current, home.spec))}
		}
		return c.ID(), err
	})
}

func locationText(record catalog.Record, home filesystem.Spec) string {
	if record.FileSystem == "" {
		return home.String()
	}
	return record.FileSystem
}
