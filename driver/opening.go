package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// open mounts the root in the way that was asked for, or in the one that can be moved to another mount target.
func (t *transport) open(ctx context.Context) (*session, error) {
	if t.fs.spec.Kind == filesystem.Directory {
		dir, err := t.fs.d.localDir(t.fs.spec)
		if err != nil {
			return nil, err
		}
		return t.mount(ctx, mount.Mount{Type: "bind", Source: dir, Host: t.identity(viaDirect)})
	}
	if err := t.allows(t.fs.spec, t.via); err != nil {
		return nil, err
	}
	if t.via == viaRelay || t.TLS {
		return t.openRelayed(ctx, "")
	}
	s, err := t.openDirect(ctx)
	if err != nil || t.via == viaDirect {
		return s, err
	}
	if why := t.stuck(s); why != "" {
		s.retire()
		return t.openRelayed(ctx, why)
	}
	return s, nil
}

// stuck tells why a direct mount could not be moved to another mount target although
// there is one.
func (t *transport) stuck(s *session) string {
	group := t.fs.knownTargets()
	if group == nil || len(group.State().Targets) < 2 {
		return ""
	}
	if s.transport == "" {
		return "the kernel's direct mount cannot be moved to another zone: " + sunrpc.ErrUnsupported.Error()
	}
	return keepsPort(s.serverNow(), group.State().Targets)
}

// keepsPort tells why a direct mount could not be moved to some of the mount targets.
func keepsPort(server netip.AddrPort, targets []proxy.TargetState) string {
	if slices.ContainsFunc(targets, func(t proxy.TargetState) bool { return t.Addr.Port() != server.Port() }) {
		return fmt.Sprintf("the kernel's direct mount keeps port %d, and not all mount targets have it", server.Port())
	}
	return ""
}

func (t *transport) openDirect(ctx context.Context) (*session, error) {
	if _, err := t.fs.mountTargets(ctx); err != nil {
		return nil, err
	}
	s, err := t.openOrigin(ctx)
	if s == nil && err == nil {
		s, err = t.openCurrent(ctx)
	}
	if err != nil {
		return nil, err
	}
	// It asks the server, which may have died since.
	name, err := ask(ctx, t, func(context.Context) (string, error) {
		if !s.use() {
			return "", errRetired
		}
		defer s.release()
		return t.fs.d.findTransport(s.root), nil
	}, nil)
	if err != nil {
		s.retire()
		return nil, err
	}
	s.transport = name
	return s, nil
}

// openOrigin joins the kernel's NFS client that containers have, if there is one; else it returns nothing.
func (t *transport) openOrigin(ctx context.Context) (*session, error) {
	origin := t.origin(ctx)
	if !origin.IsValid() {
		return nil, nil
	}
	s, err := t.openNFS(ctx, origin, viaDirect)
	if err != nil || t.fs.isTarget(s.serverNow()) {
		return s, err
	}
	s.retire() // the client was none of this file system's any more, nor is the address
	return nil, nil
}

// openCurrent mounts from the mount target in use.
func (t *transport) openCurrent(ctx context.Context) (*session, error) {
	server, err := t.fs.findServer(ctx)
	if err != nil {
		return nil, err
	}
	s, err := t.openNFS(ctx, server, viaDirect)
	if err == nil {
		t.keepOrigin(server)
	}
	return s, err
}

// openRelayed mounts through a relay of the transport's own. The kernel may join a mount to
// another connection that it has to the same server, and that would not be the relay.
func (t *transport) openRelayed(ctx context.Context, why string) (*session, error) {
	if _, err := t.fs.mountTargets(ctx); err != nil {
		return nil, err
	}
	region, err := t.preflight(ctx)
	if err != nil {
		return nil, err
	}
	if t.lease != nil && t.lease.Over() != nil {
		return nil, t.lease.Over() // its relay may be there, and gives nothing but errors
	}
	addr, err := t.fs.d.relays.open(t.identity(viaRelay), t.fs, t.protection, region, t.lease)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	s, err := t.openNFS(ctx, addr, viaRelay)
	if err != nil {
		if t.lease != nil && t.lease.Over() != nil {
			err = t.lease.Over() // lost meanwhile: who refused was not the server
		}
		return nil, err
	}
	if server := s.serverNow(); server != addr {
		s.retire()
		return nil, fmt.Errorf("the kernel uses its connection to %s instead of the relay at %s: unmount what else is mounted from this server", server, addr)
	}
	s.setFixed(why)
	return s, nil
}

