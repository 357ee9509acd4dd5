package driver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
	"github.com/docker-volume-efs/docker-volume-efs/driver/mount"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/driver/sunrpc"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

// transport is one kernel NFS client of one file system: the root mount, from
// which volumes are cloned. Its zero mount is made at first use.
type transport struct {
	fs      *fileSystem
	options nfs.Options
	via     string // viaDirect, viaRelay or viaAuto, as asked
	protection
	slots   chan struct{} // one for each call under way
	looking atomic.Bool   // one goroutine at a time looks at its mounts

	// Of an exclusive volume: its lease, and the identity under that.
	lease          *lease.Lease
	clientIdentity string

	mu      sync.Mutex // guards the following fields; never held over a mount
	attempt *attempt
	refused time.Time          // when this identity was refused, if that was how the latest attempt ended
	lacking bool               // that was because this host could not show who it is
	reached time.Time          // when it was connected without a call; see reach
	silent  map[string]silence // looks at mounts that were left behind, by volume
}

// attempt is one try to mount. A mount cannot be taken back, so whoever comes
// while one is under way waits for the same.
type attempt struct {
	began   time.Time
	done    chan struct{}
	session *session // set before done is closed, if err is nil
	err     error
}

// isOver tells whether it has ended, and with it what it left behind.
func (a *attempt) isOver() bool {
	if !isOver(a.done) {
		return false
	}
	var left leftBehind
	return !errors.As(a.err, &left) || left.isOver()
}

// session is a mounted root with its directories open. Calls that use it hold a
// reference, so that no descriptor is closed under a call that was left behind.
type session struct {
	root      Root
	base      *tree.Dir // the directory EFS_ROOT
	device    uint64    // of the mount
	path      string    // viaDirect or viaRelay, as it is
	transport string    // the kernel's, of a direct mount that can be moved
	since     time.Time
	steering  atomic.Bool // a move of a direct mount is under way

	mu      sync.Mutex // guards the following fields
	server  netip.AddrPort
	fixed   string // why a direct mount stays where it is, if it has to
	users   int
	retired bool
	closed  bool
	catalog *catalog.Catalog // opened at first use
}

// use takes a reference; false means that the session is closed already.
func (s *session) use() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.users++
	return true
}

func (s *session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	s.closeIfUnused()
}

// serverNow is the address that the kernel talks to.
func (s *session) serverNow() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

func (s *session) setServer(server netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.fixed = server, ""
}

// setFixed reports whether that is news.
func (s *session) setFixed(why string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.fixed != why
	s.fixed = why
	return news
}

// whyFixed is why a mount stays where it is, or why it is relayed.
func (s *session) whyFixed() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fixed
}

// retire closes the session as soon as nobody uses it.
func (s *session) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.closeIfUnused()
}

func (s *session) closeIfUnused() {
	if !s.retired || s.users > 0 || s.closed {
		return
	}
	s.closed = true
	if s.catalog != nil {
		s.catalog.Close()
	}
	_ = s.base.Close()
	s.root.Close()
}

// openCatalog returns the session's catalogue. Two calls may open it at the
// same moment; the second one's is closed again.
func (s *session) openCatalog(host string) (*catalog.Catalog, error) {
	s.mu.Lock()
	c := s.catalog
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	opened, err := catalog.Open(s.base, host)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.catalog != nil {
		opened.Close()
		return s.catalog, nil
	}
	s.catalog = opened
	return opened, nil
}

// connect returns the transport's session, mounting if need be. It waits no
// longer than the context and answerTimeout; a mount under way goes on, and the next call
// finds it.
func (t *transport) connect(ctx context.Context) (*session, error) {
	patience, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	for asked := time.Now(); ; {
		current, err := t.current()
		if err != nil {
			return nil, err
		}
		select {
		case <-current.done:
			// An attempt from before the call tells how things were then.
			if current.err == nil || !current.began.Before(asked) {
				return current.session, current.err
			}
		case <-patience.Done():
			return nil, t.unfinished(ctx, current)
		}
	}
}

