package driver

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

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
	release, err := d.takeTurn(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	err = d.whereItIs(ctx, name, func(f *fileSystem) error {
		if err := f.presence.awaitFree(ctx, name); err != nil {
			return err
		}
		return f.removeUnused(ctx, name)
	})
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	d.withdraw(ctx, name) // a use that was left over here is none of the next volume of that name
	return d.unlearn(name)
}

// removeUnused removes a volume that no other host used a moment ago. One that uses it by now is found when
// the record says "removing": until then nothing is taken from anybody.
func (f *fileSystem) removeUnused(ctx context.Context, name string) error {
	f.d.stopIdle(name)
	if err := f.d.detach(name, true); err != nil {
		return err
	}
	if err := f.giveLeaseBack(ctx, name); err != nil {
		return err
	}
	f.presence.cease(name)
	return f.remove(ctx, name)
}

// giveLeaseBack waits until this host has no lease of a volume any more that no container here uses.
func (f *fileSystem) giveLeaseBack(ctx context.Context, name string) error {
	h := f.holdingOf(name)
	if h == nil {
		return nil
	}
	if busy := h.transport.attempting(); busy != nil {
		select { // here, because it is this call that has the volume's turn
		case <-busy:
		case <-ctx.Done():
			return fmt.Errorf("its mount is still being tried: %w", ctx.Err())
		}
	}
	f.beginLeave(h)
	select {
	case <-h.left:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("its lease is still being given back: %w", ctx.Err())
	}
}

// errLeased reports a removal that is under way while some host has the volume's lease still.
var errLeased = errors.New("a host has its lease still, maybe one that is at the same removal: try again")

// isLeased tells whether some host has a volume's lease still.
func (f *fileSystem) isLeased(c *catalog.Catalog, record catalog.Record) (bool, error) {
	if !f.isFenced(record) {
		return false, nil
	}
	name, err := c.Lease(record.LeaseKey())
	if errors.Is(err, catalog.ErrNotFound) {
		return false, nil // nobody ever had it
	}
	if err != nil {
		return false, err
	}
	entry, err := parseLease(name)
	return err == nil && !entry.Free(), err
}

// freeLease takes the lease of a volume that is being removed from whoever has it still: nobody alive,
// as the hosts' entries say, and nobody who could come. A host that was paused for long must find its
// NFS client evicted, and not write into what the trash gives back. The volume stays if that one cannot be evicted.
func (f *fileSystem) freeLease(ctx context.Context, name string) error {
	record, err := f.record(ctx, name)
	if isAboutRecord(err) {
		return nil // its removal says that
	}
	if err != nil {
		return err
	}
	if record.State != catalog.Removing {
		return nil // another host has ended the removal: whoever has a lease now has it by right
	}
	if err := f.giveLeaseBack(ctx, name); err != nil {
		return err
	}
	_, err = f.leases.Preempt(ctx, record.LeaseKey())
	switch {
	case errors.Is(err, lease.ErrNone):
		return nil // another host has ended the removal
	case err == nil || ctx.Err() != nil || kindOf(err) == Unavailable:
		return err
	}
	why := conflict{fmt.Errorf("it stays: the host that had it may write still: %w", err)}
	_, err = withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, f.finishRemoving(c, record, why)
	})
	return err
}

// isAboutRecord tells whether an error is one of the record itself, and not of who was asked for it.
func isAboutRecord(err error) bool {
	return errors.Is(err, catalog.ErrNotFound) || errors.Is(err, catalog.ErrMoved) ||
		errors.Is(err, catalog.ErrDamaged) || errors.Is(err, catalog.ErrNewer)
}

// remove removes record, data, the pointer at home, and the access point that was made for the
// volume. AWS is asked in between, not while the file system waits for an answer.
func (f *fileSystem) remove(ctx context.Context, name string) error {
	left, err := f.removeInTries(ctx, name)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return err
	}
	if err == nil && left.record.Name != "" {
		if err := f.removeRest(ctx, left.record); err != nil {
			return err
		}
	}
	if left.condemned {
		f.d.sweepSoon(f)
	}
	return errors.Join(err, f.unpoint(ctx, name))
}

