package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/catalog"
	"github.com/docker-volume-efs/docker-volume-efs/driver/filesystem"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/driver/tree"
)

const (
	// answerTimeout is how long a call waits for one answer of a file system:
	// well over a busy server's worst, well under a call's budget, so that
	// there is time left to say so.
	answerTimeout = 10 * time.Second
	// callsAtOnce bounds the goroutines, each with its thread, that can wait
	// in the kernel for one file system.
	callsAtOnce = 32
)

// fileSystem is a file system in use on this host.
type fileSystem struct {
	d     *Driver
	spec  filesystem.Spec
	slots chan struct{} // one for each call under way

	checking, refreshing atomic.Bool // one goroutine at a time does each

	mu         sync.Mutex // guards the following fields
	transports map[string]*transport
	trouble    error
	troubled   time.Time
	freshness  freshness
}

func newFileSystem(d *Driver, spec filesystem.Spec) *fileSystem {
	return &fileSystem{
		d: d, spec: spec, slots: make(chan struct{}, callsAtOnce),
		transports: map[string]*transport{},
	}
}

// transport returns the one for these NFS options.
func (f *fileSystem) transport(options nfs.Options) *transport {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.transports[options.String()]
	if t == nil {
		t = &transport{fs: f, options: options}
		f.transports[options.String()] = t
	}
	return t
}

// note keeps what the last answer told about the file system's health.
func (f *fileSystem) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case err == nil:
		if f.trouble != nil {
			f.d.log.WithField("filesystem", f.spec).Infof("answers again after %v", time.Since(f.troubled).Round(time.Second))
		}
		f.trouble = nil
	case f.trouble == nil:
		f.d.log.WithField("filesystem", f.spec).Warnf("in trouble: %v", err)
		f.trouble, f.troubled = err, time.Now()
	default:
		f.trouble = err
	}
}

// health returns what is wrong and since when; nil if nothing is known to be.
func (f *fileSystem) health() (since time.Time, trouble error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.troubled, f.trouble
}

// ask runs question, which may block in the kernel for as long as the server
// is dead, and waits for its answer no longer than the context and
// answerTimeout. A question left behind ends when the server answers again; if it
// then succeeds, undo gets its result (nil if there is nothing to undo).
func ask[T any](ctx context.Context, f *fileSystem, question func() (T, error), undo func(T)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	select {
	case f.slots <- struct{}{}:
	case <-ctx.Done():
		return none, f.silent(ctx)
	}
	answers := make(chan answer, 1)
	f.d.stragglers.Go(func() {
		value, err := question()
		<-f.slots
		answers <- answer{value, err}
	})
	select {
	case a := <-answers:
		f.note(nil)
		return a.value, a.err
	case <-ctx.Done():
	}
	f.d.stragglers.Go(func() {
		if late := <-answers; late.err == nil && undo != nil {
			undo(late.value)
		}
	})
	return none, f.silent(ctx)
}

func (f *fileSystem) silent(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	err := fmt.Errorf("file system %s: %w (nothing within %v)", f.spec, errSilent, answerTimeout)
	f.note(err)
	return err
}

// errRetired reports a session that another call has given up meanwhile.
var errRetired = errors.New("the root mount was replaced")

// inSession runs a question on a transport's mounted root. If the root itself
// has gone stale (the export was replaced, the server restored) the transport is mounted anew,
// once.
func inSession[T any](ctx context.Context, t *transport, question func(*session) (T, error), undo func(T)) (T, error) {
	var none T
	for attempt := 0; ; attempt++ {
		s, err := t.connect(ctx)
		if err != nil {
			return none, err
		}
		value, err := ask(ctx, t.fs, func() (T, error) {
			if !s.use() {
				return none, errRetired
			}
			defer s.release()
			return question(s)
		}, undo)
		if attempt > 0 || !errors.Is(err, syscall.ESTALE) && !errors.Is(err, errRetired) {
			return value, err
		}
		t.fs.d.log.WithField("filesystem", t.fs.spec).Warn("the root mount is stale; mounting anew")
		t.reset(s)
	}
}

// withCatalog runs a question on the file system's catalogue.
func withCatalog[T any](ctx context.Context, f *fileSystem, question func(*catalog.Catalog, *session) (T, error)) (T, error) {
	return inSession(ctx, f.transport(nil), func(s *session) (T, error) {
		c, err := s.openCatalog(f.d.host.name)
		if err != nil {
			var none T
			return none, err
		}
		return question(c, s)
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
	o, err := inSession(ctx, t, func(s *session) (opened, error) {
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
