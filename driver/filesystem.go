package driver

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/efs"
)

const (
	// answerTimeout is how long a call waits for one answer of a file system:
	// well over a busy server's worst, well under a call's budget, so that
	// there is time left to say so.
	answerTimeout = 10 * time.Second
	// callsAtOnce bounds the goroutines, each with its thread, that can wait
	// in the kernel for one transport. What hangs on one takes none of another's:
	// the catalogue, and with it leases and this host's sign of life, goes on.
	callsAtOnce = 32
)

// fileSystem is a file system in use on this host.
type fileSystem struct {
	d     *Driver
	spec  filesystem.Spec
	self  lease.Host    // this host, as others see it here
	lost  chan struct{} // told when a mount target was left
	place place

	presence   *presence
	leases     *lease.Keeper
	leaseStore *leaseStore
	keepLeases sync.Once
	deleting   *rate.Limiter // of what is condemned
	emptied    time.Time     // when its trash was last looked through; see checkTrash

	checking, refreshing        atomic.Bool   // one goroutine at a time does each
	sweeping, tidying, emptying atomic.Bool   // and each of these
	asksTLS, asksIAM            atomic.Bool   // see askFor
	moves, recoveries           atomic.Uint64 // see watchRecovery

	mu          sync.Mutex // guards the following fields
	transports  map[string]*transport
	catalogueBy *transport               // by which the catalogue was reached last; see main
	leaving     map[string]chan struct{} // by identity; see leaveAccessPoint
	holdings    map[string]*holding      // of exclusive volumes, by name
	group       *proxy.Group             // nil until it is needed, and of a local directory
	tls         *efs.Client              // of a protected transport in use, nil if there is none
	whereabouts whereabouts              // of the group's targets
	trouble     error
	troubled    time.Time
	listed      listed
	found       map[string]catalog.Found // records as last read, by volume
}

func newFileSystem(d *Driver, spec filesystem.Spec) *fileSystem {
	f := &fileSystem{
		d: d, spec: spec, self: d.host.at(spec), lost: make(chan struct{}, 1),
		transports: map[string]*transport{}, leaving: map[string]chan struct{}{},
		holdings: map[string]*holding{}, found: map[string]catalog.Found{},
	}
	if d.known != nil {
		for _, k := range d.known.All() {
			if k.FileSystem == spec.String() {
				f.askFor(k.Record.Options)
			}
		}
	}
	f.presence = newPresence(f)
	f.leaseStore = &leaseStore{f: f, signs: map[string]catalog.FoundHost{}}
	f.leases = &lease.Keeper{Self: f.self, Store: f.leaseStore}
	f.deleting = rate.NewLimiter(deletesPerSecond, deletesAtOnce)
	return f
}

// transport returns the one for these NFS options, this path and this protection.
func (f *fileSystem) transport(options nfs.Options, via string, p protection) *transport {
	key := transportKey(options, via, p)
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.transports[key]
	if t == nil {
		t = f.newTransport(options, via, p)
		f.transports[key] = t
	}
	return t
}

func (f *fileSystem) newTransport(options nfs.Options, via string, p protection) *transport {
	return &transport{fs: f, options: options, via: via, protection: p, slots: make(chan struct{}, callsAtOnce)}
}

func transportKey(options nfs.Options, via string, p protection) string {
	return via + " " + options.String() + " " + p.String()
}

// transportOf returns the transport of a volume, as far as it is shared: an exclusive one is
// mounted by a transport of its own (transportFor), and looked at by this.
func (f *fileSystem) transportOf(r catalog.Record) *transport {
	return f.transport(r.Options.NFS, r.Options.Via, f.protectionFor(r))
}

// note keeps what was learned of the file system's health.
func (f *fileSystem) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		if f.trouble != nil {
			f.d.log.WithField("filesystem", f.spec).Infof("is well again after %v", time.Since(f.troubled).Round(time.Second))
		}
		f.trouble = nil
	case f.trouble == nil:
		f.d.log.WithField("filesystem", f.spec).Warnf("in trouble: %v", err)
		f.trouble, f.troubled = err, time.Now()
	default:
		f.trouble = err
	}
}

// noteAnswer ends the trouble of not answering. Other trouble (the catalogue is
// damaged, say) ends when what showed it works.
func (t *transport) noteAnswer() {
	if _, trouble := t.fs.health(); errors.Is(trouble, errSilent) && t.isMain() {
		t.fs.note(nil)
	}
}

// noteSilence keeps that a transport does not answer, if that is news of the file system.
func (t *transport) noteSilence(err error) {
	if t.isMain() {
		t.fs.note(err)
	}
}

// isMain tells whether the catalogue is reached by it. What only another one does not answer is trouble of its
// volumes, and not of the file system.
func (t *transport) isMain() bool { return t == t.fs.main() }

// health returns what is wrong and since when; nil if nothing is known to be.
func (f *fileSystem) health() (since time.Time, trouble error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.troubled, f.trouble
}