// removeAttempts is how often a removal begins anew because another host changed the volume at the same moment,
// or because a lease had to be taken first, which is a question to servers and none to the catalogue.
const removeAttempts = 4

func (f *fileSystem) removeInTries(ctx context.Context, name string) (left leftover, err error) {
	for range removeAttempts {
		left, err = withCatalog(ctx, f, func(ctx context.Context, c *catalog.Catalog, _ *session) (leftover, error) {
			return f.removeData(ctx, c, name)
		})
		switch {
		case errors.Is(err, errLeased):
			if err := f.freeLease(ctx, name); err != nil {
				return left, err
			}
		case !errors.Is(err, catalog.ErrChanged):
			return left, err
		}
	}
	return left, conflict{err}
}

// leftover is what is still to be done for a removal.
type leftover struct {
	record    catalog.Record // of a volume with an access point of its own; else empty
	condemned bool           // something in the trash is to be deleted
}

// removeRest deletes the access point, and then the record: as long as there is one, somebody
// comes back for the access point.
func (f *fileSystem) removeRest(ctx context.Context, record catalog.Record) error {
	select { // the kernel takes leave by it
	case <-f.leaveAccessPoint(record):
	case <-time.After(detachLimit):
	}
	if err := f.deleteAccessPoint(ctx, record); err != nil {
		return err
	}
	_, err := withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, c.DropIf(record.Name, func(current catalog.Record) bool {
			return current.Same(record) && current.IsRemoval(record.Trash)
		})
	})
	return err
}

// removeData removes the data, and the record if nothing else is left to be done. Each step may
// be repeated after a crash: first the record says "removing", so that nobody mounts the volume
// half gone. A call that its caller has given up goes on only from there.
func (f *fileSystem) removeData(ctx context.Context, c *catalog.Catalog, name string) (left leftover, err error) {
	record, err := c.Lookup(name)
	if errors.Is(err, catalog.ErrDamaged) {
		// Where its data is cannot be told, so the data stays.
		aside, asideErr := c.SetAside(name)
		if asideErr == nil {
			f.d.log.WithField("volume", name).Warnf("%v; it was set aside as %s/%s, the data stays where it is", err, catalog.DirName, aside)
		}
		return left, asideErr
	}
	if err != nil {
		return left, err
	}
	if record.FileSystem != "" {
		return left, catalog.ErrMoved
	}
	if err := ctx.Err(); err != nil {
		return left, err
	}
	if record.State != catalog.Removing {
		if record, err = beginRemoving(c, record); err != nil {
			return left, err
		}
	}
	if record.Options.AccessPoint == catalog.OwnAccessPoint {
		left.record = record
	}
	left.condemned = record.Options.Remove == catalog.RemoveDelete && !stays(record)
	return left, f.finishRemoving(c, record, f.refuseTaking(c, name))
}

// refuseTaking refuses to remove what is used on another host, or on this one since the removal began: a call that
// was given up while the server was silent has the volume's turn no more when it is answered.
func (f *fileSystem) refuseTaking(c *catalog.Catalog, name string) error {
	if f.presence.uses(name) {
		return conflict{errors.New("it is being mounted on this host: stop its containers first")}
	}
	return f.presence.refuseUsed(c, name)
}

// stays tells whether a volume's directory is to stay where it is, whatever else is there.
func stays(record catalog.Record) bool {
	return record.Options.Remove == catalog.RemoveKeep || !record.Made
}

// beginRemoving has the record say that it is being removed, and where the data is going. That of a
// directory that stays names none, so that nobody can move it.
func beginRemoving(c *catalog.Catalog, before catalog.Record) (catalog.Record, error) {
	record := before
	if !stays(record) {
		directory, err := c.DirectoryOf(record)
		if err != nil {
			return record, err
		}
		record.Directory = directory
	}
	record.State = catalog.Removing
	record.Trash = catalog.NewTrashEntry(record.Name, time.Now(), rand.Text()[:6])
	return record, c.Replace(before, record)
}

