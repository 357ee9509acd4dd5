package relay

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/tcp"
)

// client serves one accepted connection to its end.
func (r *Relay) client(conn *net.TCPConn, open Opener) {
	// A client that is gone without a word would keep its place for a quarter of an hour if
	// bytes were on their way to it. An error says that it is gone already.
	_ = tcp.Accepted(conn)
	p := r.judge(conn, open)
	r.mu.Lock()
	r.arriving--
	r.mu.Unlock()
	if p != nil {
		p.serve()
	}
}

// arrive says why a client cannot even be judged.
func (r *Relay) arrive() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pairs)+r.arriving >= r.limit+doorstep {
		return tooMany(r.limit)
	}
	r.arriving++
	return nil
}

func tooMany(clients int) error {
	return fmt.Errorf("%d clients are connected, which is the limit", clients)
}

// judge takes a client in, or resets it and returns nil.
func (r *Relay) judge(conn *net.TCPConn, open Opener) *pair {
	if r.Admit != nil {
		if err := r.Admit(conn); err != nil {
			r.refuse(conn, "admit", &r.stats.NotAdmitted, err)
			return nil
		}
	}
	p, shed := r.enter(conn, open)
	switch {
	case shed != nil:
		r.refuse(conn, "limit", &r.stats.Shed, shed)
	case p == nil:
		reset(conn)
	}
	return p
}

// refuse resets a client. Counters are guarded by mu.
func (r *Relay) refuse(conn *net.TCPConn, kind string, counter *uint64, why error) {
	address := conn.RemoteAddr()
	reset(conn)
	r.mu.Lock()
	*counter++
	r.mu.Unlock()
	r.lines.warn(kind, "refused client %s: %v", address, why)
}

// enter takes a place for a client, or says why there is none. No pair and no
// error: the relay is being shut down.
func (r *Relay) enter(conn *net.TCPConn, open Opener) (*pair, error) {
	address := clientAddr(conn)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stopping:
		return nil, nil
	case len(r.pairs) >= r.limit:
		return nil, tooMany(len(r.pairs))
	case open != nil && r.unproven[address] >= handshakesEach:
		return nil, fmt.Errorf("it has %d handshakes under way, which is the limit for one address", handshakesEach)
	case open == nil && r.MaxPerClient > 0 && r.clients[address] >= r.MaxPerClient:
		return nil, fmt.Errorf("it has %d connections, which is the limit for one address", r.clients[address])
	}
	p := newPair(r, conn, address)
	p.open = open
	r.pairs[p] = struct{}{}
	if open == nil {
		r.clients[address]++
	} else {
		r.unproven[address]++
	}
	r.stats.Accepted++
	return p, nil
}

// leave gives the place back.
func (r *Relay) leave(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pairs, p)
	if p.open == nil {
		fewer(r.clients, p.address)
	}
	if r.empty != nil && len(r.pairs) == 0 {
		close(r.empty)
	}
}

// fewer counts down, and forgets what is down to nothing.
func fewer(counts map[netip.Addr]int, address netip.Addr) {
	if counts[address]--; counts[address] <= 0 {
		delete(counts, address)
	}
}

func clientAddr(conn *net.TCPConn) netip.Addr {
	address, _ := conn.RemoteAddr().(*net.TCPAddr)
	return address.AddrPort().Addr().Unmap()
}
