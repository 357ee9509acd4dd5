package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
)

// Group chooses the mount target; a *proxy.Group is one.
type Group interface {
	// Connect returns a connection to the mount target in use, which it may
	// change on the way. It goes on until it has one or the context ends.
	Connect(ctx context.Context) (*net.TCPConn, proxy.Target, error)
	Current() proxy.Target
	// Doubt says that a mount target acknowledges nothing, Answered that bytes
	// came, Failed that it is gone.
	Doubt(t proxy.Target, why error)
	Failed(t proxy.Target, err error)
	Answered(t proxy.Target)
	// OnMove has f called after Current changed, until forget is called. f does not block.
	OnMove(f func(proxy.Move)) (forget func())
}

const (
	defaultMaxConns = 4096
	// descriptorsEach are two sockets, and a pipe (two descriptors) each way
	// while bytes flow; descriptorsElse is for all that is no pair.
	descriptorsEach, descriptorsElse = 6, 64
	// doorstep is how many clients more than the limit may wait to hear whether they may
	// stay. Accepting would else run ahead of refusing, and take all descriptors.
	doorstep = 16
	// dialsAtOnce bounds what a thousand clients do to a mount target that has
	// just come back.
	dialsAtOnce = 128
	// moveLimit is how long a client stays with the mount target that was left
	// when the new one does not answer either.
	moveLimit = 5 * time.Second
	// secureLimit is for one handshake.
	secureLimit = 5 * time.Second
	// readyFor is how long a connection waits for a client that was reset; the
	// kernel's client is back within milliseconds.
	readyFor = 5 * time.Second
)

// Relay passes bytes. Its fields are set before Serve and not changed after.
type Relay struct {
	// Group is required.
	Group Group
	// Secure makes a connection to a mount target a secure one; nil: plain. It
	// may take the connection into what it returns; if it fails the relay closes it.
	Secure func(ctx context.Context, conn *net.TCPConn, target proxy.Target) (net.Conn, error)
	// Admit says why a client is refused; nil: all are admitted. It must not
	// close the connection, nor read from it.
	Admit func(conn *net.TCPConn) error
	// MaxConns is how many clients may be connected; 0: 4096. Where the limit of
	// descriptors is too low for that, fewer.
	MaxConns int
	// MaxPerClient is how many plain connections one address may have; 0: any number.
	MaxPerClient int
	// SpeakFirst is how long a plain client may take to send its first byte, before which
	// it gets no connection to a mount target; 0: it gets one at once. NFS's clients connect
	// when they have something to send; those that only look whether somebody listens
	// then cost the mount target nothing.
	SpeakFirst time.Duration
	// Gate says whether bytes of clients, all of which are plain then, may pass to the mount
	// target; nil: always.
	Gate Gate
	// Log hears of what an operator should know; nil: nobody does.
	Log logrus.FieldLogger

	begin  sync.Once
	lines  lines
	dials  chan struct{} // one for each dial under way
	doors  chan struct{} // one for each handshake with a client under way
	stop   chan struct{} // closed when no more are accepted
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // all goroutines but Serve's
	forget func()         // has the group forget this relay
	// planned: the latest move left a mount target that may well be alive.
	planned atomic.Bool

	looking  sync.Mutex // held by a look, which has fields of its own in pairs
	mu       sync.Mutex // guards the following fields
	stopping bool       // no more are accepted
	over     bool       // no goroutine is started any more
	limit    int        // of connections, by MaxConns and descriptors
	pairs    map[*pair]struct{}
	clients  map[netip.Addr]int // plain ones
	unproven map[netip.Addr]int // clients in their handshake
	arriving int                // clients that were accepted and not yet judged
	ready    []*upstream
	empty    chan struct{} // not nil: closed when the last pair ends
	stats    Stats
	traffic  map[netip.AddrPort]*TargetStats
}

