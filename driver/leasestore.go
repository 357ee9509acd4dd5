package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
)

// leaseStore keeps leases in the file system's catalogue, by their keys. A host's sign of life is the renewal of
// its entry there, as long as that says that it uses the volume.
type leaseStore struct {
	f *fileSystem

	mu      sync.Mutex // guards the following fields
	signs   map[string]catalog.FoundHost
	dropped uint64 // how often others took this host for dead, as far as leases were told
	failed  string // why they cannot be renewed, as far as it was logged
}

var _ lease.Store = (*leaseStore)(nil)

// onCatalog runs a question that returns an error alone.
func (s *leaseStore) onCatalog(ctx context.Context, question func(c *catalog.Catalog) error) error {
	_, err := withCatalog(ctx, s.f, func(_ context.Context, c *catalog.Catalog, _ *session) (struct{}, error) {
		return struct{}{}, question(c)
	})
	return err
}

// make makes the lease of a volume that has none. Its serial is greater than those of an earlier
// volume of that name, so that no NFS client's identity comes twice.
func (s *leaseStore) make(ctx context.Context, key string) error {
	return s.onCatalog(ctx, func(c *catalog.Catalog) error {
		if _, err := c.Lease(key); !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
		return c.MakeLease(key, lease.Entry{Serial: uint64(time.Now().UnixNano())}.String())
	})
}

// Look implements [lease.Store].
func (s *leaseStore) Look(ctx context.Context, key string) (lease.Entry, error) {
	name, err := withCatalog(ctx, s.f, func(_ context.Context, c *catalog.Catalog, _ *session) (string, error) {
		return c.Lease(key)
	})
	if errors.Is(err, catalog.ErrNotFound) {
		err = lease.ErrNone
	}
	if err != nil {
		return lease.Entry{}, err
	}
	return parseLease(name)
}

// parseLease reads the name of a lease in the catalogue. It fails with [catalog.ErrDamagedLease].
func parseLease(name string) (lease.Entry, error) {
	entry, err := lease.Parse(name)
	if err != nil {
		err = fmt.Errorf("%w: %w", catalog.ErrDamagedLease, err)
	}
	return entry, err
}

// Take implements [lease.Store].
func (s *leaseStore) Take(ctx context.Context, key string, from, to lease.Entry) error {
	return s.onCatalog(ctx, func(c *catalog.Catalog) error {
		done, err := c.TakeLease(key, from.String(), to.String())
		if err == nil && !done {
			err = lease.ErrTaken
		}
		return err
	})
}

// Sign implements [lease.Store].
func (s *leaseStore) Sign(ctx context.Context, key string, host lease.Host) (lease.Sign, error) {
	s.mu.Lock()
	before := s.signs[host.ID]
	s.mu.Unlock()
	found, err := withCatalog(ctx, s.f, func(_ context.Context, c *catalog.Catalog, _ *session) (catalog.FoundHost, error) {
		return c.Host(host.ID, before)
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.signs[host.ID] = found
	s.mu.Unlock()
	if _, uses := found.Volumes[catalog.VolumeOf(key)]; !uses {
		return "", nil
	}
	return lease.Sign(found.Sign()), nil
}

// Renew implements [lease.Store].
func (s *leaseStore) Renew(ctx context.Context) error {
	err := errors.Join(s.f.presence.renew(ctx), s.f.presence.whyUntold(s.f.heldVolumes()...))
	dropped := s.f.presence.timesDropped()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(err)
	if err != nil {
		return err
	}
	// Whoever has found it: also another look, or a renewal that failed then.
	if dropped != s.dropped {
		s.dropped = dropped
		return lease.ErrForgotten
	}
	return nil
}

// tell logs once why leases are not renewed. The caller holds mu.
func (s *leaseStore) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != s.failed && s.f.d.life.Err() == nil {
		s.f.d.log.WithField("filesystem", s.f.spec).Warnf("the leases of exclusive volumes cannot be renewed: %v", err)
	}
	s.failed = text
}

// Evict implements [lease.Store].
func (s *leaseStore) Evict(ctx context.Context, key string, t lease.Tenure) error {
	return s.f.evict(ctx, key, t)
}