// preflight has a relayed transport's first connection made here, where it can be told
// why it fails: the kernel would wait for it without a word, and have all that need a new NFS client,
// of whichever server, wait as well (nfs_match_client). It returns a protected file system's region.
func (t *transport) preflight(ctx context.Context) (region string, err error) {
	if !t.TLS {
		return "", t.fs.someTarget(ctx, proxy.Ping)
	}
	if region, err = t.fs.d.regionOf(ctx, t.fs.spec); err != nil {
		return "", err
	}
	// Not in the time that a mount target has to answer: making it takes a while, and so may AWS STS.
	if _, err := t.fs.d.tls.key.get(); err != nil {
		return "", err
	}
	client := t.fs.d.tls.of(t.fs.spec, t.protection, region)
	if err := ready(ctx, client); err != nil {
		return "", fmt.Errorf("%s: %w", t.protection, err)
	}
	if err := t.fs.someTarget(ctx, client.Try); err != nil {
		return "", fmt.Errorf("%s: %w", t.protection, err)
	}
	t.fs.checkByTLS(region)
	return region, nil
}

// ready finds out whether this host can show who it is. What keeps it from that is no news of a mount target.
func ready(ctx context.Context, client *efs.Client) error {
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	return client.Ready(ctx)
}

// checkByTLS has the file system's mount targets asked by TLS from now on: they have been
// reached in that way. The question shows nobody's identity, so that what is wrong with one
// volume's is no news of a mount target; a refusal is an answer.
func (f *fileSystem) checkByTLS(region string) {
	client := f.d.tls.of(f.spec, protection{TLS: true}, region)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tls = client
}

// openNFS mounts from an address.
func (t *transport) openNFS(ctx context.Context, server netip.AddrPort, path string) (*session, error) {
	client, err := localAddress(server)
	if err != nil {
		return nil, err
	}
	m := mount.Mount{
		Type: "nfs4", Source: sourceOf(server.Addr(), t.fs.spec.Export), Host: t.identity(path),
		Options: t.options.Kernel(server, client), ReadAheadKiB: nfs.ReadAheadKiB,
	}
	s, err := t.mount(ctx, m)
	if errors.Is(err, syscall.ESTALE) {
		// The export was replaced, and the kernel remembers the old one's root for up to
		// a minute. A mount that shares nothing looks it up afresh.
		m.Options = append(m.Options, "nosharecache")
		s, err = t.mount(ctx, m)
	}
	if err == nil {
		s.path = path
	}
	return s, err
}

func (t *transport) mount(ctx context.Context, m mount.Mount) (*session, error) {
	root := t.fs.d.kernel.Open(m)
	select {
	case <-root.Done():
	case <-ctx.Done():
		root.Close()
		return nil, ctx.Err()
	}
	if err := root.Err(); err != nil {
		root.Close()
		return nil, t.explain(err)
	}
	if warning := root.Warning(); warning != nil {
		t.fs.d.log.WithField("filesystem", t.fs.spec).Warn(warning)
	}
	return t.openSession(ctx, root)
}

// explain says what the operator can do about what the kernel said to a mount.
func (t *transport) explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fmt.Errorf("%w: the server has no export %s: check the path", err, t.fs.spec.Export)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return explained{fmt.Errorf("%w: %s", err, t.denied())}
	case errors.Is(err, syscall.EPROTONOSUPPORT), errors.Is(err, syscall.EPROTO):
		return fmt.Errorf("%w: the server does not offer NFSv4.1", err)
	}
	return err
}

// denied tells whom the server refuses, and what would let them in
// (docs.aws.amazon.com/efs/latest/ug/iam-access-control-nfs-efs.html).
func (t *transport) denied() string {
	const allow = "allow elasticfilesystem:ClientMount, ClientWrite and ClientRootAccess"
	const which = " (docker-volume-efs doctor tells which of them is missing)"
	switch {
	case t.fs.spec.Kind != filesystem.EFS:
		return "the server refuses this host: check the export's list of clients"
	case t.IAM && t.Role != "":
		return fmt.Sprintf("the file system refuses the IAM role %s: %s to it in the file system's policy or in the role's%s", t.Role, allow, which)
	case t.IAM:
		return fmt.Sprintf("the file system refuses this host's IAM identity: %s to it in the file system's policy or in the identity's%s", allow, which)
	case t.TLS:
		return fmt.Sprintf("the file system refuses anonymous clients: use iam=on, or %s to \"*\" in the file system's policy", allow)
	}
	return "the file system refuses this host: its policy may ask for tls=on or iam=on"
}

// openSession takes the root over. The server may die at any moment, so it is
// asked from where it can be left behind.
func (t *transport) openSession(ctx context.Context, root Root) (*session, error) {
	var taken atomic.Bool // by the question, or by who gave it up before it was asked
	s, err := ask(ctx, t, func(context.Context) (opened *session, err error) {
		if !taken.CompareAndSwap(false, true) {
			return nil, errSilent
		}
		defer func() {
			if opened == nil { // also after a panic
				root.Close()
			}
		}()
		server, err := root.Server()
		if err != nil {
			return nil, err
		}
		base, _, err := root.Dir().Make(t.root(), dirMode)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", t.root(), err)
		}
		id, err := base.Identity()
		if err != nil {
			_ = base.Close()
			return nil, err
		}
		return &session{root: root, base: base, device: id.Device, server: server, since: time.Now()}, nil
	}, (*session).retire)
	if err != nil && taken.CompareAndSwap(false, true) {
		root.Close()
	}
	return s, err
}
