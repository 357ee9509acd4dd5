package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/docker-volume-efs/docker-volume-efs/proxy"
	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// upstream is a connection to a mount target. conn is what carries bytes, tcp
// what is under it; without Secure they are one.
type upstream struct {
	target proxy.Target
	conn   net.Conn
	tcp    *net.TCPConn
	since  time.Time

	ended atomic.Bool // its FIN was read

	// handed: both sides have ended, and what is not acknowledged yet will be
	// delivered by the kernel, which tells nobody any more.
	// last: the connection is about to be closed.
	handed, last bool
	counted      tcp.Info // what the totals have; all guarded by the relay's mu

	// The watch's own: the latest look, when bytes last moved, and whether some
	// were already waiting for their acknowledgement then.
	seen  tcp.Info
	moved time.Time
	stuck bool
}

func (u *upstream) reset() { reset(u.tcp) }

// answered reports whether a byte ever came.
func (u *upstream) answered() bool {
	info, err := tcp.ReadInfo(u.tcp)
	return err == nil && info.Received > 0
}

// connect returns a new connection to the mount target in use. It goes on until
// it has one or the context ends.
func (r *Relay) connect(ctx context.Context) (*upstream, error) {
	select {
	case r.dials <- struct{}{}:
		defer func() { <-r.dials }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		conn, target, err := r.Group.Connect(ctx)
		if err == nil {
			var u *upstream
			if u, err = r.secure(ctx, conn, target); err == nil {
				return u, nil
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.lines.warn("connect", "connecting for a client: %v", err)
		if !sleep(ctx, pause) {
			return nil, ctx.Err()
		}
	}
}

func (r *Relay) secure(ctx context.Context, conn *net.TCPConn, target proxy.Target) (*upstream, error) {
	u := &upstream{target: target, conn: conn, tcp: conn, since: time.Now()}
	u.moved = u.since
	if r.Gate != nil {
		// Whatever closes it, the end of this process among that, drops what was not sent.
		_ = conn.SetLinger(0)
	}
	if r.Secure == nil {
		return u, nil
	}
	limited, cancel := context.WithTimeout(ctx, secureLimit)
	defer cancel()
	secured, err := r.Secure(limited, conn, target)
	if err != nil {
		reset(conn)
		if ctx.Err() == nil {
			r.blame(target, err)
		}
		return nil, fmt.Errorf("secure the connection to %s: %w", target, err)
	}
	u.conn = secured
	return u, nil
}

// blame tells the group what a connection that could not be made secure says of the mount
// target.
func (r *Relay) blame(target proxy.Target, err error) {
	switch {
	case errors.Is(err, proxy.ErrIdentity), errors.Is(err, proxy.ErrRefused): // nothing
	case errors.Is(err, proxy.ErrUnproven):
		r.Group.Doubt(target, err)
	default:
		r.Group.Failed(target, err)
	}
}

// take returns a connection for a new client: one that is ready, else a new one.
func (r *Relay) take(ctx context.Context) (*upstream, error) {
	current := r.Group.Current().Addr
	for {
		u := r.pop()
		switch {
		case u == nil:
			return r.connect(ctx)
		case u.target.Addr == current && established(u.tcp):
			return u, nil
		}
		u.reset()
	}
}

func (r *Relay) pop() *upstream {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.ready) - 1
	if last < 0 {
		return nil
	}
	u := r.ready[last]
	r.ready = r.ready[:last]
	return u
}

func established(conn *net.TCPConn) bool {
	info, err := tcp.ReadInfo(conn)
	return err == nil && info.State == tcp.Established
}

// keep holds a connection ready for a client that is about to be reset.
func (r *Relay) keep(u *upstream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		u.reset()
		return
	}
	u.since = time.Now()
	r.ready = append(r.ready, u)
}

// expire drops what nobody took: of before a time, or all for the zero time.
func (r *Relay) expire(before time.Time) {
	r.mu.Lock()
	var old, young []*upstream
	for _, u := range r.ready {
		if before.IsZero() || u.since.Before(before) {
			old = append(old, u)
		} else {
			young = append(young, u)
		}
	}
	r.ready = young
	r.mu.Unlock()
	for _, u := range old {
		u.reset()
	}
}
