package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// handshakesAtOnce bounds the processor time that strangers can ask for.
	handshakesAtOnce = 256
	// handshakesEach is for one address, those that wait for their turn among them:
	// more than another relay dials at once, and few beside all places.
	handshakesEach = 192
	// lingerLimit is how long a client that was refused may take to read why.
	lingerLimit = time.Second
	lingerBytes = 64 << 10
)

// Opener makes a client's connection a secure one and so finds out who it is, or says
// why the client is refused. It ends with its context. It may take the connection into
// what it returns; if it fails the relay closes it.
type Opener func(ctx context.Context, conn *net.TCPConn) (net.Conn, error)

// ServeSecured is [Relay.Serve] for clients that have to prove who they are. A handshake
// may take 5 s, the wait for its turn included. MaxPerClient does not concern these
// clients: all that another relay serves come from one address. A relay with a Gate has no
// such clients: it is an error.
func (r *Relay) ServeSecured(ctx context.Context, listener *net.TCPListener, open Opener) error {
	if r.Gate != nil {
		return errors.New("a relay with a gate serves plain clients only")
	}
	return r.accept(ctx, listener, open)
}

// shake reports whether the client proved who it is. If not it has been told.
func (p *pair) shake() bool {
	r := p.relay
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		fewer(r.unproven, p.address)
	}()
	conn, err := p.secure()
	if err == nil {
		p.wire = &secured{Conn: conn}
		return true
	}
	if p.ctx.Err() != nil {
		return false
	}
	r.count(&r.stats.NotAdmitted)
	r.lines.warn("handshake", "refused client %s: %v", p.client.RemoteAddr(), err)
	// A reset could overtake the alert that says why.
	_ = p.client.CloseWrite()
	_ = p.client.SetReadDeadline(time.Now().Add(lingerLimit))
	_, _ = io.CopyN(io.Discard, p.client, lingerBytes)
	return false
}

func (p *pair) secure() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(p.ctx, secureLimit)
	defer cancel()
	select {
	case p.relay.doors <- struct{}{}:
		defer func() { <-p.relay.doors }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return p.open(ctx, p.client)
}

// secured remembers which side broke: a bad record of the client leaves its TCP
// connection as alive as ever.
type secured struct {
	net.Conn
	broke atomic.Bool
}

func (s *secured) Read(data []byte) (int, error) {
	n, err := s.Conn.Read(data)
	s.note(err)
	return n, err
}

func (s *secured) Write(data []byte) (int, error) {
	n, err := s.Conn.Write(data)
	s.note(err)
	return n, err
}

// NetConn is what is under it; nil: nobody knows.
func (s *secured) NetConn() net.Conn {
	if secure, ok := s.Conn.(interface{ NetConn() net.Conn }); ok {
		return secure.NetConn()
	}
	return nil
}

func (s *secured) CloseWrite() error {
	closeWrite(s.Conn)
	return nil
}

func (s *secured) note(err error) {
	if err != nil && noEOF(err) != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.broke.Store(true)
	}
}

// clientGone reports whether it was the client's side that broke.
func (p *pair) clientGone() bool {
	if s, ok := p.wire.(*secured); ok && s.broke.Load() {
		return true
	}
	return closed(p.client)
}
