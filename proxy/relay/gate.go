package relay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/oncrpc"
)

// Gate fences a relay: it says whether clients' bytes may pass to the mount target. Its methods
// are called by many goroutines at once.
//
// A fence by a clock alone does not hold, because this process may be paused between a look at
// the clock and a write. What is late is then refused by the server, from which whoever takes
// over has evicted the client. So it is sessions that must not come to be unseen: a relay with
// a gate passes nothing but NFSv4.1 with legible arguments (no RPCSEC_GSS), and resets whoever
// sends anything else.
type Gate interface {
	// Open tells whether bytes may pass now. It does not block, and does not call Fence; it is
	// asked before each write towards the mount target. Whoever closes the gate calls Fence
	// then: what an earlier write left in a socket's buffer asks nobody.
	Open() bool
	// Wait returns when the gate is open, or with the error why it never will be again, or the
	// context's. After the former the client is dismissed: each of its calls is answered as by
	// a server that has done with it for good, so that the kernel's NFS client gives up and
	// whoever waits for it gets an error.
	Wait(ctx context.Context) error
	// Introduce is told the owner (co_ownerid) by which a client introduces itself
	// (EXCHANGE_ID), before that passes. The owner is Introduce's to keep. An error refuses
	// the client, which is reset.
	Introduce(owner []byte) error
	// Confirm finds out, by a look that begins after it was called, whether the client may use
	// the session that it has just got, and of which it has not been told yet. After an error,
	// the context's among them, the client is reset.
	Confirm(ctx context.Context) error
}

var errClosed = errors.New("the gate is closed")

// barred is an error for which the client is reset, and the mount target is not to blame.
type barred struct{ why error }

func (b barred) Error() string { return b.why.Error() }
func (b barred) Unwrap() error { return b.why }

// Fence resets all clients and their connections to the mount target. When it returns, nothing
// that was in the buffers of these connections goes on, even if the other side takes nothing.
// Clients that come again wait for the gate, which therefore is closed before.
func (r *Relay) Fence() {
	for _, p := range r.snapshot() {
		p.end(true)
	}
}

// enters waits until the gate lets clients in, and reports whether it does. One that it never will
// is dismissed.
func (p *pair) enters() bool {
	gate := p.relay.Gate
	if gate == nil {
		return true
	}
	err := gate.Wait(p.ctx)
	if err != nil && p.ctx.Err() == nil {
		p.dismiss(err)
	}
	return err == nil
}

// bar says why a client is reset.
func (p *pair) bar(why error) {
	p.relay.lines.warn("gate", "reset client %s: %v", p.client.RemoteAddr(), why)
}

// fence is what the two directions of a pair know of each other when there is a gate.
type fence struct {
	gate Gate
	// ctx ends with the pair.
	ctx context.Context
	// asked is for the session that the client has asked for and not yet got.
	asked atomic.Pointer[question]
	over  atomic.Bool // nothing comes from the mount target any more
}

// question is a CREATE_SESSION.
type question struct {
	xid       uint32
	confirmed chan struct{} // closed when the client may use the session
}

// ask is called before the call passes, so that its reply cannot be missed.
func (f *fence) ask(xid uint32) error {
	f.asked.Store(&question{xid: xid, confirmed: make(chan struct{})})
	// The other direction sets over and then looks at asked: one of the two sees the other's.
	if f.over.Load() {
		return errEnded
	}
	return nil
}

// await returns when the client may go on.
func (f *fence) await(q *question) error {
	select {
	case <-q.confirmed:
		return nil
	case <-f.ctx.Done():
		return f.ctx.Err()
	}
}

// arrived is told of each reply that begins.
func (f *fence) arrived(xid uint32) error {
	q := f.asked.Load()
	if q == nil || q.xid != xid {
		return nil
	}
	if err := f.gate.Confirm(f.ctx); err != nil {
		return barred{fmt.Errorf("its new session is not confirmed: %w", err)}
	}
	f.asked.Store(nil)
	close(q.confirmed)
	return nil
}

// finish is called when the mount target has ended its side, and reports whether a reply is
// missing.
func (f *fence) finish() bool {
	f.over.Store(true)
	return f.asked.Load() != nil
}

// judge says what a call means to the gate, before it passes.
func (f *fence) judge(head oncrpc.Head) error {
	switch head.Kind {
	case oncrpc.ExchangeID:
		if err := f.gate.Introduce(append([]byte(nil), head.Owner...)); err != nil {
			return barred{fmt.Errorf("it introduces itself as %q: %w", head.Owner, err)}
		}
	case oncrpc.CreateSession:
		return f.ask(head.XID)
	case oncrpc.Ordinary:
	}
	return nil
}
