package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

// Mount mounts a volume for a mount ID and hands the mountpoint to deliver. If
// deliver fails, or the context has ended before it is called, the mount does
// not count: Docker sends no Unmount for a Mount that it gave up on. The same ID
// may mount several times.
func (d *Driver) Mount(ctx context.Context, name, id string, deliver func(mountpoint string) error) error {
	if err := catalog.CheckName(name); err != nil {
		return fail("mount", name, invalid{err})
	}
	release, err := d.takeTurn(ctx, name)
	if err != nil {
		return fail("mount", name, err)
	}
	defer release()
	if err := d.mount(ctx, name, id); err != nil {
		d.startIdle(name)
		return fail("mount", name, err)
	}
	if err = ctx.Err(); err == nil {
		err = deliver(d.mountpoint(name))
	}
	if err != nil {
		if err := d.unmount(name, id); err != nil {
			d.log.WithField("volume", name).Errorf("roll back: %v", err)
		}
		return fail("mount", name, fmt.Errorf("rolled back, the answer did not reach Docker: %w", err))
	}
	if err := d.uses.update(name, func(u *use) { u.Unanswered = "" }); err != nil {
		// Docker has its answer; at worst a crash now forgets this mount's count.
		d.log.WithField("volume", name).Errorf("mount: %v", err)
	}
	return nil
}

// mount brings the volume's directory to its mountpoint and counts the ID.
func (d *Driver) mount(ctx context.Context, name, id string) error {
	return d.whereItIs(ctx, name, func(f *fileSystem) error { return d.mountFrom(ctx, f, name, id) })
}

func (d *Driver) mountFrom(ctx context.Context, f *fileSystem, name, id string) (err error) {
	// Before the record is looked at: see presence.
	if err := f.presence.announce(ctx, name, d.isReadOnly(name)); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			d.withdrawSoon(name)
			if _, mounted := d.uses.table.Get(name); !mounted { // else it is detached first, see startIdle
				d.leave(name)
			}
		}
	}()
	record, err := f.record(ctx, name)
	if err != nil {
		return err
	}
	switch record.State {
	case catalog.Removing:
		return errors.New("it is being removed: run docker volume rm again to finish that")
	case catalog.Creating:
		if record, err = f.finishCreating(ctx, record); err != nil {
			return err
		}
	case catalog.Ready:
	}
	t, err := f.transportFor(ctx, record)
	if err != nil {
		return err
	}
	dir, s, err := t.openVolume(ctx, record)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("its directory %s on %s is gone: restore it there, or remove the volume: %w", record.Path, f.spec, err)
	}
	if err != nil {
		return err
	}
	defer s.release()
	defer dir.Close()
	attached, err := d.attach(name, s, dir, record.Options.ReadOnly)
	if err != nil {
		return err
	}
	d.setTrouble(name, "")
	err = d.count(name, id, record.Options.ReadOnly, attached)
	if err != nil && attached {
		return errors.Join(err, d.detachNow(name)) // or nobody would know of it
	}
	if err == nil && t.lease != nil && t.lease.Over() != nil {
		_, _, err = d.uses.release(name, id)
		return errors.Join(t.lease.Over(), err, d.detachNow(name)) // it was lost meanwhile
	}
	return err
}

// isReadOnly tells whether a volume was made to be read only.
func (d *Driver) isReadOnly(name string) bool {
	k, _ := d.known.Get(name)
	return k.Record.Options.ReadOnly
}

// attach has the directory at the volume's mountpoint and tells whether it was not
// there before. A mount of another directory that is there (the volume was removed and
// made again elsewhere, the file system was restored) is replaced; containers that run
// on it keep it.
func (d *Driver) attach(name string, s *session, dir *tree.Dir, readOnly bool) (attached bool, err error) {
	target := d.mountpoint(name)
	// Not MkdirAll: that looks into a mount which may be dead.
	err = os.Mkdir(target, dirMode)
	existed := errors.Is(err, fs.ErrExist)
	if err != nil && !existed {
		return false, fmt.Errorf("make mountpoint: %w: %w", state.ErrHostDisk, err)
	}
	if existed { // nothing can be mounted on what was just made
		if there, err := d.isAttached(name, target, dir, readOnly); there || err != nil {
			return false, err
		}
		if err := d.detachNow(name); err != nil {
			return false, err
		}
	}
	return true, s.root.Attach(dir, target, mount.Flags{ReadOnly: readOnly})
}

// isAttached tells whether the directory is at the mountpoint, attached by us with
// that flag. A local directory's own mountpoint could else be taken for its mount.
func (d *Driver) isAttached(name, target string, dir *tree.Dir, readOnly bool) (bool, error) {
	u, ok := d.uses.table.Get(name)
	if !ok || u.Boot != d.host.boot || u.ReadOnly != readOnly {
		return false, nil
	}
	wanted, err := dir.Identity()
	if err != nil {
		return false, err
	}
	there, err := tree.IdentityOf(target)
	return err == nil && there == wanted, nil
}

