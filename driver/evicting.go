package driver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	sessions "github.com/docker-volume-efs/docker-volume-efs/proxy/session"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// clientOwner is how the kernel's NFS client introduces itself, before its identity
// (nfs4_init_uniform_client_string, fs/nfs/nfs4proc.c).
const clientOwner = "Linux NFSv4.1 "

// leaseIdentity is the NFS client's identity under a lease: of that tenure alone, and known to every
// host that knows the lease.
func leaseIdentity(catalogID, key string, t lease.Tenure) string {
	h := host{name: t.Host.Name, id: t.Host.ID}
	return h.identity(fmt.Sprintf("lease %s %s %d", catalogID, key, t.Epoch))
}

// deadTargetTime is what a mount target that is known to be dead has to answer after all: with a zone and the
// holder lost at once, others wait for the volume meanwhile.
const deadTargetTime = time.Second

// evict has every mount target forget a tenure's NFS client: a server may know a client only where
// it came in, as nfs-ganesha does for each of its addresses. Those that do not answer are left, if
// one does; what EFS's share is not public.
func (f *fileSystem) evict(ctx context.Context, key string, t lease.Tenure) error {
	volume := catalog.VolumeOf(key)
	type known struct {
		id     string
		record catalog.Record
	}
	k, err := withCatalog(ctx, f, func(_ context.Context, c *catalog.Catalog, _ *session) (known, error) {
		record, err := c.Lookup(volume)
		return known{c.ID(), record}, err
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return nil // the volume was removed
	}
	if err != nil {
		return err
	}
	group, err := f.mountTargets(ctx)
	if err != nil {
		return err
	}
	owner, p := clientOwner+leaseIdentity(k.id, key, t), f.protectionFor(k.record)
	targets := group.State().Targets
	if len(targets) == 0 {
		return fmt.Errorf("file system %s: no mount target is known at which host %s could be evicted", f.spec, t.Host.Name)
	}
	results := make([]error, len(targets))
	var all sync.WaitGroup
	for i, target := range targets {
		limit := pingTimeout
		if target.Health == proxy.Down {
			limit = deadTargetTime
		}
		all.Go(func() { results[i] = f.evictAt(ctx, target.Target, p, owner, limit) })
	}
	all.Wait()
	done := false
	var failures []error
	for i, err := range results {
		if done = done || err == nil; err != nil {
			failures = append(failures, fmt.Errorf("mount target %s: %w", targets[i].Target, err))
		}
	}
	if !done {
		return oneLine(failures)
	}
	for _, err := range failures {
		f.d.log.WithField("volume", volume).Warnf("evict host %s: %v", t.Host.Name, err)
	}
	return nil
}

func (f *fileSystem) evictAt(ctx context.Context, target proxy.Target, p protection, owner string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	plain, err := tcp.Dial(ctx, target.Addr)
	if err != nil {
		return err
	}
	var conn net.Conn = plain
	if p.TLS {
		region, err := f.d.regionOf(ctx, f.spec)
		if err == nil {
			conn, err = f.d.tls.of(f.spec, p, region).Secure(ctx, plain, target)
		}
		if err != nil {
			return errors.Join(err, plain.Close())
		}
	}
	defer conn.Close()
	err = sessions.Evict(ctx, conn, owner)
	if errors.Is(err, sessions.ErrLeftover) {
		return nil // it is done; what is left of the question, the server forgets
	}
	return err
}
