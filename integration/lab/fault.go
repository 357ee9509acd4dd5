package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// nfsPort is where the servers listen.
const nfsPort = 2049

// faultKind is what is wrong with one of a server's addresses.
type faultKind int

const (
	healthy faultKind = iota
	dropping
	droppingRequests
	droppingAnswers
	rejecting
)

// Drop makes one of the server's addresses a black hole: every packet to and from
// it is swallowed, of open connections too, until Heal.
func (s *Server) Drop(ctx context.Context, address netip.Addr) error {
	return s.fault(ctx, address, dropping)
}

// DropRequests swallows only what comes to the address, DropAnswers only what leaves it.
func (s *Server) DropRequests(ctx context.Context, address netip.Addr) error {
	return s.fault(ctx, address, droppingRequests)
}

// DropAnswers is the other half of Drop.
func (s *Server) DropAnswers(ctx context.Context, address netip.Addr) error {
	return s.fault(ctx, address, droppingAnswers)
}

// Reject makes one of the server's addresses refuse new connections and reset
// open ones with their next packet, until Heal.
func (s *Server) Reject(ctx context.Context, address netip.Addr) error {
	return s.fault(ctx, address, rejecting)
}

// Heal ends Drop and Reject for all of the server's addresses.
func (s *Server) Heal(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
	return s.applyFaults(ctx)
}

func (s *Server) fault(ctx context.Context, address netip.Addr, kind faultKind) error {
	if !slices.Contains(s.addresses, address) {
		return fmt.Errorf("server %s has no address %s, only %v", s.name, address, s.addresses)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[address] = kind
	return s.applyFaults(ctx)
}

// applyFaults replaces the packet filter in one transaction; it is called with mu
// held.
func (s *Server) applyFaults(ctx context.Context) error {
	var in, out strings.Builder
	for address, kind := range s.faults {
		switch kind {
		case dropping:
			fmt.Fprintf(&in, "\t\tip daddr %s drop\n", address)
			fmt.Fprintf(&out, "\t\tip saddr %s drop\n", address)
		case droppingRequests:
			fmt.Fprintf(&in, "\t\tip daddr %s drop\n", address)
		case droppingAnswers:
			fmt.Fprintf(&out, "\t\tip saddr %s drop\n", address)
		case rejecting:
			fmt.Fprintf(&in, "\t\tip daddr %s tcp flags & rst == rst accept\n", address)
			fmt.Fprintf(&in, "\t\tip daddr %s ip protocol tcp reject with tcp reset\n", address)
			fmt.Fprintf(&out, "\t\tip saddr %s tcp flags & rst == 0 drop\n", address)
		}
	}
	rules := fmt.Sprintf(`table ip faults
delete table ip faults
table ip faults {
	chain in {
		type filter hook input priority 0;
%s	}
	chain out {
		type filter hook output priority 0;
%s	}
}
`, in.String(), out.String())
	if err := s.ns.command(ctx, rules, "nft", "-f", "-"); err != nil {
		return fmt.Errorf("set the faults of server %s: %w", s.name, err)
	}
	return nil
}
