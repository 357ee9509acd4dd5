package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// errNotAllowed is a client outside the list.
var errNotAllowed = errors.New("its network is not allowed")

// loopback is who is let in if nobody else is named.
func loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// admit looks at the network of a client, of whatever kind.
func (g *Gateway) admit(conn *net.TCPConn) error {
	return g.allows(conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(), g.isPeer(conn))
}

func (g *Gateway) allows(client netip.Addr, peer bool) error {
	allowed, flag := g.options.Allow, "--allow"
	switch {
	case peer && len(g.options.PeerAllow) == 0:
		return nil
	case peer:
		allowed, flag = g.options.PeerAllow, "--peer-allow"
	case len(allowed) == 0:
		allowed = loopback()
	}
	client = client.Unmap().WithZone("")
	if !slices.ContainsFunc(allowed, func(network netip.Prefix) bool { return network.Contains(client) }) {
		return fmt.Errorf("%w (%s)", errNotAllowed, flag)
	}
	return nil
}

// isPeer reports whether it was a listener for peers that the client came to.
func (g *Gateway) isPeer(conn *net.TCPConn) bool {
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap().WithZone(""), local.Port())
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.where.peer, func(listens netip.AddrPort) bool {
		return listens == local || listens.Port() == local.Port() && listens.Addr().IsUnspecified()
	})
}