// finishRemoving takes a record that says "removing" to its end, on whichever host; several may be at it.
// If the volume is used, which the caller has asked, or its data may not or cannot leave, the record says "ready" again
// and the volume is as it was. It fails with [errLeased] if a lease has to be freed first.
func (f *fileSystem) finishRemoving(c *catalog.Catalog, record catalog.Record, used error) error {
	verdict, refused := f.judgeRemoval(c, record, used)
	if refused != nil && !isDefinite(refused) {
		return refused
	}
	verdict, err := c.Decide(record.Trash, verdict)
	if err != nil {
		return err
	}
	if verdict == catalog.Stays {
		// Whoever saw a user may not have come to write it down.
		return undoRemoving(c, record, cmp.Or[error](refused, conflict{catalog.ErrChanged}))
	}
	// All of that took a while, in which others may have ended it.
	if going, err := isGoing(c, record); err != nil || !going {
		return err
	}
	if verdict == catalog.Goes {
		if err := moveOut(c, record); err != nil {
			return err
		}
	}
	if err := dropLease(c, record); err != nil {
		return err
	}
	if record.Options.AccessPoint == catalog.OwnAccessPoint {
		return nil // it goes after that: see removeRest
	}
	return c.DropRemoved(record)
}

// judgeRemoval is how a removal is to end as this host sees it, and why if the volume is to stay.
func (f *fileSystem) judgeRemoval(c *catalog.Catalog, record catalog.Record, used error) (catalog.Verdict, error) {
	if used != nil {
		return catalog.Stays, used
	}
	if leased, err := f.isLeased(c, record); err != nil || leased {
		return catalog.Stays, cmp.Or(err, errLeased)
	}
	if stays(record) {
		return catalog.Keeps, nil
	}
	keep, err := f.keepsData(c, record)
	switch {
	case err != nil:
		return catalog.Stays, err
	case keep:
		return catalog.Keeps, nil
	}
	return catalog.Goes, nil
}

// isGoing tells whether a removal is still under way, and fails if another host had the volume stay.
func isGoing(c *catalog.Catalog, record catalog.Record) (bool, error) {
	current, err := c.Lookup(record.Name)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case current.Same(record) && !current.IsRemoval(record.Trash):
		return false, conflict{errors.New("another host had it stay: try again")}
	}
	return current.Same(record), nil
}

// moveOut moves a volume's data to the trash, and marks it to be deleted if that is its policy.
func moveOut(c *catalog.Catalog, record catalog.Record) error {
	err := c.MoveToTrash(record)
	if errors.Is(err, catalog.ErrMadeAnew) {
		err = conflict{fmt.Errorf("%w: it stays; run docker volume rm again if you mean that one", err)}
	}
	if err != nil && isDefinite(err) {
		return undoRemoving(c, record, err)
	}
	if err != nil || record.Options.Remove != catalog.RemoveDelete {
		return err
	}
	return c.Condemn(record.Trash)
}

// undoRemoving has a volume that stays be as it was, and returns why it stays. If it is gone nevertheless,
// another host has finished the removal, and there is no error.
func undoRemoving(c *catalog.Catalog, record catalog.Record, why error) error {
	ready := notRemoved(record)
	switch err := c.Replace(record, ready); {
	case errors.Is(err, catalog.ErrNotFound):
		return nil
	case errors.Is(err, catalog.ErrChanged):
		return why // another host has done that, and maybe more
	case err != nil:
		return errors.Join(why, err)
	}
	if ready.Made && errors.Is(c.Confirm(ready), catalog.ErrNotFound) {
		return nil
	}
	return why
}

