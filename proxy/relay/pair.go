package relay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// barrenPause keeps a mount target that takes connections and drops them from
// being called in a tight loop.
const barrenPause = 250 * time.Millisecond

// pair is a client and its connection to a mount target; without the latter it
// is held.
type pair struct {
	relay   *Relay
	address netip.Addr
	client  *net.TCPConn
	// open makes it a secure one; nil: it is plain. wire is what carries bytes: the
	// client itself, or what open made of it.
	open Opener
	wire net.Conn
	// ctx ends with the pair.
	ctx    context.Context
	cancel context.CancelFunc
	ending sync.Once

	up, down direction // client to mount target, and back
	fence    *fence    // nil: there is no gate

	// losing: the mount target's side is gone, another connection is sought.
	// moving: one to the mount target that is in use now is sought.
	losing, moving atomic.Bool
	replaced       atomic.Bool // a connection was found for the lost one
	dismissed      atomic.Bool // the gate never opens again

	mu       sync.Mutex // guards the following fields
	upstream *upstream  // nil: held
	over     bool
	// wants ends when the client wants no more of the mount target.
	wants  context.Context
	wanted context.CancelFunc

	gone int // ticks since the client ended while nobody reads from it; the watch's
}

func newPair(r *Relay, client *net.TCPConn, address netip.Addr) *pair {
	p := &pair{relay: r, client: client, wire: client, address: address}
	p.ctx, p.cancel = context.WithCancel(r.ctx)
	p.wants, p.wanted = context.WithCancel(p.ctx)
	if r.Gate != nil {
		p.fence = &fence{gate: r.Gate, ctx: p.ctx}
	}
	return p
}

// serve passes bytes until both sides have ended, one of them broke, or the
// pair was ended from elsewhere.
func (p *pair) serve() {
	defer p.end(true)
	if p.open != nil && !p.shake() {
		return
	}
	if p.open == nil && p.relay.SpeakFirst > 0 && !p.speaks() {
		return
	}
	if !p.enters() {
		return
	}
	upstream, err := p.relay.take(p.ctx)
	if err != nil {
		return // the client or the relay is gone
	}
	if !p.attach(upstream) {
		upstream.reset()
		return
	}
	var other sync.WaitGroup
	sent := false
	other.Go(func() { sent = p.upward(upstream) })
	received := p.downward(upstream)
	other.Wait()
	if sent && received {
		p.end(false)
	}
}

// speaks waits for the first byte, which it leaves where it is.
func (p *pair) speaks() bool {
	_ = p.client.SetReadDeadline(time.Now().Add(p.relay.SpeakFirst))
	gone, err := ended(p.client)
	_ = p.client.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.relay.count(&p.relay.stats.Shed)
		p.relay.lines.warn("silent", "reset client %s: it said nothing for %s", p.client.RemoteAddr(), p.relay.SpeakFirst)
	}
	return err == nil && !gone
}

func (p *pair) attach(upstream *upstream) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return false
	}
	p.upstream = upstream
	return true
}

// attached returns the connection to the mount target, nil if the pair is held.
func (p *pair) attached() *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.upstream
}

// upward reports whether the client ended its side as it should.
func (p *pair) upward(upstream *upstream) bool {
	if err := p.send(upstream); err != nil {
		p.broken(upstream, err)
		return false
	}
	// The client has sent all and may still be waiting for answers.
	p.wanted()
	closeWrite(upstream.conn)
	return true
}

// downward reports whether the mount target ended its side as it should.
func (p *pair) downward(upstream *upstream) bool {
	if err := p.receive(upstream); err != nil {
		p.broken(upstream, err)
		return false
	}
	if p.wants.Err() == nil {
		if closed(upstream.tcp) {
			// A reset of which the other direction has taken the error.
			p.broken(upstream, syscall.ECONNRESET)
			return false
		}
		// Not what the client wished. It hears of it when there is another one.
		p.replace(upstream, errEnded)
		p.losing.Store(false)
	}
	upstream.ended.Store(true)
	closeWrite(p.wire)
	return true
}

func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

var errEnded = errors.New("the mount target ended the connection")

func closed(conn *net.TCPConn) bool {
	info, err := tcp.ReadInfo(conn)
	return err != nil || info.State == tcp.Closed
}

// broken ends the pair after an error of either side.
func (p *pair) broken(upstream *upstream, err error) {
	if p.ctx.Err() != nil {
		return
	}
	if isBarred(err) {
		p.bar(err)
		p.end(true)
		return
	}
	if !p.clientGone() {
		if !p.replace(upstream, err) {
			return // the other direction does it
		}
	}
	p.end(true)
}

// replace seeks a connection for one that was lost, for the client to find when
// it is back. It returns false if that is being done already.
func (p *pair) replace(upstream *upstream, why error) bool {
	if !p.losing.CompareAndSwap(false, true) {
		return false
	}
	r := p.relay
	r.count(&r.stats.Lost)
	r.Log.Debugf("connection of client %s to %s lost: %v", p.address, upstream.target, why)
	switch {
	case errors.Is(why, syscall.ETIMEDOUT):
		r.Group.Failed(upstream.target, why)
	case !upstream.answered():
		r.Group.Doubt(upstream.target, why)
		if time.Since(upstream.since) < barrenPause && !sleep(p.wants, barrenPause) {
			return true
		}
	}
	if p.replaced.Swap(true) {
		return true
	}
	if found, err := r.connect(p.wants); err == nil {
		r.keep(found)
	}
	return true
}

// end ends the pair once, at whatever it is. The place is given back before the
// client can know, so that there is one when it comes again.
func (p *pair) end(hard bool) {
	p.ending.Do(func() {
		p.mu.Lock()
		p.over = true
		upstream := p.upstream
		p.mu.Unlock()
		if upstream != nil {
			p.relay.settle(upstream, hard)
			if p.fence != nil {
				// Before it leaves: Fence waits for those that it finds.
				p.cancel()
				upstream.reset()
			}
		}
		p.relay.leave(p)
		p.cancel()
		if hard {
			reset(p.client)
			if upstream != nil {
				upstream.reset()
			}
			return
		}
		_ = p.client.Close()
		_ = upstream.conn.Close()
	})
}
