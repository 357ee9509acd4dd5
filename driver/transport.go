package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/driver/lease"
	"github.com/docker-volume-efs/docker-volume-efs/driver/nfs"
	"github.com/docker-volume-efs/docker-volume-efs/proxy"
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

// root is the directory in which a transport's paths begin. An access point of a volume's
// own has its own root.
func (t *transport) root() string {
	if t.AccessPoint != t.fs.settingsProtection().AccessPoint {
		return "/"
	}
	return t.fs.d.options.Root
}