// unfinished is why a call waits no longer for an attempt to mount.
func (t *transport) unfinished(ctx context.Context, current *attempt) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	err := fmt.Errorf("file system %s: the mount is not finished; it is still being tried: %w", t.fs.spec, errSilent)
	if time.Since(current.began) >= answerTimeout {
		t.noteSilence(err)
	}
	return leftBehind{err, current.isOver}
}

// current returns the attempt that is under way or has worked, or begins one.
func (t *transport) current() (*attempt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attempt == nil {
		begun := &attempt{done: make(chan struct{}), began: time.Now()}
		if !t.fs.d.spawn(func() { t.try(begun) }) {
			return nil, errClosing
		}
		t.attempt = begun
	}
	return t.attempt, nil
}

// errClosing reports a call that comes when the plugin is about to end.
var errClosing = errors.New("the plugin is ending; try again when it is back")

// try makes the attempt, and forgets it if it failed so that the next call
// tries again.
func (t *transport) try(current *attempt) {
	session, err := t.open(t.fs.d.life)
	if err != nil {
		err = fmt.Errorf("file system %s: %w", t.fs.spec, err)
	}
	if t.isMain() || err != nil && !ofOneIdentity(err) && !errors.Is(err, errSilent) {
		t.fs.note(err)
	}
	t.mu.Lock()
	current.session, current.err = session, err
	t.refused = time.Time{}
	if err != nil {
		t.attempt = nil
		if ofOneIdentity(err) {
			t.refused, t.lacking = time.Now(), errors.Is(err, proxy.ErrIdentity)
		}
	}
	t.mu.Unlock()
	close(current.done)
	if err == nil && t.isMain() {
		t.fs.d.sweepSoon(t.fs)
	}
}

// ofOneIdentity tells whether an error is one of who asked, and not of the file system.
func ofOneIdentity(err error) bool {
	return errors.Is(err, proxy.ErrIdentity) || errors.Is(err, proxy.ErrRefused) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)
}

// refusalPause is how long nothing is tried in the background after a refusal: whoever changes a
// policy or a role takes minutes, and AWS STS would be asked each time. Calls of Docker's try.
const refusalPause = 5 * time.Minute

func (t *transport) refusedLately() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.refused.IsZero() && time.Since(t.refused) < refusalPause
}

// unprovenLately tells whether that was because this host could not show who it is.
func (t *transport) unprovenLately() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lacking && !t.refused.IsZero() && time.Since(t.refused) < refusalPause
}

// reset gives a session up, so that the next call mounts anew. Volumes that
// were cloned from it stay.
func (t *transport) reset(old *session) {
	t.mu.Lock()
	if t.attempt != nil && t.attempt.session == old {
		t.attempt = nil
	}
	t.mu.Unlock()
	old.retire()
}

// established returns the session if there is one, without waiting.
func (t *transport) established() *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attempt == nil {
		return nil
	}
	select {
	case <-t.attempt.done:
		return t.attempt.session
	default:
		return nil
	}
}

// attempting returns what is closed when the attempt that is under way has ended, nil if none is.
func (t *transport) attempting() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.attempt == nil || isOver(t.attempt.done) {
		return nil
	}
	return t.attempt.done
}

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

// identity is the NFS client's identity of this transport on one of the two paths. The
// kernel joins mounts of one identity into one connection.
func (t *transport) identity(path string) string {
	if t.lease != nil {
		return t.clientIdentity
	}
	name := t.fs.spec.String() + " " + t.options.String()
	if t.protection != (protection{}) {
		name += " " + t.protection.String()
	}
	if path == viaRelay {
		name += " " + viaRelay
	}
	return t.fs.d.host.identity(name)
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

// root is the directory in which a transport's paths begin. An access point of a volume's
// own has its own root.
func (t *transport) root() string {
	if t.AccessPoint != t.fs.settingsProtection().AccessPoint {
		return "/"
	}
	return t.fs.d.options.Root
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
