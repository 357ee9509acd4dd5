package gateway

import (
	"net/netip"
	"time"
)

// LookEvery makes it look at its files more often than people replace them.
func (i *Identity) LookEvery(pause time.Duration) { i.every = pause }

// Allows says why a client is refused: a test's own are all of this machine.
func (g *Gateway) Allows(client netip.Addr, peer bool) error { return g.allows(client, peer) }