// start makes what every method needs. The context lends its values only: pairs
// end by Shutdown.
func (r *Relay) start(ctx context.Context) {
	r.begin.Do(func() {
		if r.Log == nil {
			silent := logrus.New()
			silent.SetLevel(logrus.PanicLevel)
			r.Log = silent
		}
		r.lines.log = r.Log
		r.dials = make(chan struct{}, dialsAtOnce)
		r.doors = make(chan struct{}, handshakesAtOnce)
		r.stop = make(chan struct{})
		r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
		limit := r.room()
		r.mu.Lock()
		r.limit = limit
		r.pairs = make(map[*pair]struct{})
		r.clients = make(map[netip.Addr]int)
		r.unproven = make(map[netip.Addr]int)
		r.traffic = make(map[netip.AddrPort]*TargetStats)
		r.mu.Unlock()
		r.forget = r.Group.OnMove(r.moved)
		r.spawn(r.watch)
	})
}

// room is how many connections there may be. A relay that ran out of descriptors
// could neither dial nor look anything up: it sheds clients before that.
func (r *Relay) room() int {
	want := r.MaxConns
	if want <= 0 {
		want = defaultMaxConns
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur > 1<<30 {
		return want
	}
	if have := max(1, (int(limit.Cur)-descriptorsElse)/descriptorsEach); have < want {
		r.Log.Warnf("the limit of %d open files has room for %d connections, not %d: raise it (LimitNOFILE)", limit.Cur, have, want)
		return have
	}
	return want
}

// spawn starts a goroutine that Shutdown waits for, unless that is over.
func (r *Relay) spawn(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return false
	}
	r.work.Go(f)
	return true
}

// Serve accepts clients until the context ends or Shutdown is called, and
// returns nil; any other end is an error. It does not close the listener: what is
// in its queue stays for the next one to accept. Clients that were accepted stay
// connected until Shutdown, which must be called.
func (r *Relay) Serve(ctx context.Context, listener *net.TCPListener) error {
	return r.accept(ctx, listener, nil)
}

func (r *Relay) accept(ctx context.Context, listener *net.TCPListener, open Opener) error {
	r.start(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	// A deadline interrupts Accept and leaves the listener as it is.
	woken := make(chan struct{})
	wake := context.AfterFunc(ctx, func() {
		_ = listener.SetDeadline(time.Unix(1, 0))
		close(woken)
	})
	defer func() {
		if !wake() {
			<-woken
			_ = listener.SetDeadline(time.Time{})
		}
	}()
	var pause time.Duration
	for {
		conn, err := listener.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			if err := r.arrive(); err != nil {
				r.refuse(conn, "limit", &r.stats.Shed, err)
			} else if !r.spawn(func() { r.client(conn, open) }) {
				reset(conn)
			}
		case ctx.Err() != nil:
			return nil
		case !temporary(err):
			return err
		default:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			r.lines.warn("accept", "cannot accept clients for now, they wait: %v", err)
			sleep(ctx, pause)
		}
	}
}

// temporary errors of accept pass by themselves: the machine is short of
// something, or a client was gone before it was accepted.
func temporary(err error) bool {
	for _, passing := range []error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.EINTR,
		syscall.EPROTO, syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// sleep pauses, and reports whether the context let it.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Shutdown accepts no more clients, waits until those that are connected have
// gone, and when the context ends first resets them and returns its error. After
// it nothing of the relay is left running.
func (r *Relay) Shutdown(ctx context.Context) error {
	r.start(ctx)
	r.forget()
	r.mu.Lock()
	if !r.stopping {
		r.stopping = true
		close(r.stop)
	}
	if r.empty == nil {
		r.empty = make(chan struct{})
		if len(r.pairs) == 0 {
			close(r.empty)
		}
	}
	empty := r.empty
	r.mu.Unlock()
	var err error
	select {
	case <-empty:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	for _, p := range r.snapshot() {
		p.end(true)
	}
	r.cancel()
	r.work.Wait()
	r.expire(time.Time{})
	return err
}

func (r *Relay) snapshot() []*pair {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*pair, 0, len(r.pairs))
	for p := range r.pairs {
		all = append(all, p)
	}
	return all
}

// reset closes a connection so that the other side hears of it at once, and
// that leaves nothing on our port.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
