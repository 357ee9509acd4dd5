package driver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
)

func parentOf(p string) string { return path.Dir(p) }
func baseOf(p string) string   { return path.Base(p) }

// Remove removes a volume; its data stays, goes to the trash, or is deleted, as the
// volume's policy says. A directory that the plugin did not make always stays.
// Docker asks only when no container of this host uses the volume, so counts that
// are left over do not block it. A volume that is not there is no error.
func (d *Driver) Remove(ctx context.Context, name string) error {
	return fail("remove", name, d.remove(ctx, name))
}

func (d *Driver) remove(ctx context.Context, name string) error {
	if err := catalog.CheckName(name); err != nil {
		return invalid{err}
	}
	release, err := d.turns.take(ctx, name)
	if err != nil {
		return fmt.Errorf("another call is still at work on this volume: %w", err)
	}
	defer release()
	f, err := d.locate(ctx, name)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	d.stopIdle(name)
	if err := d.detach(name, true); err != nil {
		return err
	}
	condemned, err := withCatalog(ctx, f, func(c *catalog.Catalog, _ *session) (bool, error) {
		return f.removeRecord(c, name)
	})
	if err != nil {
		return err
	}
	if err := f.unpoint(ctx, name); err != nil {
		return err
	}
	if condemned {
		d.sweepSoon(f)
	}
	return d.unlearn(name)
}

// removeRecord removes record and data. Each step may be repeated after a crash:
// first the record says "removing", so that nobody mounts the volume half gone.
func (f *fileSystem) removeRecord(c *catalog.Catalog, name string) (condemned bool, err error) {
	record, err := c.Lookup(name)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return false, nil
	case errors.Is(err, catalog.ErrDamaged):
		// Where its data is cannot be told, so the data stays.
		aside, asideErr := c.SetAside(name)
		f.d.log.WithField("volume", name).Warnf("%v; it was set aside as %s/%s, the data stays where it is", err, catalog.DirName, aside)
		return false, asideErr
	case err != nil:
		return false, err
	}
	if record.State != catalog.Removing {
		keep, err := f.keepsData(record)
		if err != nil {
			return false, err
		}
		if keep {
			return false, c.Drop(name)
		}
		record.State = catalog.Removing
		record.Trash = catalog.NewTrashEntry(name, time.Now(), rand.Text()[:6])
		if err := c.Replace(record); err != nil {
			return false, err
		}
	}
	return record.Options.Remove == catalog.RemoveDelete, f.finishRemoving(c, record)
}

// finishRemoving takes a record that says "removing" to its end.
func (f *fileSystem) finishRemoving(c *catalog.Catalog, record catalog.Record) error {
	if err := c.MoveToTrash(record); err != nil {
		return err
	}
	if record.Options.Remove == catalog.RemoveDelete {
		if err := c.Condemn(record.Trash); err != nil {
			return err
		}
	}
	return c.Drop(record.Name)
}

// keepsData tells whether a volume's directory stays when the volume is
// removed, and refuses to take other volumes' directories with it.
func (f *fileSystem) keepsData(record catalog.Record) (bool, error) {
	if record.Options.Remove == catalog.RemoveKeep || !record.Made {
		return true, nil
	}
	for name, other := range f.d.known.All() {
		switch {
		case name == record.Name || other.FileSystem != f.spec.String():
		case other.Record.Path == record.Path:
			f.d.log.WithField("volume", record.Name).Infof("its directory %s stays: volume %q has the same", record.Path, name)
			return true, nil
		case strings.HasPrefix(other.Record.Path, record.Path+"/"):
			return false, conflict{fmt.Errorf("volume %q lies inside its directory (%s): remove that one first", name, other.Record.Path)}
		}
	}
	return false, nil
}

// unpoint removes the home catalogue's pointer to a volume elsewhere.
func (f *fileSystem) unpoint(ctx context.Context, name string) error {
	home := f.d.home()
	if f == home {
		return nil
	}
	_, err := withCatalog(ctx, home, func(c *catalog.Catalog, _ *session) (struct{}, error) {
		record, err := c.Lookup(name)
		if errors.Is(err, catalog.ErrNotFound) || err == nil && record.FileSystem != f.spec.String() {
			return struct{}{}, nil
		}
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, c.Drop(name)
	})
	return err
}

// sweepSoon deletes what is condemned on a file system, in the background. What
// a crash leaves is found again at the next start.
func (d *Driver) sweepSoon(f *fileSystem) {
	d.spawn(func() {
		if err := d.sweep(d.life, f); err != nil && d.life.Err() == nil {
			d.log.WithField("filesystem", f.spec).Warnf("delete in the background: %v; it goes on at the next start or removal", err)
		}
	})
}

// sweep does not take one of the file system's slots, nor an answer's time
// limit: a large tree takes long.
func (d *Driver) sweep(ctx context.Context, f *fileSystem) error {
	s, err := f.transport(nil).connect(ctx)
	if err != nil {
		return err
	}
	if !s.use() {
		return errRetired
	}
	ended := make(chan error, 1)
	d.stragglers.Go(func() {
		defer s.release()
		c, err := s.openCatalog(d.host.name)
		if err == nil {
			err = c.DeleteCondemned(ctx.Err)
		}
		ended <- err
	})
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
