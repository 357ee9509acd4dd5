package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/state"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

// makeInAccessPoint makes a volume's directory in an access point that somebody else made,
// unless it is there. One that is there is left alone, as everywhere.
func (f *fileSystem) makeInAccessPoint(ctx context.Context, record catalog.Record) error {
	_, err := inSession(ctx, f.transportOf(record), func(ctx context.Context, s *session) (struct{}, error) {
		exists, err := adoptable(s.base, record.Path)
		if err == nil && !exists {
			_, err = makeDirectory(ctx, s.base, record)
		}
		return struct{}{}, err
	}, nil)
	return err
}

// makeAccessPoint makes the access point that a volume shall have for itself. Its directory
// is the volume's, and the server makes every client the volume's owner.
func (f *fileSystem) makeAccessPoint(ctx context.Context, record catalog.Record) (catalog.Record, error) {
	if record.Options.AccessPoint != catalog.OwnAccessPoint {
		return record, nil
	}
	if f.spec.Kind != filesystem.EFS || f.d.options.Cloud == nil {
		return record, invalid{errors.New("accesspoint=create is for EFS file systems")}
	}
	wanted, err := f.accessPointOf(ctx, record)
	if err != nil {
		return record, err
	}
	made, err := f.d.options.Cloud.CreateAccessPoint(ctx, record.Options.Role, wanted)
	if errors.Is(err, cloud.ErrAccessPointDiffers) {
		return record, conflict{err}
	}
	if err != nil {
		return record, err
	}
	record.AccessPointID = made.ID
	return record, nil
}

// accessPointOf describes a volume's own access point.
func (f *fileSystem) accessPointOf(ctx context.Context, record catalog.Record) (cloud.AccessPoint, error) {
	owner, err := f.catalogID(ctx)
	if err != nil {
		return cloud.AccessPoint{}, err
	}
	root := "/"
	if main := f.settingsProtection(); main.AccessPoint != "" {
		through, err := f.d.options.Cloud.AccessPoint(ctx, f.inCloud(), main.Role, main.AccessPoint)
		if err != nil {
			return cloud.AccessPoint{}, err
		}
		root = through.Path
	}
	uid, gid := ownerOf(record.Options)
	a := cloud.AccessPoint{
		ID: record.AccessPointID, FileSystem: f.inCloud(), Path: path.Join(root, f.d.options.Root, record.Path),
		UID: uid, GID: gid, Mode: defaultMode, Owner: owner, Volume: record.Name,
	}
	if record.Options.Mode != nil {
		a.Mode = uint32(*record.Options.Mode)
	}
	return a, checkAccessPointPath(a.Path)
}

// ownerOf is whom a volume's new directory belongs to, as far as its options say. The server takes every
// client of an access point for that user: with one of the two it is both, or the user could not write.
func ownerOf(o catalog.Options) (uid, gid *uint32) {
	if o.AccessPoint == catalog.OwnAccessPoint {
		return cmp.Or(o.UID, o.GID), cmp.Or(o.GID, o.UID)
	}
	return o.UID, o.GID
}

// EFS's limits (docs.aws.amazon.com/efs/latest/ug/API_RootDirectory.html).
const (
	maxAccessPointPath  = 100
	maxAccessPointDepth = 4
)

func checkAccessPointPath(p string) error {
	depth := 0
	for dir := p; dir != "/"; dir = path.Dir(dir) {
		depth++
	}
	if len(p) > maxAccessPointPath || depth > maxAccessPointDepth {
		return invalid{fmt.Errorf("an access point's path has at most %d characters and %d directories, and %s has more: choose a shorter path", maxAccessPointPath, maxAccessPointDepth, p)}
	}
	return nil
}

// deleteAccessPoint deletes the one that was made for a volume, and no data. What somebody
// has made theirs since stays.
func (f *fileSystem) deleteAccessPoint(ctx context.Context, record catalog.Record) error {
	if record.Options.AccessPoint != catalog.OwnAccessPoint {
		return nil
	}
	if f.d.options.Cloud == nil {
		return errors.New("its access point cannot be deleted: AWS is not asked on this host")
	}
	owner, err := f.catalogID(ctx)
	if err != nil {
		return err
	}
	err = f.d.options.Cloud.DeleteAccessPoint(ctx, record.Options.Role, cloud.AccessPoint{
		ID: record.AccessPointID, FileSystem: f.inCloud(), Owner: owner, Volume: record.Name,
	})
	if errors.Is(err, cloud.ErrNotOwn) {
		f.d.log.WithField("volume", record.Name).Warnf("%v; the volume is removed without it", err)
		return nil
	}
	return err
}

// leaveAccessPoint gives up the root mount and the relay by which a volume that is removed was reached, if
// they were of its own access point: nothing else comes by them. The relay stays until the kernel has taken
// leave of the server, however long that is silent; left is closed then.
func (f *fileSystem) leaveAccessPoint(record catalog.Record) (left <-chan struct{}) {
	done := make(chan struct{})
	if record.Options.AccessPoint != catalog.OwnAccessPoint || record.AccessPointID == "" {
		close(done)
		return done
	}
	t := f.transportOf(record) // a new one if only the relay is left of an earlier run
	if f.isMountedBy(t) || t.attempting() != nil {
		close(done)
		return done
	}
	key, identity := transportKey(t.options, t.via, t.protection), t.identity(viaRelay)
	f.mu.Lock()
	delete(f.transports, key)
	earlier, leaving := f.leaving[identity]
	if !leaving {
		f.leaving[identity] = done
	}
	f.mu.Unlock()
	if leaving {
		return earlier
	}
	s := t.established()
	if s != nil {
		t.reset(s)
	}
	if !f.d.spawn(func() { f.closeBehind(s, t, identity, done) }) {
		close(done)
	}
	return done
}

// closeBehind closes a relay when the kernel has taken leave of the server through it; s is nil if it never came.
func (f *fileSystem) closeBehind(s *session, t *transport, identity string, done chan struct{}) {
	defer close(done)
	if s != nil {
		select {
		case <-s.root.Finished():
		case <-f.d.life.Done():
			return
		}
	}
	f.mu.Lock()
	delete(f.leaving, identity)
	_, again := f.transports[transportKey(t.options, t.via, t.protection)]
	f.mu.Unlock()
	if again {
		return // somebody has come back for it
	}
	f.d.relays.close(identity)
	f.d.tls.drop(f.spec, t.protection)
}

// isMountedBy tells whether a volume that is mounted here, or that containers still have, may be on a
// transport.
func (f *fileSystem) isMountedBy(t *transport) bool {
	for _, uses := range []*state.Table[use]{f.d.uses.table, f.d.uses.uncounted} {
		for name := range uses.All() {
			k, known := f.d.known.Get(name)
			if !known || k.FileSystem == f.spec.String() && f.mountedBy(k.Record) == t {
				return true
			}
		}
	}
	return false
}

func (f *fileSystem) catalogID(ctx context.Context) (string, error) {
	return withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (string, error) { return c.ID(), nil })
}