// notRemoved is the record of a volume whose removal does not happen. One that still waited for its access
// point is not ready: it would be mounted without.
func notRemoved(record catalog.Record) catalog.Record {
	record.State, record.Trash, record.Directory = catalog.Ready, "", 0
	if record.Options.AccessPoint == catalog.OwnAccessPoint && record.AccessPointID == "" {
		record.State = catalog.Creating
	}
	return record
}

// dropLease removes the lease of a volume that is about to have no record. After that it could be
// one of a new volume.
func dropLease(c *catalog.Catalog, record catalog.Record) error {
	if !isExclusive(record) {
		return nil
	}
	return c.DropLease(record.LeaseKey())
}

// isDefinite tells whether trying again would fail in the same way.
func isDefinite(err error) bool {
	var other conflict
	return errors.As(err, &other) || errors.Is(err, catalog.ErrDamaged) || errors.Is(err, catalog.ErrDamagedHost) ||
		errors.Is(err, catalog.ErrDamagedLease) || errors.Is(err, catalog.ErrNewer) ||
		errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.ENOTEMPTY)
}

// keepsData tells whether a volume's directory stays when the volume is
// removed, because another has the same, and refuses to take other volumes'
// directories with it. It asks after the record says "removing", as Create asks
// after its record is there: of two hosts at work at once, one sees the other.
func (f *fileSystem) keepsData(c *catalog.Catalog, record catalog.Record) (bool, error) {
	neighbours, err := c.Neighbours(record)
	if err != nil {
		return false, err
	}
	keep := false
	for _, other := range neighbours {
		switch {
		case other.Path == record.Path:
			f.d.log.WithField("volume", record.Name).Infof("its directory %s stays: volume %q has the same", record.Path, other.Name)
			keep = true
		case other.Within(record):
			return false, conflict{fmt.Errorf("volume %q lies inside its directory (%s): remove that one first", other.Name, other.Path)}
		}
	}
	return keep, nil
}

// unpoint removes the home catalogue's pointer to a volume on this file system.
func (f *fileSystem) unpoint(ctx context.Context, name string) error {
	home := f.d.home()
	if f == home {
		return nil
	}
	_, err := withCatalog(ctx, home, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, c.DropIf(name, func(record catalog.Record) bool { return record.FileSystem == f.spec.String() })
	})
	return err
}

// sweepSoon deletes what is condemned on a file system, in the background. What
// a crash leaves is found again when the file system is next mounted.
func (d *Driver) sweepSoon(f *fileSystem) {
	d.spawn(func() {
		if err := d.sweep(d.life, f, &f.sweeping, (*catalog.Catalog).DeleteCondemned); err != nil && d.life.Err() == nil {
			d.log.WithField("filesystem", f.spec).Warnf("delete in the background: %v; it goes on at the next start or removal", err)
		}
	})
}

// tidySoon removes what was left half done on a file system, in the background.
func (d *Driver) tidySoon(f *fileSystem) {
	d.spawn(func() {
		if err := d.sweep(d.life, f, &f.tidying, (*catalog.Catalog).Tidy); err != nil && d.life.Err() == nil {
			d.log.WithField("filesystem", f.spec).Warnf("remove what was left half done: %v; it is tried again in %v", err, trashEvery)
		}
	})
}

// sweep does not take one of the file system's slots, nor an answer's time
// limit: a large tree takes long. One at a time does it, as busy tells.
func (d *Driver) sweep(ctx context.Context, f *fileSystem, busy *atomic.Bool, what func(c *catalog.Catalog, more func() error) error) error {
	s, err := f.main().connect(ctx)
	if err != nil {
		return err
	}
	if !busy.CompareAndSwap(false, true) {
		return nil
	}
	if !s.use() {
		busy.Store(false)
		return errRetired
	}
	ended := make(chan error, 1)
	d.stragglers.Go(func() {
		defer s.release()
		defer busy.Store(false)
		c, err := s.openCatalog(d.host.name)
		if err == nil {
			p := pace{f.deleting, time.Now()}
			err = what(c, func() error { return p.next(ctx) })
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