// reachable tells whether it is worth asking: the file system is mounted and
// answered the last time.
func (f *fileSystem) reachable() bool {
	_, trouble := f.health()
	return !errors.Is(trouble, errSilent) && f.main().established() != nil
}

// ask runs a question on a transport, which may block in the kernel for as long as the server
// is dead, and waits for its answer no longer than the context and
// answerTimeout. A question left behind ends when the server answers again; its
// context has ended then, which it asks before whatever it should no longer do. If it
// succeeds nevertheless, undo gets its result (nil if there is nothing to undo).
func ask[T any](ctx context.Context, t *transport, question func(context.Context) (T, error), undo func(T)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	patience, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	began := time.Now()
	select {
	case t.slots <- struct{}{}:
	case <-patience.Done():
		return none, t.fs.silent(ctx, began)
	}
	answers := make(chan answer, 1)
	t.fs.d.stragglers.Go(func() {
		value, err := guarded(patience, t.fs, question)
		<-t.slots
		answers <- answer{value, err}
	})
	select {
	case a := <-answers:
		t.noteAnswer()
		return a.value, a.err
	case <-patience.Done():
	}
	ended := make(chan struct{})
	t.fs.d.stragglers.Go(func() {
		defer close(ended)
		if late := <-answers; late.err == nil && undo != nil {
			undo(late.value)
		}
	})
	err := t.fs.silent(ctx, began)
	if ctx.Err() == nil {
		t.noteSilence(err) // it had its whole time, not only what a caller in a hurry left it
	}
	return none, leftBehind{err, func() bool { return isOver(ended) }}
}

// guarded turns a panic into an error: it costs one call, not the plugin.
func guarded[T any](ctx context.Context, f *fileSystem, question func(context.Context) (T, error)) (value T, err error) {
	defer func() {
		if p := recover(); p != nil {
			f.d.log.Errorf("panic: %v\n%s", p, debug.Stack())
			err = errors.New("internal error, please report it with the plugin's log")
		}
	}()
	return question(ctx)
}

func (f *fileSystem) silent(ctx context.Context, began time.Time) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return fmt.Errorf("file system %s: %w (nothing within %v)", f.spec, errSilent, time.Since(began).Round(100*time.Millisecond))
}

// errRetired reports a session that another call has given up meanwhile.
var errRetired = errors.New("the root mount was replaced")

// inSession runs a question on a transport's mounted root. If the root itself
// has gone stale (the export was replaced, the server restored) the transport is mounted anew,
// once.
func inSession[T any](ctx context.Context, t *transport, question func(context.Context, *session) (T, error), undo func(T)) (T, error) {
	var none T
	for attempt := 0; ; attempt++ {
		s, err := t.connect(ctx)
		if err != nil {
			return none, err
		}
		value, err := ask(ctx, t, func(ctx context.Context) (T, error) {
			if !s.use() {
				return none, errRetired
			}
			defer s.release()
			return question(ctx, s)
		}, undo)
		if attempt > 0 || !errors.Is(err, syscall.ESTALE) && !errors.Is(err, errRetired) {
			return value, err
		}
		t.fs.d.log.WithField("filesystem", t.fs.spec).Warn("the root mount is stale; mounting anew")
		t.reset(s)
	}
}

// withCatalog runs a question on the file system's catalogue.
func withCatalog[T any](ctx context.Context, f *fileSystem, question func(context.Context, *catalog.Catalog, *session) (T, error)) (T, error) {
	by := f.main()
	answer, err := onCatalogue(ctx, f, by, question)
	if now := f.main(); now != by && errors.Is(err, proxy.ErrIdentity) {
		return onCatalogue(ctx, f, now, question)
	}
	return answer, err
}

func onCatalogue[T any](ctx context.Context, f *fileSystem, by *transport, question func(context.Context, *catalog.Catalog, *session) (T, error)) (T, error) {
	return inSession(ctx, by, func(ctx context.Context, s *session) (T, error) {
		c, err := s.openCatalog(f.d.host.name)
		if err != nil {
			var none T
			return none, err
		}
		return question(ctx, c, s)
	}, nil)
}

// openDir opens a volume's directory on a transport. The caller closes it and
// releases the session.
func (t *transport) openDir(ctx context.Context, path string) (*tree.Dir, *session, error) {
	type opened struct {
		dir     *tree.Dir
		session *session
	}
	drop := func(o opened) {
		_ = o.dir.Close()
		o.session.release()
	}
	o, err := inSession(ctx, t, func(_ context.Context, s *session) (opened, error) {
		dir, err := s.base.Open(path)
		if err != nil {
			return opened{}, err
		}
		s.use() // held already by this call, so it is not retired yet
		return opened{dir, s}, nil
	}, drop)
	return o.dir, o.session, err
}

// close gives the root mounts up. What was cloned from them stays.
func (f *fileSystem) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.transports {
		if s := t.established(); s != nil {
			s.retire()
		}
	}
}