// count counts the ID. A crash between the mount and this leaves a mount that
// nothing is known of, which the next start finds in the mount table.
func (d *Driver) count(name, id string, readOnly, attached bool) error {
	d.stopIdle(name)
	return d.uses.update(name, func(u *use) {
		now := time.Now().UTC()
		if attached {
			u.Mounted = now
		}
		if u.total() == 0 {
			u.Since = now
		}
		u.Boot, u.ReadOnly = d.host.boot, readOnly
		u.Counts[id]++
		u.Unanswered = id
	})
}

// Unmount takes one mount of an ID away. It never waits for a file system or for
// another call. An unknown ID or volume is no error: it is not mounted.
func (d *Driver) Unmount(name, id string) error {
	if err := catalog.CheckName(name); err != nil {
		return fail("unmount", name, invalid{err})
	}
	return fail("unmount", name, d.unmount(name, id))
}

func (d *Driver) unmount(name, id string) error {
	left, changed, err := d.uses.release(name, id)
	if err != nil {
		return err
	}
	d.noteUnmount(name)
	switch {
	case !changed:
		last, err := d.uses.releaseUncounted(name, id)
		if last {
			d.withdrawSoon(name)
		}
		return err
	case left == 0:
		d.startIdle(name)
		d.withdrawSoon(name)
	}
	return nil
}

// startIdle has the volume detached after the warm time, unless it is used
// again.
func (d *Driver) startIdle(name string) {
	if u, ok := d.uses.table.Get(name); !ok || u.total() > 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || d.idle[name] != nil {
		return
	}
	d.idle[name] = time.AfterFunc(d.warm(name), func() { d.spawn(func() { d.detachIdle(name) }) })
}

// warm is how long a volume stays mounted after its last use.
func (d *Driver) warm(name string) time.Duration {
	k, ok := d.known.Get(name)
	if !ok || !isExclusive(k.Record) {
		return d.options.Warm
	}
	if u, ok := d.uses.table.Get(name); ok && time.Since(u.Since) >= passingUse {
		return 0
	}
	return min(d.options.Warm, exclusiveWarm)
}

func (d *Driver) stopIdle(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if timer := d.idle[name]; timer != nil {
		timer.Stop()
		delete(d.idle, name)
	}
}

func (d *Driver) detachIdle(name string) {
	release, err := d.turns.take(d.life, name)
	if err != nil {
		return // closing
	}
	defer release()
	d.stopIdle(name)
	if err := d.detach(name, false); err != nil {
		d.log.WithField("volume", name).Errorf("detach: %v", err)
		time.AfterFunc(leaveTries, func() { d.startIdle(name) })
	}
}

// detach unmounts a volume that is not used, or in any case if forced. The
// caller has the volume's turn.
func (d *Driver) detach(name string, force bool) error {
	if u, ok := d.uses.table.Get(name); ok && !force && u.total() > 0 {
		return nil
	}
	limit := flushLimit
	if force {
		limit = forcedFlush
	}
	if err := d.flush(name, limit); err != nil && !force {
		return err
	}
	if err := d.detachNow(name); err != nil {
		return err
	}
	// Only an empty directory goes; one with content was not ours.
	_ = os.Remove(d.mountpoint(name))
	err := d.uses.forget(name, force)
	d.leave(name)
	return err
}

const (
	// detachLimit is how long an unmount may take: it is done with the mount table
	// at once, and then at most gives a superblock up.
	detachLimit = 2 * time.Second
	// maxLayers is far more mounts than a mountpoint can have by our doing.
	maxLayers = 16
)

// detachNow takes the volume out of the mount table. If a mount was the last of
// its superblock, the kernel writes back and takes leave of the server in the same
// call, which a dead server makes endless: that is left behind.
func (d *Driver) detachNow(name string) error {
	for range maxLayers {
		mounted, err := d.detachLayer(name)
		if err != nil || !mounted {
			return err
		}
	}
	return errors.New("the unmount does not end; try again")
}

func (d *Driver) detachLayer(name string) (mounted bool, err error) {
	type result struct {
		mounted bool
		err     error
	}
	results := make(chan result, 1)
	d.stragglers.Go(func() {
		mounted, err := d.kernel.Detach(d.mountpoint(name))
		results <- result{mounted, err}
	})
	timer := time.NewTimer(detachLimit)
	defer timer.Stop()
	select {
	case r := <-results:
		return r.mounted, r.err
	case <-timer.C:
		return true, nil
	}
}
